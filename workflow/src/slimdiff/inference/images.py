"""PNG files of images."""

import os
from pathlib import Path

import torch
from PIL import Image

from slimdiff.io.files import atomic


def write_png(path: str | os.PathLike[str], image: torch.Tensor) -> None:
    """Write one uint8 image (C, H, W), gray or RGB."""
    pixels = image.permute(1, 2, 0).numpy()
    with atomic(Path(path)) as temporary:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")
