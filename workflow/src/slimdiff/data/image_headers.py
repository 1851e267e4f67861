"""The headers of image files: what kind of file, and how many pixels it claims, without decoding any."""

import heapq
import os
from collections.abc import Sequence
from pathlib import Path

from slimdiff.data.image_files import check_header
from slimdiff.data.image_reading import Reading

MAX_LOOKED_AT = 300  # files, of which a third are the largest, a third the smallest


def check_some(paths: Sequence[Path], reading: Reading) -> None:
    """Check all of a few files; of many, MAX_LOOKED_AT: the largest, the smallest, and others at equal distances.

    Files that are too large, or cut short by a full disk, stand out by their size; and opening 60,000 takes a network
    file system minutes.
    """
    for path in paths if len(paths) <= MAX_LOOKED_AT else _some(paths):
        check_header(path, reading)


def _some(paths: Sequence[Path]) -> list[Path]:
    third = MAX_LOOKED_AT // 3
    sizes = [os.stat(path).st_size for path in paths]  # noqa: PTH116, as Path.stat takes three times as long
    indices = range(len(paths))
    chosen = heapq.nlargest(third, indices, sizes.__getitem__) + heapq.nsmallest(third, indices, sizes.__getitem__)
    return [paths[index] for index in dict.fromkeys([*chosen, *indices[:: -(-len(paths) // third)]])]
