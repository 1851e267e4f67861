"""Tiles images of a cell into one picture.

`torchvision.utils.make_grid` does the same with tensors, but the report loads without torch. NumPy is
enough, and Pillow shrinks large images.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimdiff.io.samples import Samples

Images = NDArray[np.uint8]

GAP = 4  # pixels between images
WHITE = 255


def first_columns(images: Images, columns: int, rows: int) -> list[Images]:
    """Return the first `columns` × `rows` images in reading order, as columns; the last ones may be shorter."""
    shown = images[: columns * rows]
    return [shown[column::columns] for column in range(min(columns, len(shown)))]


def class_columns(samples: Samples, columns: int, rows: int) -> dict[str, Images]:
    """Return, by name, the first `rows` images of each of the first `columns` requested classes."""
    classes = np.unique(samples.labels)[:columns]
    return {samples.classes[label]: samples.images[samples.labels == label][:rows] for label in classes}


def sheet(columns: Sequence[Images], tile: int, pitch: int | None = None, gap: int = GAP) -> Images:
    """Return `columns` of images side by side on white: (height, width, C).

    Args:
        columns: images (N, C, H, W), all of one size.
        tile: longer side of a tile in pixels. Smaller images are enlarged by a whole factor, larger ones shrunk.
        pitch: width of a column in pixels; None: as narrow as the tiles allow.
        gap: pixels between tiles.
    """
    scaled = [[_scaled(image, tile) for image in column] for column in columns]
    height, width, channels = scaled[0][0].shape
    pitch = pitch or width + gap
    rows = max(len(column) for column in scaled)
    canvas = np.full((rows * (height + gap) - gap, len(scaled) * pitch, channels), WHITE, np.uint8)
    for left, column in enumerate(scaled):
        x = left * pitch + (pitch - width) // 2
        for top, image in enumerate(column):
            y = top * (height + gap)
            canvas[y : y + height, x : x + width] = image
    return canvas


def data_url(picture: Images) -> str:
    """Return `picture` (height, width, 1 or 3) as a PNG in a data URL."""
    file = io.BytesIO()
    _pillow(picture).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _scaled(image: Images, tile: int) -> Images:
    """Return `image` (C, H, W) as (height, width, C), its longer side at most `tile`."""
    pixels = image.transpose(1, 2, 0)
    longer = max(pixels.shape[:2])
    if longer <= tile:
        factor = tile // longer
        return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = (max(1, side * tile // longer) for side in pixels.shape[:2])
    small = np.asarray(_pillow(pixels).resize((width, height), Image.Resampling.BOX))
    return small.reshape(height, width, -1)


def _pillow(pixels: Images) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
