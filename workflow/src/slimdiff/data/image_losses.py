"""What an image loses on its way to 8 bits over one background: contrasts that it has before and not after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from slimdiff.data.image_reading import Reading, name
from slimdiff.errors import UserError

FAINT = 16  # gray levels; a picture within fewer is nearly one tone
FLAT = 1  # gray levels; a picture within as many is one tone, as for samples
SPECKS = 0.005  # of the pixels, brightest and darkest each: so few show nothing
MAX_LOST = 0.25  # of the edges


def span(bands: Sequence[Image.Image]) -> tuple[int, int]:
    """Return the lowest and the highest level of some bands of 8 bits."""
    ends = [_ends(band, 0) for band in bands]
    return min(low for low, _ in ends), max(high for _, high in ends)


def contrasts(image: Image.Image) -> tuple[int, int]:
    """Return the largest difference of levels within a band of 8 bits: of all pixels, and of all but SPECKS."""
    bands = image.split()
    whole, bulk = (max(high - low for low, high in (_ends(band, share) for band in bands)) for share in (0, SPECKS))
    return whole, bulk


def value_contrasts(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the same two of an array of numbers."""
    ends = np.quantile(values, [0, 1, SPECKS, 1 - SPECKS])
    return float(ends[1] - ends[0]), float(ends[3] - ends[2])


def lost_edges(image: Image.Image, other: Image.Image) -> float:
    """Return which share of the edges in either of two versions of a picture is missing in `image`, 0 to 1.

    An edge is the difference of neighbouring pixels. 16 levels and more count alike: a line that is gray in one version
    and black in the other is not lost.
    """
    own, both = 0, 0
    for axis in (0, 1):
        edges, others = (
            np.abs(np.diff(np.asarray(one, np.int16), axis=axis)).clip(max=FAINT) for one in (image, other)
        )
        if edges.ndim == 3:  # colours: an edge in any band
            edges, others = edges.max(2), others.max(2)
        own += int(edges.sum())
        both += int(np.maximum(edges, others).sum())
    return 1 - own / both if both else 0.0


def refuse_hidden(path: Path, layer: Image.Image, white: Image.Image, black: Image.Image, reading: Reading) -> None:
    """Refuse an RGBA image that white hides.

    White hides it if more than a quarter of the edges that white or black show are missing over white, or if it has
    contrast that neither shows, in transparent pixels.

    Args:
        layer: the file's picture.
        white: what is stored, without a background set; `black` is what a black one makes of it.
    """
    lost = lost_edges(white, black)
    if max(contrasts(white)[0], contrasts(black)[0]) < FAINT <= contrasts(layer)[0]:
        lost = 1
    if lost > MAX_LOST:
        raise UserError(
            f"{name(path)} has transparency, and {100 * lost:.0f} % of its edges vanish over white: set "
            f"{reading.key}.background to black, white or a gray level from 0 to 255"
        )


def refuse_dark(path: Path, levels: Image.Image, own: npt.NDArray[Any], reading: Reading) -> None:
    """Refuse an image whose values differ and whose levels, by the range of its bits, do not, but for a few specks."""
    flat = [contrast <= FLAT for contrast in contrasts(levels.getchannel(0))]
    if any(flat) and any(a and b > 0 for a, b in zip(flat, value_contrasts(own), strict=True)):
        raise UserError(
            f"{name(path)} has values from {own.min():g} to {own.max():g}, flat in the range of its bits: set "
            f"{reading.key}.value_range to [low, high]"
        )


def refuse_one_brightness(path: Path, levels: Image.Image, gray: Image.Image, reading: Reading) -> None:
    """Refuse colours that differ and whose gray levels do not, but for a few specks."""
    flat = [contrast <= FLAT for contrast in contrasts(gray)]
    if any(flat):
        colours = contrasts(levels.convert("RGB"))
        if any(a and b >= FAINT for a, b in zip(flat, colours, strict=True)):
            raise UserError(
                f"{name(path)} has colours of one brightness, flat in gray: set {reading.key}.channels to 3"
            )


def _ends(band: Image.Image, share: float) -> tuple[int, int]:
    """Return the lowest and the highest level, a share of the pixels left out at each end."""
    counts = np.cumsum(band.histogram())
    skipped = int(share * counts[-1])
    return int(np.searchsorted(counts, skipped, "right")), int(np.searchsorted(counts, counts[-1] - skipped, "left"))
