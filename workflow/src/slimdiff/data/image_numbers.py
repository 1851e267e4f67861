"""The numbers in an image file: what its header says of them, and which become black and white."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from slimdiff.data.image_losses import span
from slimdiff.data.image_reading import Range, Reading, name
from slimdiff.errors import UserError

EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
FEW_BITS = {"1": 1, "L;2": 2, "L;4": 4}  # of gray PNG, by Pillow's raw mode
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
SIGNED = 2  # sample format of TIFF
# Bits and sample format of TIFF that Pillow reads with another sign.
MISREAD: dict[tuple[int, int], type[np.generic]] = {(32, 1): np.uint32, (8, SIGNED): np.int8}


@dataclass(frozen=True)
class Numbers:
    """What the header of an image file says of its numbers."""

    kind: str  # for people
    highest: int | None  # white, by the format; None: the file does not tell
    decoded: int | None  # what Pillow makes of the highest
    deep: bool  # whether Pillow keeps more than 8 bits, or a sign
    may_be_eight_bits: bool = False  # where `highest` is None: taken for 8 bits if all values fit
    white_is_zero: bool = False  # in a deep TIFF; Pillow inverts others itself
    dtype: type[np.generic] | None = None  # as which Pillow's bytes are to be read
    obstacle: str | None = None  # for people, why a range of values cannot be applied

    def own(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the file's own numbers from Pillow's, which has scaled some to 8 or 16 bits, rounding to nearest."""
        if self.dtype is not None:
            values = values.view(self.dtype)
        if self.highest == self.decoded or self.highest is None or self.decoded is None:
            return values
        return np.rint(values.astype(np.float64) * (self.highest / self.decoded)).astype(np.uint16)

    def table(self, limits: Range) -> list[int]:
        """Return the gray levels of Pillow's 256 levels, `limits` of the file's own becoming 0 and 255."""
        levels: list[int] = to_levels(self.own(np.arange(256)), limits).tolist()
        return levels


def of(image: Any) -> Numbers:
    """Return what the header of an opened image says, before it is loaded."""
    arguments = image.tile[0][3] if image.tile else image.mode  # Pillow's raw mode, or a tuple that starts with it
    raw = str(arguments[0]) if isinstance(arguments, tuple) else str(arguments)
    gray = image.mode in ("1", "L") or image.mode.startswith(("I", "F"))
    if image.format == "TIFF":
        return _of_tiff(image, gray, raw)
    if image.mode == "F":
        return Numbers("floating-point numbers", None, None, deep=True)
    bits, highest = 8, 255
    if image.format == "PNG":
        bits = 16 if ";16" in raw else FEW_BITS.get(raw, 8)
        highest = 2**bits - 1
    elif image.format == "PPM":
        highest = arguments[-1] if isinstance(arguments, tuple) else 65535 if image.mode == "I" else 255
        bits = highest.bit_length()
    deep = image.mode.startswith("I")
    obstacle = _obstacle(image.mode, raw)
    if image.format == "PPM" and image.mode == "1":
        highest, obstacle = 1, "bits of which 0 is white"
    elif bits > 8 and not deep:
        obstacle = f"{bits} bits per colour, of which 8 are read"
    return Numbers(f"{bits}-bit integers", highest, 65535 if deep else 255, deep, obstacle=obstacle)


def _of_tiff(image: Any, gray: bool, raw: str) -> Numbers:
    tags = image.tag_v2
    bits, kind = tags.get(BITS, (1,))[0], tags.get(SAMPLE_FORMAT, (1,))[0]
    signed, floating = kind == SIGNED, image.mode == "F"
    what = "floating-point numbers" if floating else f"{'signed ' if signed else ''}{bits}-bit integers"
    inverted = gray and tags.get(PHOTOMETRIC) == 0
    highest = None if floating or signed or bits > 16 else 2**bits - 1
    deep = gray and (signed or floating or bits > 8)
    obstacle = _obstacle(image.mode, raw)
    if bits > 8 and not deep:
        obstacle = f"{bits} bits per colour, of which 8 are read"
    elif image.mode in ("P", "PA"):
        obstacle = "a palette of 16 bits, of which 8 are read"
    elif inverted:
        obstacle = f"{what} of which 0 is white"
    decoded, dtype = highest if deep else 255, MISREAD.get((bits, kind))
    return Numbers(what, highest, decoded, deep, bits == 32 and not floating, inverted, dtype, obstacle)


def _obstacle(mode: str, raw: str) -> str | None:
    if mode in ("CMYK", "YCbCr", "HSV"):
        return f"the colours {mode}, which are converted to RGB"
    if raw.startswith(("RGBa", "La")):
        return "colours that are multiplied with their transparency"
    few = raw.startswith("BGR") and ";1" in raw  # 15 or 16 bits per pixel
    return "5 or 6 bits per colour, which are scaled to 8" if few else None


def to_levels(values: npt.NDArray[Any], limits: Range) -> npt.NDArray[np.uint8]:
    """Return `values` as gray levels, the limits being 0 and 255; values outside are clipped."""
    low, high = limits
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2 and values.size > 2**16:  # look them up: faster
        return to_levels(np.arange(2**16), limits)[values]
    return np.rint((values.astype(np.float64) - low).clip(0, high - low) * (255 / (high - low))).astype(np.uint8)


def set_transparent_level(image: Image.Image, numbers: Numbers) -> None:
    """Bring the transparent colour of a PNG, which Pillow keeps as in the file, to the levels of its pixels."""
    clear = image.info.get("transparency")
    if image.mode == "L" and isinstance(clear, int) and numbers.highest is not None:
        image.info["transparency"] = (clear & numbers.highest) * 255 // numbers.highest
    elif image.mode == "RGB" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(level & 255 for level in clear)


def limits_of(path: Path, own: npt.NDArray[Any], numbers: Numbers, reading: Reading) -> tuple[Range, Range]:
    """Return which values of an image of more than 8 bits or with a sign become black and white, and those found.

    Raises:
        UserError: the values are not finite, or nothing tells their range.
    """
    found = (own.min().item(), own.max().item())
    if not np.isfinite(found).all():
        raise UserError(f"{name(path)} holds NaN or infinity: replace it or remove it from the folder")
    if reading.value_range:
        return reading.value_range, found
    if numbers.highest is not None:
        return (0, numbers.highest), found
    if numbers.may_be_eight_bits and found[0] >= 0 and found[1] <= 255:
        return (0, 255), found
    raise unknown_range(path, numbers, reading, found)


def unknown_range(path: Path, numbers: Numbers, reading: Reading, found: Range | None = None) -> UserError:
    """Return the error that neither the file nor the config tells the range of its values; `found` if it is known."""
    values = f" from {found[0]:g} to {found[1]:g}" if found else ""
    return UserError(
        f"{name(path)} holds {numbers.kind}{values}, and nothing in it tells which are black and white: set "
        f"{reading.key}.value_range to [low, high]"
    )


def to_gray(image: Image.Image, own: npt.NDArray[Any], numbers: Numbers, reading: Reading) -> Image.Image:
    """Return an image of more than 8 bits or with a sign as L, or as LA if one of its values is transparent.

    Without a value range, 16 bits and fewer are cut to the upper 8.
    """
    if reading.value_range:
        levels = to_levels(own, reading.value_range)
    elif numbers.decoded is not None:
        levels = (np.asarray(image) >> (numbers.decoded.bit_length() - 8)).clip(0, 255).astype(np.uint8)
    else:
        levels = own.astype(np.uint8)
    gray = Image.fromarray(255 - levels if numbers.white_is_zero else levels)
    if isinstance(clear := image.info.get("transparency"), int):
        gray = Image.merge("LA", (gray, Image.fromarray(np.where(own == clear, 0, 255).astype(np.uint8))))
    return gray


def apply_range(image: Image.Image, numbers: Numbers, limits: Range) -> tuple[Image.Image, Range]:
    """Return an image of 8 bits and fewer with `limits` of the file's own values at 0 and 255, and the values found.

    Transparency stays as it is.
    """
    if image.mode != "RGBA":
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    colours, alpha = image.split()[:3], image.split()[3:]
    low, high = numbers.own(np.array(span(colours))).tolist()
    table = numbers.table(limits)
    return Image.merge(image.mode, [*(band.point(table) for band in colours), *alpha]), (low, high)
