"""The headers of image files: what kind of file, and how many pixels it claims, without decoding any."""

import heapq
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from slimdiff.errors import UserError

# Pillow tries only these readers, whatever a file claims to be: others start programs (EPS) or are rarely tested.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # per file, checked before decoding: a small file can claim to hold terabytes
MAX_LOOKED_AT = 300  # files, of which a third are the largest, a third the smallest


def check_size(path: Path, image: Image.Image) -> None:
    """Raise UserError if an opened image has more than MAX_PIXELS."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"{path} has {width}×{height} pixels, more than {MAX_PIXELS:,}: make it smaller")


def check(path: Path) -> None:
    """Raise UserError if the file is not an image by its header, or has more than MAX_PIXELS."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(path, image)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise a dozen different errors for damaged bytes
        raise UserError(f"{path} is a damaged image ({error}): replace it or remove it from the folder") from None


def check_some(paths: Sequence[Path]) -> None:
    """Check all of a few files; of many, MAX_LOOKED_AT: the largest, the smallest, and others at equal distances.

    Files that are too large, or cut short by a full disk, stand out by their size; and opening 60,000 takes a network
    file system minutes.
    """
    for path in paths if len(paths) <= MAX_LOOKED_AT else _some(paths):
        check(path)


def _some(paths: Sequence[Path]) -> list[Path]:
    third = MAX_LOOKED_AT // 3
    sizes = [os.stat(path).st_size for path in paths]  # noqa: PTH116, as Path.stat takes three times as long
    indices = range(len(paths))
    chosen = heapq.nlargest(third, indices, sizes.__getitem__) + heapq.nsmallest(third, indices, sizes.__getitem__)
    return [paths[index] for index in dict.fromkeys([*chosen, *indices[:: -(-len(paths) // third)]])]
