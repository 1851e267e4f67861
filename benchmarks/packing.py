"""Packed checkpoints against gzip, zstd of shuffled bytes, ZipNN and Blosc2: sizes, and the time to write and read.

    python benchmarks/packing.py --out results/benchmarks.json
    python benchmarks/packing.py --out results/benchmarks.json --cells results/cells --seed 0

The first command packs the default networks, untrained; the second the trained cells of a run. Sizes are fractions of
the safetensors file, times CPU seconds of one thread, interleaved with our format. ZipNN and Blosc2 are optional:
`pip install --target DIR zipnn blosc2`, then `PYTHONPATH=DIR`.
"""

import argparse
import functools
import gzip
import io
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zstandard
from _record import interleaved, record

from slimdiff.checkpoints import model
from slimdiff.compression.steps import apply_steps
from slimdiff.config.resolve import train_settings
from slimdiff.io import packed
from slimdiff.io.safetensors_header import LENGTH_BYTES, Layout, parse_layout
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import GZIP_LEVEL
from slimdiff.runtime.devices import pick_device

CONFIG = Path(__file__).parents[1] / "config.yaml"
STEPS: dict[str, list[dict[str, Any]]] = {
    "fp32": [],
    "bf16": [{"quantize": {"weights": "bf16"}}],
    "8bit": [{"quantize": {"weights": "8bit"}}],
    **{
        f"{amount:.0%} zeros": [{"prune": {"method": "random", "amount": amount, "scope": "global"}}]
        for amount in (0.3, 0.5, 0.7, 0.9)
    },
}
BLOSC2_LEVEL = 8  # zstd 15; 9 is zstd 22
ZIPNN_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Format:
    """Lossless compression of the bytes of a safetensors file."""

    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes], bytes]


def split(content: bytes) -> Iterator[tuple[Layout | None, bytes]]:
    """Yield the header of a safetensors file and each tensor's bytes with its layout."""
    start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    yield None, content[:start]
    for tensor in parse_layout(content[LENGTH_BYTES:start]).tensors:
        yield tensor, content[start : start + tensor.n_bytes]
        start += tensor.n_bytes


def by_parts(
    compress: Callable[[bytes, Layout | None], bytes], decompress: Callable[[bytes, Layout | None], bytes]
) -> Format:
    """Return the format that compresses header and tensors one by one, each after its length."""

    def pack(content: bytes) -> bytes:
        parts = [compress(part, tensor) for tensor, part in split(content)]
        return b"".join(struct.pack("<I", len(part)) + part for part in parts)

    def unpack(content: bytes) -> bytes:
        file = io.BytesIO(content)

        def part(tensor: Layout | None) -> bytes:
            return decompress(file.read(struct.unpack("<I", file.read(4))[0]), tensor)

        head = part(None)
        return head + b"".join(part(tensor) for tensor in parse_layout(head[LENGTH_BYTES:]).tensors)

    return Format(pack, unpack)


def ours(folder: Path) -> Format:
    """Return the format of slimdiff.io.packed."""
    source, target = folder / "source.safetensors", folder / "model.packed"

    def pack(content: bytes) -> bytes:
        source.write_bytes(content)
        packed.pack(source, target)
        return target.read_bytes()

    def unpack(content: bytes) -> bytes:
        target.write_bytes(content)
        return b"".join(packed.read(target))

    return Format(pack, unpack)


def zstd(content: bytes) -> bytes:
    """Compress with zstd at our format's level."""
    return zstandard.ZstdCompressor(level=packed.LEVEL).compress(content)


def shuffled(one_stream: bool) -> Format:
    """Return zstd of shuffled bytes: the n-th bytes of all elements follow each other in each tensor."""

    def shuffle(part: bytes, tensor: Layout | None) -> bytes:
        return np.frombuffer(part, np.uint8).reshape(-1, tensor.width).T.tobytes() if tensor else part

    def unshuffle(part: bytes, tensor: Layout | None) -> bytes:
        return np.frombuffer(part, np.uint8).reshape(tensor.width, -1).T.tobytes() if tensor else part

    if not one_stream:
        return by_parts(
            lambda part, tensor: zstd(shuffle(part, tensor)),
            lambda part, tensor: unshuffle(zstandard.decompress(part), tensor),
        )
    plain = by_parts(shuffle, unshuffle)
    return Format(
        lambda content: zstd(plain.pack(content)), lambda content: plain.unpack(zstandard.decompress(content))
    )


def blosc2(bits: bool) -> Format:
    """Return Blosc2's zstd after its shuffle of bits or bytes, each tensor as one block."""
    import blosc2 as library

    library.set_nthreads(1)
    filters = [library.Filter.BITSHUFFLE if bits else library.Filter.SHUFFLE]
    options = {"codec": library.Codec.ZSTD, "clevel": BLOSC2_LEVEL, "filters": filters, "filters_meta": [0]}

    def compress(part: bytes, tensor: Layout | None) -> bytes:
        width = tensor.width if tensor else 1
        result: bytes = library.compress2(part, typesize=width, blocksize=len(part), nthreads=1, **options)
        return result

    def decompress(part: bytes, tensor: Layout | None) -> bytes:
        result: bytes = library.decompress2(part)
        return result

    return by_parts(compress, decompress)


def zipnn() -> Format:
    """Return ZipNN's format for floats, with the best method for each tensor, and zstd for everything else."""
    from zipnn import ZipNN

    @functools.cache
    def codec(dtype: str, method: str) -> Any:
        return ZipNN(method=method, bytearray_dtype=ZIPNN_DTYPES[dtype], threads=1, zstd_level=packed.LEVEL)

    def compress(part: bytes, tensor: Layout | None) -> bytes:
        candidates = [zstd(part)]
        if tensor and tensor.dtype in ZIPNN_DTYPES:  # it writes into its input
            candidates += [bytes(codec(tensor.dtype, m).compress(bytearray(part))) for m in ("AUTO", "ZSTD")]
        best = min(range(len(candidates)), key=lambda index: len(candidates[index]))
        return bytes([best]) + candidates[best]

    def decompress(part: bytes, tensor: Layout | None) -> bytes:
        if part[0] == 0 or tensor is None:
            return zstandard.decompress(part[1:])
        return bytes(codec(tensor.dtype, ("AUTO", "ZSTD")[part[0] - 1]).decompress(bytearray(part[1:])))

    return by_parts(compress, decompress)


def formats() -> dict[str, Format]:
    """Return the formats to compare with ours, without libraries that are not installed."""
    found = {
        "gzip": Format(lambda content: gzip.compress(content, GZIP_LEVEL), gzip.decompress),
        "shuffled bytes, zstd": shuffled(one_stream=True),
        "shuffled bytes, zstd per tensor": shuffled(one_stream=False),
    }
    optional: dict[str, Callable[[], Format]] = {
        "Blosc2, bitshuffle": functools.partial(blosc2, bits=True),
        "Blosc2, shuffle": functools.partial(blosc2, bits=False),
        "ZipNN": zipnn,
    }
    for name, build in optional.items():
        try:
            found[name] = build()
        except ImportError as error:
            print(f"skipped {name}: {error.name} is not installed", file=sys.stderr)
    return found


def untrained(folder: Path) -> dict[str, Path]:
    """Write the default networks with random weights into `folder`, compressed in several ways; return the paths."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    paths = {}
    for family in ("ncsn", "ddpm"):
        settings = train_settings(config, "mnist", family, "plain", 0)
        for name, steps in STEPS.items():
            network = build_network(settings["model"], seed=0)
            structure = apply_steps(network, steps, 0)
            path = paths[f"{family}, {name}"] = folder / f"{family} {name}.safetensors"
            header = {"model": settings["model"], "training": settings["training"], "structure": structure}
            model.write_model(path, network, header)
    return paths


def seconds(call: Callable[[], Any]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def compare(source: Path, others: dict[str, Format], own: Format, rounds: int) -> dict[str, Any]:
    """Return sizes, and the ratios other / packed of the times to write and to read."""
    content = source.read_bytes()
    ready = own.pack(content)
    entry: dict[str, Any] = {"size_bytes": len(content), "packed": len(ready) / len(content)}
    for name, other in others.items():
        result = other.pack(content)
        if other.unpack(result) != content or own.unpack(ready) != content:
            raise RuntimeError(f"{source} does not survive {name} or our format")
        entry[name] = len(result) / len(content)
        write = (functools.partial(seconds, functools.partial(each.pack, content)) for each in (own, other))
        read = (
            functools.partial(seconds, functools.partial(each.unpack, stored))
            for each, stored in ((own, ready), (other, result))
        )
        entry[f"write: {name} / packed"] = interleaved(*write, rounds)  # type: ignore[call-arg, arg-type]
        entry[f"read: {name} / packed"] = interleaved(*read, rounds)  # type: ignore[call-arg, arg-type]
    return entry


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--cells", type=Path, help="folder of trained cells")
    parser.add_argument("--seed", type=int, default=0, help="seed of these cells")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement")
    arguments, sys.argv[1:] = parser.parse_known_args()
    pick_device(0, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.cells:
            found = sorted(arguments.cells.glob(f"**/seed{arguments.seed}/model.safetensors"))
            paths = {path.parent.relative_to(arguments.cells).as_posix(): path for path in found}
        else:
            paths = untrained(folder)
        others, own = formats(), ours(folder)
        measured = {cell: compare(path, others, own, arguments.rounds) for cell, path in paths.items()}
    record("packed checkpoints against other formats (fractions of the file, seconds)", measured, 1)
