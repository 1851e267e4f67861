"""Contact sheets and PNG files of images."""

import os
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


def write_png(path: str | os.PathLike[str], image: torch.Tensor) -> None:
    """Write one uint8 image (C, H, W), gray or RGB."""
    pixels = image.permute(1, 2, 0).numpy()
    with atomic(Path(path)) as temporary:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")
