"""Contact sheets and PNG files of images."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from slimdiff.io.files import atomic

BACKGROUND = 128  # background of contact sheets: mid-gray


def contact_sheet(images: torch.Tensor, columns: int = 10, border: int = 2) -> torch.Tensor:
    """Arrange uint8 (N, C, H, W) row by row on mid-gray: uint8 (C, rows·(H + border) + border, …).

    The pixels equal those of torchvision.utils.make_grid, whose import would add a second to every sampling job.
    """
    tiles = F.pad(images, (border, 0, border, 0), value=BACKGROUND)
    n, channels, height, width = tiles.shape
    rows = -(-n // columns)
    empty = tiles.new_full((rows * columns - n, channels, height, width), BACKGROUND)
    sheet = torch.cat([tiles, empty]).reshape(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return F.pad(sheet.reshape(channels, rows * height, columns * width), (0, border, 0, border), value=BACKGROUND)


def class_sheet(
    images: torch.Tensor, labels: torch.Tensor, classes: Sequence[int], rows: int | None = None
) -> torch.Tensor:
    """Arrange uint8 (N, C, H, W) in one column per class, as `contact_sheet` does; columns may be shorter than others.

    Args:
        labels: int64 (N,).
        classes: labels of the columns, at least one of which occurs.
        rows: at most; None: as many as the most frequent class has images.
    """
    columns = [images[labels == label][:rows] for label in classes]
    tiles = images.new_full((max(map(len, columns)), len(columns), *images.shape[1:]), BACKGROUND)
    for column, own in enumerate(columns):
        tiles[: len(own), column] = own
    return contact_sheet(tiles.flatten(0, 1), len(columns))


def write_png(path: str | os.PathLike[str], image: torch.Tensor) -> None:
    """Write one uint8 image (C, H, W), gray or RGB."""
    pixels = image.permute(1, 2, 0).numpy()
    with atomic(Path(path)) as temporary:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")
