"""Safetensors files without loss in fewer bytes: zeros as one bit, the rest by byte planes through zstd.

The packed file (`model.packed`), all numbers little-endian:

    magic "SLIMPACK" · version u32 · length of the header u64 · header chunk · a record per tensor · SHA-256 of all that

The header is that of the safetensors file, byte for byte, so that unpacking gives the same file again. Records follow
in the order in which the tensors lie in it: encoding u8, a digest of the tensor's bytes (BLAKE2b, 16 bytes), chunks.

- PLANES: the first bytes of all elements, then the second, and so on, each plane a chunk. Of floats the bits are
  rotated by one first, which brings sign and exponent apart: exponents of weights are alike, and fill a plane.
- MASKED: one bit per element that says whether it is other than zero (a zero is all bits 0: -0.0 is kept), a chunk;
  then the planes of those that are.

A chunk is its length u64, with the top bit set where it is compressed, and its bytes; what it holds is known from the
header alone, so nothing is allocated on a file's word: whatever says otherwise is refused. One tensor is in memory at a
time. No torch, and no more of safetensors than its layout: its header is a length u64 and JSON.
"""

import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import zstandard

from slimdiff.errors import UserError
from slimdiff.io.files import CHUNK_BYTES, atomic

MAGIC = b"SLIMPACK"
VERSION = 1
LEVEL = 16  # of zstd: files 2 % smaller than at 3, for ten times the time; 19 gains 0.1 % more (docs/decisions.md)
TRIAL_LEVEL = 1  # at which a tensor's encoding is chosen
MAX_HEADER_BYTES = 100 << 20  # what safetensors itself allows
MAX_BYTES = 8 << 30  # of all tensors of a file, before packing and after unpacking
PLANES, MASKED = 0, 1
COMPRESSED = 1 << 63
DIGEST_BYTES, SHA256_BYTES = 16, 32
WIDTHS = {  # bytes of an element by the format's names
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
FLOATS = ("F16", "BF16", "F32", "F64")  # whose first bits are sign and exponent


class Layout(NamedTuple):
    """A tensor as the header of its file describes it."""

    name: str
    dtype: str
    elements: int

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return WIDTHS[self.dtype]


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    text: bytes  # as it stands in the file
    tensors: tuple[Layout, ...]  # in the order of their bytes


class _Damaged(Exception):
    """What is wrong with a file; its reader adds the name and the way out."""


def pack(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Write the safetensors file `source` packed to `target`, atomically.

    Raises:
        UserError: `source` is missing, is no whole safetensors file, or holds more than 8 GiB.
    """
    with _opened(source) as file, _named(source), atomic(target) as temporary:
        size = os.fstat(file.fileno()).st_size
        header = _parse(_exactly(file, _limited(_u64(file), min(size, MAX_HEADER_BYTES))))
        if file.tell() + sum(tensor.elements * tensor.width for tensor in header.tensors) != size:
            raise _Damaged("its tensors end elsewhere than the file")
        with temporary.open("wb") as out:
            digest = hashlib.sha256()

            def write(part: bytes) -> None:
                digest.update(part)
                out.write(part)

            write(MAGIC + struct.pack("<IQ", VERSION, len(header.text)) + _chunk(header.text))
            for tensor in header.tensors:
                write(_pack_tensor(_exactly(file, tensor.elements * tensor.width), tensor))
            out.write(digest.digest())


def unpack(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Write the safetensors file that was packed into `source` to `target`, byte for byte, atomically.

    Raises:
        UserError: as `read`.
    """
    with atomic(target) as temporary, temporary.open("wb") as out:
        for part in read(source):
            out.write(part)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether `path` begins as packed files do; False where there is no such file."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The bytes of the safetensors file that was packed into `path`: its header with the length, then each tensor.

    Nothing is handed out before the digest of the whole file was checked, and no tensor before its own was.

    Raises:
        UserError: the file is missing, damaged, of a later version, or would become larger than 8 GiB.
    """
    with _opened(path) as file, _named(path):
        end = _verified(file)
        magic, version = _exactly(file, len(MAGIC)), struct.unpack("<I", _exactly(file, 4))[0]
        if magic != MAGIC:
            raise _Damaged("it does not begin as a packed file does")
        if version != VERSION:
            raise UserError(f"{path} is packed in version {version}; known here: {VERSION}: take a newer slimdiff")
        length = _limited(_u64(file), MAX_HEADER_BYTES)
        header = _parse(_read_chunk(file, length, end))
        yield struct.pack("<Q", len(header.text)) + header.text
        for tensor in header.tensors:
            yield _unpack_tensor(file, tensor, end)
        if file.tell() != end:
            raise _Damaged("something follows its last tensor")


def _pack_tensor(content: bytes, tensor: Layout) -> bytes:
    """The record of a tensor, in the encoding that is shorter at a fast level."""
    elements = np.frombuffer(content, dtype=f"<u{tensor.width}")
    encoding = PLANES
    if not elements.all():
        encoding = min((PLANES, MASKED), key=lambda which: len(_encoded(elements, tensor, which, TRIAL_LEVEL)))
    return bytes([encoding]) + _digest(content) + _encoded(elements, tensor, encoding, LEVEL)


def _encoded(elements: np.ndarray, tensor: Layout, encoding: int, level: int) -> bytes:
    """The chunks of a tensor in `encoding`, compressed at `level` of zstd."""
    if encoding == PLANES:
        return _planes(elements, tensor, level)
    kept = elements != 0
    return _chunk(np.packbits(kept).tobytes(), level) + _planes(elements[kept], tensor, level)


def _unpack_tensor(file: BinaryIO, tensor: Layout, end: int) -> bytes:
    """The bytes of a tensor from its record."""
    encoding, digest = _exactly(file, 1)[0], _exactly(file, DIGEST_BYTES)
    if encoding == PLANES:
        elements = _read_planes(file, tensor.elements, tensor, end)
    elif encoding == MASKED:
        mask = np.frombuffer(_read_chunk(file, -(-tensor.elements // 8), end), dtype=np.uint8)
        kept = np.unpackbits(mask, count=tensor.elements).astype(bool)
        elements = np.zeros(tensor.elements, dtype=f"<u{tensor.width}")
        elements[kept] = _read_planes(file, int(kept.sum()), tensor, end)
    else:
        raise _Damaged(f"tensor {tensor.name!r} has the unknown encoding {encoding}")
    content = elements.tobytes()
    if _digest(content) != digest:
        raise _Damaged(f"tensor {tensor.name!r} does not have its digest")
    return content


def _planes(elements: np.ndarray, tensor: Layout, level: int) -> bytes:
    """Chunks of the elements' bytes, one for each place in an element."""
    if tensor.dtype in FLOATS:
        elements = _rotated(elements, 1)
    rows = elements.view(np.uint8).reshape(-1, tensor.width)
    return b"".join(_chunk(rows[:, place].tobytes(), level) for place in range(tensor.width))


def _read_planes(file: BinaryIO, count: int, tensor: Layout, end: int) -> np.ndarray:
    """The way back of `_planes`: `count` elements."""
    rows = np.empty((count, tensor.width), dtype=np.uint8)
    for place in range(tensor.width):
        rows[:, place] = np.frombuffer(_read_chunk(file, count, end), dtype=np.uint8)
    elements = rows.reshape(-1).view(f"<u{tensor.width}")
    return _rotated(elements, 8 * tensor.width - 1) if tensor.dtype in FLOATS else elements


def _rotated(elements: np.ndarray, bits: int) -> np.ndarray:
    """Each element's bits rotated to the left."""
    left, right = np.array([bits, 8 * elements.itemsize - bits], dtype=elements.dtype)
    rotated: np.ndarray = (elements << left) | (elements >> right)
    return rotated


def _chunk(content: bytes, level: int = LEVEL) -> bytes:
    """`content` with its length, compressed where that makes it shorter."""
    compressed = zstandard.ZstdCompressor(level=level).compress(content)
    if len(compressed) < len(content):
        return struct.pack("<Q", len(compressed) | COMPRESSED) + compressed
    return struct.pack("<Q", len(content)) + content


def _read_chunk(file: BinaryIO, length: int, end: int) -> bytes:
    """The `length` bytes of a chunk; refused before anything is allocated if it stands for another number."""
    stored = _u64(file)
    inside = _limited(stored & ~COMPRESSED, end - file.tell())
    if not stored & COMPRESSED:
        if inside != length:
            raise _Damaged(f"a chunk holds {inside} bytes instead of {length}")
        return _exactly(file, length)
    content = _exactly(file, inside)
    try:
        # The frame's own word is what zstandard allocates by, whatever limit it is given.
        if zstandard.frame_content_size(content) != length:
            raise _Damaged(f"a chunk stands for another number of bytes than {length}")
        found = zstandard.ZstdDecompressor().decompress(content, max_output_size=length)
    except zstandard.ZstdError as error:
        raise _Damaged(str(error)) from None
    return found


def _parse(text: bytes) -> Header:
    """The header of a safetensors file; sizes, types and the order of the tensors are checked."""
    try:
        entries = json.loads(text)
        found = [
            (*map(int, entry["data_offsets"]), name, entry["dtype"], math.prod(map(abs, entry["shape"])))
            for name, entry in entries.items()
            if name != "__metadata__"
        ]
        found.sort()
        position, tensors = 0, []
        for start, stop, name, dtype, elements in found:
            if start != position or stop - start != elements * WIDTHS[dtype]:
                raise _Damaged(f"tensor {name!r} is not where its header says")
            position = stop
            tensors.append(Layout(name, dtype, elements))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Damaged(f"its header is none of a safetensors file: {error or type(error).__name__}") from None
    if position > MAX_BYTES:
        raise _Damaged(f"its tensors would take {position} bytes, and at most {MAX_BYTES} are packed")
    return Header(text, tuple(tensors))


def _verified(file: BinaryIO) -> int:
    """Where the records end, after the digest of the whole file was checked; the file is back at its beginning."""
    end = os.fstat(file.fileno()).st_size - SHA256_BYTES
    if end < len(MAGIC):
        raise _Damaged("it is cut short")
    digest, left = hashlib.sha256(), end
    while left:
        part = _exactly(file, min(left, CHUNK_BYTES))
        digest.update(part)
        left -= len(part)
    if _exactly(file, SHA256_BYTES) != digest.digest():
        raise _Damaged("it does not have the digest at its end")
    file.seek(0)
    return end


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    try:
        file = Path(path).open("rb")  # noqa: SIM115  closed below
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a file") from None
    with file:
        yield file


@contextlib.contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except _Damaged as why:
        raise UserError(f"{path} is damaged ({why}): delete it and run again to rebuild it") from None


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _u64(file: BinaryIO) -> int:
    value: int = struct.unpack("<Q", _exactly(file, 8))[0]
    return value


def _limited(length: int, most: int) -> int:
    if not 0 <= length <= most:
        raise _Damaged(f"{length} bytes are announced where at most {most} can be")
    return length


def _exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise _Damaged("it is cut short")
    return content
