"""The IDX format of the MNIST files: a big-endian header, then unsigned bytes (yann.lecun.com/exdb/mnist)."""

import numpy as np
from numpy.typing import NDArray

UNSIGNED_BYTE = 0x08


def encode(array: NDArray[np.uint8]) -> bytes:
    """Return `array` as an IDX file."""
    header = bytes([0, 0, UNSIGNED_BYTE, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def decode(content: bytes) -> NDArray[np.uint8]:
    """Return the array in an IDX file.

    Raises:
        ValueError: the elements are not unsigned bytes, or the length contradicts the header.
    """
    if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise ValueError("not an IDX file of unsigned bytes")
    dimensions = content[3]
    offset = 4 + 4 * dimensions
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    if len(content) != offset + int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"an IDX file of shape {tuple(shape)} does not have {len(content)} bytes")
    return np.frombuffer(content, np.uint8, offset=offset).reshape(shape).copy()
