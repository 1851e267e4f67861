"""Folders of images by class, as users have them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ENOUGH = 64  # images of a class, of which half are enough for a reference


def write_photos(root: Path, classes: Sequence[str] = ("cats", "dogs"), n: int = ENOUGH, size: int = 8) -> Path:
    """Write n gray images of `size` pixels into the folder of each class; their pixels are noise."""
    noise = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(n):
            pixels = noise.integers(0, 256, (size, size), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root
