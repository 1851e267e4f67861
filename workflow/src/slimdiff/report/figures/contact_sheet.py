"""A cell's images put together to one picture that a chart can hold."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimdiff.io.samples import Samples

Images = NDArray[np.uint8]

GAP = 4  # pixels between two images
WHITE = 255


def first_columns(images: Images, columns: int, rows: int) -> list[Images]:
    """The first `columns` × `rows` images in reading order, as columns of equal length but for the end."""
    shown = images[: columns * rows]
    return [shown[column::columns] for column in range(min(columns, len(shown)))]


def class_columns(samples: Samples, columns: int, rows: int) -> dict[str, Images]:
    """The first `rows` images of each of the first `columns` classes that were asked for, by name."""
    classes = np.unique(samples.labels)[:columns]
    return {samples.classes[label]: samples.images[samples.labels == label][:rows] for label in classes}


def sheet(columns: Sequence[Images], tile: int, pitch: int | None = None) -> Images:
    """`columns` beside each other on white, as one picture (height, width, C).

    Images no larger than `tile` pixels are enlarged by a whole number, each pixel to a square, and larger ones shrunk.
    Columns are `pitch` pixels apart, or as near as the images allow.
    """
    scaled = [[_fitted(image, tile) for image in column] for column in columns]
    height, width, channels = scaled[0][0].shape
    pitch = pitch or width + GAP
    rows = max(len(column) for column in scaled)
    canvas = np.full((rows * (height + GAP) - GAP, len(scaled) * pitch, channels), WHITE, np.uint8)
    for left, column in enumerate(scaled):
        x = left * pitch + (pitch - width) // 2
        for top, image in enumerate(column):
            y = top * (height + GAP)
            canvas[y : y + height, x : x + width] = image
    return canvas


def contact(images: Images, columns: int, longest: int) -> Images:
    """`images` in reading order as one picture without gaps; sides above `longest` pixels are shrunk to it."""
    tile = min(longest, max(images.shape[2:]))
    scaled = [_fitted(image, tile) for image in images]
    height, width, channels = scaled[0].shape
    canvas = np.full((-(-len(scaled) // columns) * height, columns * width, channels), WHITE, np.uint8)
    for place, image in enumerate(scaled):
        top, left = place // columns * height, place % columns * width
        canvas[top : top + height, left : left + width] = image
    return canvas


def data_url(picture: Images) -> str:
    """`picture` (height, width, 1 or 3) as a PNG within a URL."""
    file = io.BytesIO()
    _image(picture).save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _fitted(image: Images, tile: int) -> Images:
    """`image` (C, H, W) as (height, width, C), its longer side at most `tile`."""
    pixels = image.transpose(1, 2, 0)
    longer = max(pixels.shape[:2])
    if longer <= tile:
        times = tile // longer
        return pixels.repeat(times, axis=0).repeat(times, axis=1)
    height, width = (max(1, side * tile // longer) for side in pixels.shape[:2])
    small = np.asarray(_image(pixels).resize((width, height), Image.Resampling.BOX))
    return small.reshape(height, width, -1)


def _image(pixels: Images) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
