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


# --- files that only have the name of an image


def text(path: Path) -> None:
    path.write_text("not an image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def postscript(path: Path) -> None:
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")


def big(path: Path) -> None:
    """An image of more pixels than allowed, but fewer than Pillow's own limit."""
    Image.new("1", (8_001, 8_000)).save(path)
