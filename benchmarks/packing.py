"""Packed checkpoints beside gzip: sizes of trained cells, and how long each takes to write and to read.

With --cells a folder of results, say results/cells, its models are packed; without, an untrained NCSN, of which 30 %,
50 % and 70 % were set to zero at random. Sizes are fractions of the safetensors file, times seconds of one thread.
"""

import argparse
import gzip
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _network import MODEL, TRAINING
from _record import interleaved, record

from slimdiff.checkpoints import model
from slimdiff.compression.steps import apply_steps
from slimdiff.io import packed
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import GZIP_LEVEL
from slimdiff.runtime.devices import pick_device

AMOUNTS = (0.0, 0.3, 0.5, 0.7)


def untrained(folder: Path) -> dict[str, Path]:
    """Models by name, written into `folder`."""
    paths = {}
    for amount in AMOUNTS:
        network = build_network(MODEL)
        steps = [{"prune": {"method": "random", "amount": amount}}] if amount else []
        apply_steps(network, steps, 0)
        paths[f"random-{amount:.0%}"] = path = folder / f"{amount}.safetensors"
        header = {"model": MODEL, "training": {**TRAINING, "groups": 1}, "structure": []}
        model.write_model(path, network, header)
    return paths


def seconds(do: Callable[[], Any]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    do()
    return time.process_time() - start


def compare(source: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Sizes, and the ratios gzip / packed of the times to write and to read."""
    target, zipped, raw = folder / "model.packed", folder / "model.gz", source.read_bytes()

    def zip_it() -> None:
        zipped.write_bytes(gzip.compress(source.read_bytes(), GZIP_LEVEL))

    write = interleaved(
        lambda: seconds(lambda: packed.pack(source, target)),
        lambda: seconds(zip_it),
        rounds,
    )
    read = interleaved(
        lambda: seconds(lambda: b"".join(packed.read(target))),
        lambda: seconds(lambda: gzip.decompress(zipped.read_bytes())),
        rounds,
    )
    if b"".join(packed.read(target)) != raw:
        raise RuntimeError(f"{source} came back as another file")
    return {
        "size_bytes": len(raw),
        "gzip": zipped.stat().st_size / len(raw),
        "packed": target.stat().st_size / len(raw),
        "write: gzip / packed": write,
        "read: gzip / packed": read,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--cells", type=Path, help="folder of trained cells")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement")
    arguments, sys.argv[1:] = parser.parse_known_args()
    pick_device(0, 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.cells:
            found = sorted(arguments.cells.glob("**/seed0/model.safetensors"))
            paths = {path.parent.relative_to(arguments.cells).as_posix(): path for path in found}
        else:
            paths = untrained(folder)
        measured = {cell: compare(path, folder, arguments.rounds) for cell, path in paths.items()}
    record("packed checkpoints beside gzip (fractions of the file, seconds)", measured, 1)
