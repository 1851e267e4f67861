"""An image file as uint8 pixels: the picture that any viewer shows, or an error that names the key that settles it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from slimdiff.errors import UserError
from slimdiff.io.text import one_line

# Pillow tries only these readers, whatever a file claims to be: others start programs (EPS) or are rarely tested.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # per image, checked before decoding: a small file can claim to hold terabytes
EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
FAINT = 16  # gray levels; a picture within fewer is nearly one tone
FLAT = 1  # gray levels; a picture within as many is one tone, as for samples
MISREAD = {(32, 1): np.uint32, (8, 2): np.int8}  # bits and sample format of TIFF that Pillow reads with another sign
BITS, PHOTOMETRIC, SUBFILE, SAMPLE_FORMAT = 258, 262, 254, 339  # tags of TIFF
THUMBNAIL_OR_MASK = 0b101  # flags in SUBFILE

Range = tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """How image files become pixels; None leaves it to the file and refuses where the file does not tell."""

    key: str  # of the data set in the config, such as datasets.photos
    image_size: int  # height and width after a centre crop to a square, at least 4
    channels: int  # 1 (gray) or 3 (RGB)
    value_range: Range | None = None  # values that become black and white; those outside are clipped
    background: int | None = None  # gray level behind transparency, 0 to 255; None: white
    frames: str | None = None  # of a file with several images: first, or all


@dataclass(frozen=True)
class Picture:
    """An image of a file."""

    pixels: npt.NDArray[np.uint8]  # (C, size, size)
    mode: str  # of the file's pixels, in Pillow's names
    limits: Range  # values that became black and white
    found: Range  # lowest and highest value: of the file; of the stored pixels where those are the file's own levels
    keys: tuple[str, ...]  # of the data set, that say how the values of this file are read


def read(path: Path, reading: Reading) -> list[Picture]:
    """Return the images of a file: one, or all frames if `reading` says so.

    Apply EXIF orientation, blend transparency over the background, bring the values to 8 bits, crop the central square
    and resample it (Lanczos).

    Raises:
        UserError: the file is damaged or too large, has several images or values whose range is unknown and no key that
            settles it, or its picture would vanish. The message names the file.
    """
    with _reading(path), Image.open(path, formats=FORMATS) as image:
        return [_picture(path, image, reading) for _ in _frames(path, image, reading)]


def check_header(path: Path) -> None:
    """Raise UserError if the file is not an image by its header, or claims more than MAX_PIXELS."""
    with _reading(path), Image.open(path, formats=FORMATS) as image:
        check_size(path, image)


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
    except Exception as error:
        raise UserError(
            f"{name(path)} is a damaged image ({one_line(error)}): replace it or remove it from the folder"
        ) from None


def name(path: Path) -> str:
    """Return a file and its class for a message."""
    return f"{one_line(path)} of class {one_line(repr(path.parent.name))}"


def _frames(path: Path, image: Any, reading: Reading) -> Iterator[None]:
    """Bring `image` to each of its images that is to be read."""
    # The further images of a photograph (MPO) are previews and depth maps, some of a TIFF are thumbnails.
    pages = list(range(1 if image.format == "MPO" else getattr(image, "n_frames", 1)))
    if image.format == "TIFF" and len(pages) > 1:
        pages = [page for page in pages if page == 0 or not _is_thumbnail(image, page)]
    if len(pages) > 1 and reading.frames is None:
        raise UserError(f"{name(path)} holds {len(pages)} images: set {reading.key}.frames to first or all")
    for page in pages if reading.frames == "all" else pages[:1]:
        if image.tell() != page:
            image.seek(page)
        yield


def _is_thumbnail(image: Any, page: int) -> bool:
    image.seek(page)
    return bool(image.tag_v2.get(SUBFILE, 0) & THUMBNAIL_OR_MASK)


def _picture(path: Path, image: Image.Image, reading: Reading) -> Picture:
    check_size(path, image)
    cut = bool(reading.value_range) and ";16" in str(getattr(image, "tile", ""))  # to 8 bits, as Pillow reads colours
    image.load()
    mode, upright = image.mode, ImageOps.exif_transpose(image)
    limits: Range = reading.value_range or (0, 255)
    found: Range | None = None
    if mode.startswith("I") or mode == "F" or _is_signed(image):
        levels, limits, found = _scaled(path, image, upright, reading)
    elif mode not in EIGHT_BITS:
        raise UserError(f"{name(path)} has the colour mode {mode}, which is not supported: save it as RGB")
    elif cut:
        raise UserError(
            f"{name(path)} has 16 bits per colour, of which 8 are read, and {reading.key}.value_range is for gray or "
            "8 bits: save it with 8 bits"
        )
    else:
        levels = upright
    layer = _layer(levels) if levels.has_transparency_data else None
    plain = _over(layer, reading.background) if layer else levels
    plain = plain.convert("RGB" if reading.channels == 3 else "L")
    if reading.value_range and found is None:
        found = _span(_extrema(plain))
        plain = plain.point(_table(256, limits).tolist() * len(plain.getbands()))
    size = reading.image_size
    square = ImageOps.fit(plain, (size, size), Image.Resampling.LANCZOS)
    extrema = _extrema(square)
    if max(high - low for low, high in extrema) < FAINT:
        _refuse_vanished(path, levels, layer, plain, found, reading)
    pixels = square.tobytes() if reading.channels == 1 else b"".join(band.tobytes() for band in square.split())
    return Picture(
        np.frombuffer(pixels, np.uint8).reshape(reading.channels, size, size),
        mode,
        limits,
        found or _span(extrema),
        (*(["value_range"] if found else []), *(["background"] if layer else [])),
    )


def _layer(image: Image.Image) -> Image.Image:
    """Return an image with transparency as RGBA."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _over(layer: Image.Image, background: int | None) -> Image.Image:
    """Return an RGBA image over a gray level, white without one."""
    level = 255 if background is None else background
    return Image.alpha_composite(Image.new("RGBA", layer.size, (level,) * 3), layer)


def _is_signed(image: Image.Image) -> bool:
    return image.mode == "L" and getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, (1,))[0] == 2


def _scaled(path: Path, image: Image.Image, upright: Image.Image, reading: Reading) -> tuple[Image.Image, Range, Range]:
    """Return an image of more than 8 bits or with a sign as L or LA, its limits, and the values found.

    Without a value range, 16 bits and fewer span the range of their bits, and 32-bit integers are taken for 8-bit ones
    if their values are.
    """
    tags = getattr(image, "tag_v2", {})
    bits, kind = tags.get(BITS, (16 if image.format in ("PNG", "PPM") else 32,))[0], tags.get(SAMPLE_FORMAT, (1,))[0]
    values = np.asarray(upright)
    if image.format == "TIFF" and (bits, kind) in MISREAD:
        values = values.view(MISREAD[bits, kind])
    found = (values.min().item(), values.max().item())
    if not np.isfinite(found).all():
        raise UserError(f"{name(path)} holds NaN or infinity: replace it or remove it from the folder")
    if reading.value_range:
        limits = reading.value_range
        indexable = values.dtype.kind == "u" and values.dtype.itemsize <= 2
        levels = _table(2**16, limits)[values] if indexable else _levels(values, limits)
    elif image.mode != "F" and bits <= 16 and kind == 1:
        limits = (0, 2**bits - 1)
        levels = (values >> (bits - 8)).clip(0, 255).astype(np.uint8)
    elif image.mode != "F" and found[0] >= 0 and found[1] <= 255:
        limits = (0, 255)
        levels = values.astype(np.uint8)
    else:
        what = "floating-point numbers" if image.mode == "F" else f"{'signed ' if kind == 2 else ''}{bits}-bit integers"
        raise UserError(
            f"{name(path)} holds {what} from {found[0]:g} to {found[1]:g}, and nothing in it tells which are black and "
            f"white: set {reading.key}.value_range to [low, high]"
        )
    if tags.get(PHOTOMETRIC) == 0:  # white is zero; Pillow inverts files of 8 bits only
        levels = 255 - levels
    gray = Image.fromarray(levels)
    if isinstance(clear := upright.info.get("transparency"), int):
        gray = Image.merge("LA", (gray, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))
    return gray, limits, found


def _levels(values: npt.NDArray[Any], limits: Range) -> npt.NDArray[np.uint8]:
    """Return `values` as gray levels, the limits being 0 and 255; values outside are clipped."""
    low, high = limits
    return np.rint((values.astype(np.float64) - low).clip(0, high - low) * (255 / (high - low))).astype(np.uint8)


def _table(n: int, limits: Range) -> npt.NDArray[np.uint8]:
    """Return the gray levels of the values 0 to n - 1."""
    return _levels(np.arange(n), limits)


def _extrema(image: Image.Image) -> tuple[tuple[int, int], ...]:
    """Return the lowest and the highest value of each band."""
    bands: Any = image.getextrema()
    return bands if isinstance(bands[0], tuple) else (bands,)


def _span(extrema: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    return min(low for low, _ in extrema), max(high for _, high in extrema)


def _spread(image: Image.Image) -> int:
    """Return the largest difference within a band: 0 for a flat tone of any colour."""
    return max(high - low for low, high in _extrema(image))


def _refuse_vanished(
    path: Path,
    levels: Image.Image,
    layer: Image.Image | None,
    plain: Image.Image,
    found: Range | None,
    reading: Reading,
) -> None:
    """Refuse a picture that is in the file and not in `plain`, unless a key asks for that.

    Args:
        levels: the file's picture in 8 bits, `layer` the same with transparency, `found` its values before that.

    Raises:
        UserError: names what was found, and the key.
    """
    spread = _spread(plain)
    if spread >= FAINT:
        return  # the crop or the resampling loses it, as stated
    if layer is not None and reading.background is None and _spread(layer) >= FAINT:
        raise UserError(
            f"{name(path)} has transparency and vanishes over white, within {spread + 1} gray levels: set "
            f"{reading.key}.background to black, white or a gray level from 0 to 255"
        )
    if found is not None and reading.value_range is None and found[0] < found[1]:
        low, high = _extrema(levels)[0]
        if high - low <= FLAT:
            raise UserError(
                f"{name(path)} has values from {found[0]:g} to {found[1]:g}, flat in the range of its bits: set "
                f"{reading.key}.value_range to [low, high]"
            )
    gray = reading.channels == 1 and layer is None and _spread(levels.convert("L")) <= FLAT
    if gray and _spread(levels.convert("RGB")) >= FAINT:
        raise UserError(f"{name(path)} has colours of one brightness, flat in gray: set {reading.key}.channels to 3")
