"""Lossless compression of safetensors files: zeros as one bit, the rest as byte planes through zstd.

Format of a packed file (`model.packed`), all numbers little-endian:

    magic "SLIMPACK" · version u32 · length of the header u64 · header chunk · record per tensor · SHA-256 of the rest

The header is the safetensors header byte for byte, so unpacking restores the file exactly. A record is: encoding u8,
BLAKE2b digest of the tensor's bytes (16 bytes), chunks. Records have the order of the tensors' bytes.

- PLANES: a chunk for each byte position, with that byte of every element. Floats are first rotated left by one bit,
  which puts the whole exponent into the top byte: exponents of weights vary little and compress well.
- MASKED: a chunk with one bit per element, set where the element is not zero (all bits 0; -0.0 is not zero), then the
  planes of the non-zero elements.

A chunk is its length u64 and its bytes; the top bit of the length is set if zstd compressed it. The uncompressed size
follows from the header, so a reader allocates nothing that a chunk claims, and refuses a chunk that claims another
size. One tensor is in memory at a time. This module needs no torch.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import zstandard

from slimdiff.errors import UserError
from slimdiff.io.files import CHUNK_BYTES, atomic, damaged
from slimdiff.io.safetensors_header import MAX_HEADER_BYTES, DamagedError, Header, Layout, parse_layout, read_layout

MAGIC = b"SLIMPACK"
VERSION = 1
LEVEL = 16  # of zstd: files 2 % smaller than at 3, in ten times the time; 19 gains only 0.1 % more
TRIAL_LEVEL = 1  # for choosing a tensor's encoding
MAX_BYTES = 8 << 30  # of all tensors of a file, uncompressed
PLANES, MASKED = 0, 1
COMPRESSED = 1 << 63
DIGEST_BYTES, SHA256_BYTES = 16, 32
FLOATS = ("F16", "BF16", "F32", "F64")  # start with a sign bit and the exponent


def pack(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Pack the safetensors file `source` into `target`, atomically.

    Raises:
        UserError: `source` is missing, damaged, or holds more than 8 GiB.
    """
    with _open(source) as file, _name_damaged(source), atomic(target) as temporary:
        header = read_layout(file)
        _check_total(header)
        with temporary.open("wb") as out:
            digest = hashlib.sha256()

            def write(part: bytes) -> None:
                digest.update(part)
                out.write(part)

            write(MAGIC + struct.pack("<IQ", VERSION, len(header.text)) + _chunk(header.text))
            for tensor in header.tensors:
                write(_pack_tensor(_read_exactly(file, tensor.n_bytes), tensor))
            out.write(digest.digest())


def unpack(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Restore the safetensors file packed in `source` into `target` byte for byte, atomically.

    Raises:
        UserError: as `read`.
    """
    with atomic(target) as temporary, temporary.open("wb") as out:
        for part in read(source):
            out.write(part)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` starts like a packed file; False if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield the bytes of the safetensors file packed in `path`: the header with its length, then each tensor.

    The digest of the file is checked before the first part is yielded, the digest of each tensor before that tensor.

    Raises:
        UserError: the file is missing, damaged, of a newer version, or unpacks to more than 8 GiB.
    """
    with _open(path) as file, _name_damaged(path):
        end = _check_digest(file)
        magic, version = _read_exactly(file, len(MAGIC)), struct.unpack("<I", _read_exactly(file, 4))[0]
        if magic != MAGIC:
            raise DamagedError(f"it does not start with {MAGIC.decode()}")
        if version != VERSION:
            raise UserError(f"{path} is packed in version {version}, this slimdiff reads {VERSION}: update slimdiff")
        length = _check_length(_read_u64(file), MAX_HEADER_BYTES)
        header = parse_layout(_read_chunk(file, length, end))
        _check_total(header)
        yield struct.pack("<Q", len(header.text)) + header.text
        for tensor in header.tensors:
            yield _unpack_tensor(file, tensor, end)
        if file.tell() != end:
            raise DamagedError("data follow the last tensor")


def _pack_tensor(content: bytes, tensor: Layout) -> bytes:
    """Return a tensor's record in the encoding that a fast zstd level makes shorter."""
    elements = np.frombuffer(content, dtype=f"<u{tensor.width}")
    encoding = PLANES
    if not elements.all():
        encoding = min((PLANES, MASKED), key=lambda candidate: len(_encode(elements, tensor, candidate, TRIAL_LEVEL)))
    return bytes([encoding]) + _digest(content) + _encode(elements, tensor, encoding, LEVEL)


def _encode(elements: np.ndarray, tensor: Layout, encoding: int, level: int) -> bytes:
    """Return a tensor's chunks in `encoding` at zstd's `level`."""
    if encoding == PLANES:
        return _planes(elements, tensor, level)
    kept = elements != 0
    return _chunk(np.packbits(kept).tobytes(), level) + _planes(elements[kept], tensor, level)


def _unpack_tensor(file: BinaryIO, tensor: Layout, end: int) -> bytes:
    """Read a record and return the tensor's bytes."""
    encoding, digest = _read_exactly(file, 1)[0], _read_exactly(file, DIGEST_BYTES)
    if encoding == PLANES:
        elements = _read_planes(file, tensor.elements, tensor, end)
    elif encoding == MASKED:
        mask = np.frombuffer(_read_chunk(file, -(-tensor.elements // 8), end), dtype=np.uint8)
        kept = np.unpackbits(mask, count=tensor.elements).astype(bool)
        elements = np.zeros(tensor.elements, dtype=f"<u{tensor.width}")
        elements[kept] = _read_planes(file, int(kept.sum()), tensor, end)
    else:
        raise DamagedError(f"tensor {tensor.name!r} has the unknown encoding {encoding}")
    content = elements.tobytes()
    if _digest(content) != digest:
        raise DamagedError(f"tensor {tensor.name!r} does not match its digest")
    return content


def _planes(elements: np.ndarray, tensor: Layout, level: int) -> bytes:
    """Return a chunk for each byte position of the elements."""
    if tensor.dtype in FLOATS:
        elements = _rotate_left(elements, 1)
    rows = elements.view(np.uint8).reshape(-1, tensor.width)
    return b"".join(_chunk(rows[:, position].tobytes(), level) for position in range(tensor.width))


def _read_planes(file: BinaryIO, count: int, tensor: Layout, end: int) -> np.ndarray:
    """Read `count` elements that `_planes` wrote."""
    rows = np.empty((count, tensor.width), dtype=np.uint8)
    for position in range(tensor.width):
        rows[:, position] = np.frombuffer(_read_chunk(file, count, end), dtype=np.uint8)
    elements = rows.reshape(-1).view(f"<u{tensor.width}")
    return _rotate_left(elements, 8 * tensor.width - 1) if tensor.dtype in FLOATS else elements


def _rotate_left(elements: np.ndarray, bits: int) -> np.ndarray:
    left, right = np.array([bits, 8 * elements.itemsize - bits], dtype=elements.dtype)
    rotated: np.ndarray = (elements << left) | (elements >> right)
    return rotated


def _chunk(content: bytes, level: int = LEVEL) -> bytes:
    """Return `content` with its length, compressed if that is shorter."""
    compressed = zstandard.ZstdCompressor(level=level).compress(content)
    if len(compressed) < len(content):
        return struct.pack("<Q", len(compressed) | COMPRESSED) + compressed
    return struct.pack("<Q", len(content)) + content


def _read_chunk(file: BinaryIO, length: int, end: int) -> bytes:
    """Read a chunk of `length` uncompressed bytes; refuse another size before allocating anything."""
    stored = _read_u64(file)
    stored_length = _check_length(stored & ~COMPRESSED, end - file.tell())
    if not stored & COMPRESSED:
        if stored_length != length:
            raise DamagedError(f"a chunk holds {stored_length} bytes instead of {length}")
        return _read_exactly(file, length)
    frame = _read_exactly(file, stored_length)
    try:
        # zstandard allocates the size that the frame claims, whatever max_output_size says.
        if (claimed := zstandard.frame_content_size(frame)) != length:
            raise DamagedError(f"a chunk claims {claimed} bytes instead of {length}")
        content: bytes = zstandard.ZstdDecompressor().decompress(frame, max_output_size=length)
    except zstandard.ZstdError as error:
        raise DamagedError(str(error)) from None
    return content


def _check_total(header: Header) -> None:
    if header.n_bytes > MAX_BYTES:
        raise DamagedError(f"its tensors take {header.n_bytes} bytes; allowed: at most {MAX_BYTES}")


def _check_digest(file: BinaryIO) -> int:
    """Check the digest of the file, rewind it, and return where the records end."""
    end = os.fstat(file.fileno()).st_size - SHA256_BYTES
    if end < len(MAGIC):
        raise DamagedError("it is cut short")
    digest, left = hashlib.sha256(), end
    while left:
        part = _read_exactly(file, min(left, CHUNK_BYTES))
        digest.update(part)
        left -= len(part)
    if _read_exactly(file, SHA256_BYTES) != digest.digest():
        raise DamagedError("it does not match the digest at its end")
    file.seek(0)
    return end


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    try:
        file = Path(path).open("rb")  # noqa: SIM115  closed below
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a file") from None
    with file:
        yield file


@contextlib.contextmanager
def _name_damaged(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        raise damaged(path, error) from None


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _read_u64(file: BinaryIO) -> int:
    value: int = struct.unpack("<Q", _read_exactly(file, 8))[0]
    return value


def _check_length(length: int, max_length: int) -> int:
    if not 0 <= length <= max_length:
        raise DamagedError(f"a length of {length} bytes where at most {max_length} fit")
    return length


def _read_exactly(file: BinaryIO, length: int) -> bytes:
    content = file.read(length)
    if len(content) != length:
        raise DamagedError("it is cut short")
    return content
