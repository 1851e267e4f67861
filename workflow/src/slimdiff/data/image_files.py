"""An image file as uint8 pixels: the picture that it holds, or an error that names the key that settles it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from slimdiff.data import image_losses, image_numbers
from slimdiff.data.image_numbers import Numbers
from slimdiff.data.image_reading import Range, Reading, name
from slimdiff.errors import UserError
from slimdiff.io.text import one_line

# Pillow tries only these readers, whatever a file claims to be: others start programs (EPS) or are rarely tested.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # per image, checked before decoding: a small file can claim to hold terabytes
SUBFILE = 254  # tag of TIFF
THUMBNAIL_OR_MASK = 0b101  # flags in SUBFILE
SRGB_GAMMA = 1 / 2.2


@dataclass(frozen=True)
class Picture:
    """An image of a file."""

    pixels: npt.NDArray[np.uint8]  # (C, size, size)
    mode: str  # of the file's pixels, in Pillow's names
    limits: Range  # values that became black and white
    found: Range  # lowest and highest value: of the file; of the stored pixels where those are the file's own levels
    keys: tuple[str, ...]  # of the data set, that say how the values of this file are read
    unapplied_profile: bool  # whether the file asks for a colour conversion to sRGB, which is not done


def read(path: Path, reading: Reading) -> list[Picture]:
    """Return the images of a file: one, or all frames if `reading` says so.

    Apply EXIF orientation, bring the values to 8 bits, blend transparency over the background, crop the central square
    and resample it (Lanczos). Colour profiles are not applied.

    Raises:
        UserError: the file is damaged or too large, has several images or values whose range is unknown and no key that
            settles it, or its picture would vanish, wholly or but for a few specks. The message names the file.
    """
    with _reading(path), Image.open(path, formats=FORMATS) as image:
        return [_picture(path, image, reading) for _ in _frames(path, image, reading)]


def check_header(path: Path, reading: Reading) -> None:
    """Raise UserError if the header of a file, or of a page of a TIFF, shows that `read` refuses it."""
    with _reading(path), Image.open(path, formats=FORMATS) as image:
        for _ in _frames(path, image, reading):
            numbers = _check(path, image, reading)
            if numbers.highest is None and not numbers.may_be_eight_bits and reading.value_range is None:
                raise image_numbers.unknown_range(path, numbers, reading)
            if image.format != "TIFF":
                return  # its further images have the same header, and may take long to reach


def check_size(path: Path, image: Image.Image) -> None:
    """Raise UserError if an opened image has more than MAX_PIXELS."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"{name(path)} has {width}×{height} pixels, more than {MAX_PIXELS:,}: make it smaller")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of damaged bytes, of which Pillow's readers raise a dozen, into one."""
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{name(path)} cannot be read: it is damaged, or of a kind that is not supported (formats: "
            f"{', '.join(FORMATS)}); replace it, or save it as PNG of 8 bits, or of 16 if it is gray"
        ) from None
    except Exception as error:
        raise UserError(
            f"{name(path)} is a damaged image ({one_line(error)}): replace it or remove it from the folder"
        ) from None


def _frames(path: Path, image: Any, reading: Reading) -> Iterator[None]:
    """Bring `image` to each of its images that is to be read."""
    # The further images of a photograph (MPO) are previews and depth maps, some of a TIFF are thumbnails.
    pages = list(range(1 if image.format == "MPO" else getattr(image, "n_frames", 1)))
    if image.format == "TIFF" and len(pages) > 1:
        pages = [page for page in pages if not _is_thumbnail(image, page)] or pages
    if len(pages) > 1 and reading.frames is None:
        raise UserError(f"{name(path)} holds {len(pages)} images: set {reading.key}.frames to first or all")
    for page in pages if reading.frames == "all" else pages[:1]:
        if image.tell() != page:
            image.seek(page)
        yield


def _is_thumbnail(image: Any, page: int) -> bool:
    image.seek(page)
    return bool(image.tag_v2.get(SUBFILE, 0) & THUMBNAIL_OR_MASK)


def _check(path: Path, image: Image.Image, reading: Reading) -> Numbers:
    """Return what the header of an opened image says of its numbers, unless that is to be refused."""
    check_size(path, image)
    if not (image.mode in image_numbers.EIGHT_BITS or image.mode == "F" or image.mode.startswith("I")):
        raise UserError(f"{name(path)} has the colour mode {image.mode}, which is not supported: save it as RGB")
    numbers = image_numbers.of(image)
    limits, key = reading.value_range, f"{reading.key}.value_range"
    if numbers.obstacle and (limits or (numbers.highest is None and not numbers.may_be_eight_bits)):
        raise UserError(
            f"{name(path)} holds {numbers.obstacle}, and {key} is for the numbers in gray or 8-bit files, lowest "
            "black: save it as gray, or with 8 bits"
        )
    if limits and numbers.highest is not None and not 0 <= limits[0] < limits[1] <= numbers.highest:
        raise UserError(
            f"{name(path)} holds {numbers.kind}, 0 to {numbers.highest}, and {key} is [{limits[0]:g}, {limits[1]:g}]: "
            "set it within these, or save all files with as many bits"
        )
    if image.mode == "RGB" and "transparency" in image.info and numbers.highest != 255:
        raise UserError(
            f"{name(path)} has a transparent colour of {numbers.kind}, of which 8 bits are read: save it with 8 bits, "
            "or with an alpha channel"
        )
    return numbers


def _picture(path: Path, image: Image.Image, reading: Reading) -> Picture:
    numbers = _check(path, image, reading)
    image.load()
    upright = ImageOps.exif_transpose(image)
    limits: Range = reading.value_range or (0, 255)
    found: Range | None = None
    own: npt.NDArray[Any] | None = None
    if numbers.deep:
        own = numbers.own(np.asarray(upright))
        limits, found = image_numbers.limits_of(path, own, numbers, reading)
        levels = image_numbers.to_gray(upright, own, numbers, reading)
    else:
        image_numbers.set_transparent_level(upright, numbers)
        levels = upright
    layer = _layer(levels) if levels.has_transparency_data else None
    colours = layer or levels
    if reading.value_range and not numbers.deep:
        colours, found = image_numbers.apply_range(colours, numbers, limits)
        layer = colours if layer else None
    plain = _over(layer, reading.background) if layer else colours
    plain = plain.convert("RGB" if reading.channels == 3 else "L")
    square = _square(plain, reading.image_size)
    if layer and reading.background is None and layer.getchannel("A").getextrema() != (255, 255):
        black = _square(_over(layer, 0).convert(plain.mode), reading.image_size)
        image_losses.refuse_hidden(path, layer, square, black, reading)
    if own is not None and reading.value_range is None:
        image_losses.refuse_dark(path, levels, own, reading)
    if reading.channels == 1 and layer is None and levels.mode not in ("1", "L"):
        image_losses.refuse_one_brightness(path, levels, plain, reading)
    bands = square.split()
    return Picture(
        np.frombuffer(b"".join(band.tobytes() for band in bands), np.uint8).reshape(-1, *square.size),
        image.mode,
        limits,
        found or image_losses.span(bands),
        (*(["value_range"] if found else []), *(["background"] if layer else [])),
        _has_unapplied_profile(image),
    )


def _square(image: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)


def _layer(image: Image.Image) -> Image.Image:
    """Return an image with transparency as RGBA."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _over(layer: Image.Image, background: int | None) -> Image.Image:
    """Return an RGBA image over a gray level, white without one."""
    level = 255 if background is None else background
    return Image.alpha_composite(Image.new("RGBA", layer.size, (level,) * 3), layer)


def _has_unapplied_profile(image: Image.Image) -> bool:
    """Return whether a file names a colour space other than sRGB, by an ICC profile or by its gamma."""
    profile = image.info.get("icc_profile") or b"sRGB"
    gamma = SRGB_GAMMA if "srgb" in image.info else image.info.get("gamma", SRGB_GAMMA)
    return b"sRGB" not in profile.replace(b"\0", b"") or abs(gamma - SRGB_GAMMA) > 0.01  # names may be UTF-16
