"""Headers of safetensors files, read and checked without torch.

A safetensors file holds the header's length (u64, little-endian), the header (JSON), and the tensors back to back.
slimdiff keeps its own header under the metadata key "slimdiff": canonical JSON with the `kind` of file, the SHA-256 of
the tensors, and a digest of itself.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from slimdiff.errors import UserError
from slimdiff.io.files import damaged
from slimdiff.io.records import check_digest

KEY = "slimdiff"
UNDIGESTED = ("kind", "sha256")  # checked on their own
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100 << 20  # the limit of safetensors itself
WIDTHS = {  # dtype → bytes of an element
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


class DamagedError(Exception):
    """What is wrong with a file; the caller adds the file's name and the fix."""


class Layout(NamedTuple):
    """A tensor as the header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return WIDTHS[self.dtype]

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.elements * self.width


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    text: bytes  # as stored
    metadata: dict[str, str]
    tensors: tuple[Layout, ...]  # in the order of their bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)


def read_header(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Return slimdiff's header of a file of this `kind`, without reading a tensor.

    Raises:
        UserError: the file is missing, damaged, of another kind, or not written by slimdiff.
    """
    try:
        with Path(path).open("rb") as file:
            header = read_layout(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (DamagedError, OSError) as error:
        raise damaged(path, error) from None
    return check_header(path, header.metadata, kind)


def read_layout(file: BinaryIO) -> Header:
    """Read the header of an open safetensors file and leave `file` at the first tensor.

    Raises:
        DamagedError: the header is invalid, or the file is shorter or longer than the header says.
    """
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(LENGTH_BYTES)
    if len(prefix) != LENGTH_BYTES:
        raise DamagedError("it is cut short")
    (length,) = struct.unpack("<Q", prefix)
    limit = min(size - LENGTH_BYTES, MAX_HEADER_BYTES)
    if length > limit:
        raise DamagedError(f"its header has {length} bytes; allowed: at most {limit}")
    header = parse_layout(file.read(length))
    if LENGTH_BYTES + length + header.n_bytes != size:
        raise DamagedError("its size does not match its header")
    return header


def parse_layout(text: bytes) -> Header:
    """Parse the header `text` of a safetensors file and check the types, sizes and order of the tensors.

    Raises:
        DamagedError: the header is invalid.
    """
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", None) or {}
        spans = sorted(
            (*map(int, entry["data_offsets"]), name, entry["dtype"], tuple(map(abs, entry["shape"])))
            for name, entry in entries.items()
        )
        position, tensors = 0, []
        for start, stop, name, dtype, shape in spans:
            tensor = Layout(name, dtype, shape)
            if start != position or stop - start != tensor.n_bytes:
                raise DamagedError(f"tensor {name!r} is not where its header says")
            position = stop
            tensors.append(tensor)
        return Header(text, dict(metadata), tuple(tensors))
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"invalid safetensors header: {error or type(error).__name__}") from None


def check_header(path: str | os.PathLike[str], metadata: Mapping[str, str], kind: str) -> dict[str, Any]:
    """Return slimdiff's header from the `metadata` of the safetensors file `path`, its digest and kind checked.

    Raises:
        UserError: the header is missing, damaged, or of another kind.
    """
    if KEY not in metadata:
        raise UserError(
            f"{path} was not written by slimdiff: its metadata has no key {KEY!r}; if it is a result, delete it and "
            "run again"
        )
    try:
        header: Any = json.loads(metadata[KEY])
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path, f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise damaged(path, f"its header is a {type(header).__name__}, not a mapping")
    header = check_digest(path, header, UNDIGESTED)
    if header.get("kind") != kind:
        raise UserError(
            f"{path} holds {header.get('kind')!r}, expected {kind!r}; if it is a result, delete it and run again"
        )
    return header
