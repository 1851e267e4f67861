"""Image files of every mode and depth: stored as any viewer shows them, or refused with the key that settles it."""

import json
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from slimdiff.data import image_files, image_set
from slimdiff.data.image_files import Picture
from slimdiff.data.image_reading import Reading
from slimdiff.errors import UserError
from slimdiff.io.safetensors_header import read_header
from slimdiff.stages import data

SIDE = 8
RAMP = np.arange(SIDE * SIDE, dtype=np.int64).reshape(SIDE, SIDE)  # 0 to 63
Array = npt.NDArray[Any]


def read(path: Path, channels: int = 1, size: int = SIDE, **keys: Any) -> list[Picture]:
    return image_files.read(path, Reading("datasets.mine", size, channels, **keys))


def read_one(path: Path, channels: int = 1, **keys: Any) -> Array:
    """The only image of a file, as (H, W) or (H, W, 3)."""
    (picture,) = read(path, channels, **keys)
    return picture.pixels[0] if channels == 1 else picture.pixels.transpose(1, 2, 0)


def refusal(path: Path, channels: int = 1, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, channels, **keys)
    message = str(caught.value)
    assert message.isprintable()
    assert path.name in message
    assert f"class '{path.parent.name}'" in message
    return message


def packed(values: Array, bits: int) -> bytes:
    """Samples of 1 to 16 bits in a row, the highest bit first; each line must fill whole bytes."""
    text = "".join(f"{int(value):0{bits}b}" for value in values.ravel())
    return int(text, 2).to_bytes(len(text) // 8, "big")


def save_png(path: Path, values: Array, bits: int, clear: int | None = None) -> Path:
    """Write a gray (H, W) or RGB (H, W, 3) PNG of any depth; `clear` is its transparent level."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    colour = 2 if values.ndim == 3 else 0
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, 0))
    if clear is not None:
        content += chunk(b"tRNS", struct.pack(">H", clear) * (3 if colour else 1))
    lines = b"".join(b"\0" + packed(line, bits) for line in values)
    path.write_bytes(content + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))
    return path


def save_pnm(path: Path, values: Array, highest: int, plain: bool) -> Path:
    """Write a portable graymap (H, W) or pixmap (H, W, 3)."""
    kind = (2 if values.ndim == 2 else 3) + (0 if plain else 3)
    body = (
        " ".join(map(str, values.ravel())).encode()
        if plain
        else values.astype(">u2" if highest > 255 else "u1").tobytes()
    )
    path.write_bytes(f"P{kind} {SIDE} {SIDE} {highest}\n".encode() + body)
    return path


def save_tiff(path: Path, values: Array, content: bytes = b"", **tags: int) -> Path:
    """Write a TIFF of one strip with the values as they are, for bits and signs that Pillow does not write.

    Args:
        content: the strip, if it is not the array as it is.
    """
    height, width = values.shape
    strip = content or values.astype(values.dtype.newbyteorder("<")).tobytes()
    bits, kind = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(strip)}
    entries |= {339: kind} | {int(tag.removeprefix("tag")): value for tag, value in tags.items()}
    content = struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip
    content += struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        content += struct.pack("<HHII", tag, 4, 1, value)
    path.write_bytes(content + bytes(4))
    return path


# --- depth and range ----------------------------------------------------------------------------------------------


def test_integers_of_32_bits_that_fit_8_are_those(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 4).astype(np.int32)).save(tmp_path / "a.tif")
    assert np.array_equal(read_one(tmp_path / "a.tif"), RAMP * 4)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param((RAMP * 64).astype(np.int32), id="12 bits in 32"),
        pytest.param((RAMP - 5).astype(np.int32), id="below zero"),
        pytest.param((RAMP / 63).astype(np.float32), id="floats from 0 to 1"),
        pytest.param((RAMP * 1000 - 32768).astype(np.int16), id="signed 16 bits"),
        pytest.param((RAMP * 4 - 128).astype(np.int8), id="signed 8 bits"),
        pytest.param((RAMP * 60_000_000).astype(np.uint32), id="unsigned 32 bits"),
    ],
)
def test_values_without_a_known_range_need_the_key(tmp_path: Path, values: Array) -> None:
    path = save_tiff(tmp_path / "a.tif", values)
    message = refusal(path)
    low, high = values.min().item(), values.max().item()
    assert f"from {low:g} to {high:g}" in message
    assert "datasets.mine.value_range" in message
    expected = np.rint((values.astype(np.float64) - low) / (float(high) - low) * 255)
    assert np.array_equal(read_one(path, value_range=(low, high)), expected)


def test_values_outside_the_range_are_clipped(tmp_path: Path) -> None:
    path = save_tiff(tmp_path / "a.tif", RAMP.astype(np.float32))
    assert np.array_equal(read_one(path, value_range=(20, 30)), np.rint((RAMP.clip(20, 30) - 20) * 25.5))
    (picture,) = read(path, value_range=(20, 30))
    assert (picture.limits, picture.found, picture.keys) == ((20, 30), (0, 63), ("value_range",))


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_the_range_is_applied_to_8_bits_too(tmp_path: Path, mode: str) -> None:
    Image.fromarray(RAMP.astype(np.uint8)).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(read_one(tmp_path / "a.png", value_range=(0, 63)), np.rint(RAMP * (255 / 63)))


def test_16_bits_in_a_few_of_their_levels_are_not_black(tmp_path: Path) -> None:
    """Values 0 to 255 in a file of 16 bits."""
    Image.fromarray((RAMP * 4).astype(np.uint16)).save(tmp_path / "a.png")
    message = refusal(tmp_path / "a.png")
    assert "from 0 to 252" in message
    assert "datasets.mine.value_range" in message
    assert np.array_equal(read_one(tmp_path / "a.png", value_range=(0, 255)), RAMP * 4)


def test_16_bits_per_colour_have_no_range_of_their_own(tmp_path: Path) -> None:
    rgb = np.stack([RAMP * 1000] * 3, -1).astype("<u2")
    header = struct.pack("<2sHI", b"II", 42, 8 + rgb.nbytes) + rgb.tobytes() + struct.pack("<H", 9)
    at_bits = 8 + rgb.nbytes + 2 + 9 * 12 + 4
    for tag, kind, count, value in [
        (256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 3, at_bits), (259, 4, 1, 1), (262, 4, 1, 2), (273, 4, 1, 8),
        (277, 4, 1, 3), (278, 4, 1, SIDE), (279, 4, 1, rgb.nbytes),
    ]:  # fmt: skip
        header += struct.pack("<HHII", tag, kind, count, value)
    (tmp_path / "a.tif").write_bytes(header + bytes(4) + struct.pack("<3H", 16, 16, 16))
    assert np.array_equal(read_one(tmp_path / "a.tif", 3), rgb >> 8)
    message = refusal(tmp_path / "a.tif", 3, value_range=(0, 4095))
    assert "16 bits" in message
    assert "datasets.mine.value_range" in message


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_zero(tmp_path: Path, dtype: Any) -> None:
    values = (RAMP * (4 if dtype is np.uint8 else 1024)).astype(dtype)
    path = save_tiff(tmp_path / "a.tif", values, tag262=0)
    assert np.array_equal(read_one(path), 255 - RAMP * 4)


@pytest.mark.parametrize("highest", [15, 255, 1023, 65535])
def test_a_portable_graymap_has_a_highest_value(tmp_path: Path, highest: int) -> None:
    values = RAMP * highest // 63
    body = " ".join(map(str, values.ravel()))
    (tmp_path / "a.pgm").write_text(f"P2 {SIDE} {SIDE} {highest}\n{body}\n")
    assert np.abs(read_one(tmp_path / "a.pgm").astype(int) - values * 255 / highest).max() <= 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(tmp_path: Path, value: float) -> None:
    values = RAMP.astype(np.float32)
    values[3, 3] = value
    assert "NaN or infinity" in refusal(save_tiff(tmp_path / "a.tif", values), value_range=(0, 63))


def test_colours_that_need_a_profile_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.stack([RAMP.astype(np.uint8)] * 3, -1), "LAB").save(tmp_path / "a.tif")
    assert "LAB" in refusal(tmp_path / "a.tif", 3)


def test_colours_of_one_brightness_need_channels(tmp_path: Path) -> None:
    red_or_green = np.where(RAMP[..., None] % 2 == 0, (200, 0, 0), (0, 102, 0)).astype(np.uint8)
    Image.fromarray(red_or_green).save(tmp_path / "a.png")
    assert "datasets.mine.channels" in refusal(tmp_path / "a.png")
    assert np.array_equal(read_one(tmp_path / "a.png", 3), red_or_green)


def test_a_flat_file_is_read(tmp_path: Path) -> None:
    """One flat image is the user's own; a class of them is refused by slimdiff.data.checks."""
    Image.new("I;16", (SIDE, SIDE), 77).save(tmp_path / "a.png")
    assert np.all(read_one(tmp_path / "a.png") == 0)


# --- transparency -------------------------------------------------------------------------------------------------


def white_on_clear(mode: str, path: Path) -> Path:
    """A white picture whose shape is in the transparency alone."""
    alpha = (RAMP * 4).astype(np.uint8)
    if mode in ("L", "RGB", "I;16"):  # one colour is transparent
        values = np.where(RAMP < 30, 250, 255).astype(np.uint8)
        plain = Image.fromarray(values.astype(np.uint16) * 257 if mode == "I;16" else values)
        image = plain if mode == "I;16" else plain.convert(mode)
        image.save(path, transparency=(250,) * 3 if mode == "RGB" else 250 * 257 if mode == "I;16" else 250)
    elif mode == "P":
        image = Image.fromarray(RAMP.astype(np.uint8) // 32, "P")
        image.putpalette([255] * 6)
        image.save(path, transparency=bytes([255, 0]))
    else:
        layers = [np.full_like(alpha, 255)] * (len(mode) - 1)
        Image.fromarray(np.stack([*layers, alpha], -1), mode).save(path)
    return path


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB", "I;16"])
def test_a_white_picture_on_transparency_needs_a_background(tmp_path: Path, mode: str) -> None:
    path = white_on_clear(mode, tmp_path / "a.png")
    assert "datasets.mine.background" in refusal(path)
    assert np.all(read_one(path, background=255) >= 250)
    black = read_one(path, background=0)
    assert (black.min(), black.max()) == (0, 255 if mode in ("L", "RGB", "I;16", "P") else 252)
    assert read_one(path, background=128).min() == 128


def test_a_black_picture_on_transparency_is_on_white(tmp_path: Path) -> None:
    alpha = (RAMP * 4).astype(np.uint8)
    Image.fromarray(np.stack([np.zeros_like(alpha), alpha], -1), "LA").save(tmp_path / "a.png")
    (picture,) = read(tmp_path / "a.png")
    assert np.array_equal(picture.pixels[0], 255 - alpha)
    assert picture.keys == ("background",)


def on_clear(path: Path, shape: Array, level: Any = 255) -> Path:
    """A picture of one level, or of levels, whose shape is in the transparency."""
    levels = np.broadcast_to(np.asarray(level), shape.shape)
    Image.fromarray(np.stack([levels, shape], -1).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("kind", ["speck", "shadow", "gradient", "two colours"])
def test_white_is_no_background_for_what_is_mostly_white(tmp_path: Path, kind: str) -> None:
    square = np.zeros((32, 32))
    square[8:24, 8:24] = 255
    level = np.full((32, 32), 255)
    if kind == "speck":
        level[10, 10] = 235
    elif kind == "shadow":
        level[22:24, 8:24] = 243
    elif kind == "gradient":
        square = np.tile(np.arange(32) * 8, (32, 1))
        level[16, 16] = 0
    else:
        level[:12] = 0  # a quarter of the drawing is black
    path = on_clear(tmp_path / "a.png", square, level)
    for channels in (1, 3):
        assert "datasets.mine.background" in refusal(path, channels)
        assert len(read(path, channels, background=255)) == len(read(path, channels, background=0)) == 1


@pytest.mark.parametrize("kind", ["black", "gray", "light", "photo", "opaque", "corners"])
def test_white_is_the_background_of_the_rest(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    square = np.zeros((32, 32))
    square[8:24, 8:24] = 255
    if kind == "photo":
        level = rng.integers(0, 256, (32, 32))
    elif kind == "opaque":
        square, level = np.full((32, 32), 255), np.where(square > 0, 250, 255)
    elif kind == "corners":  # a white page with a drawing
        level, square = np.where(np.arange(32) % 4 == 0, 0, 255), np.full((32, 32), 255)
        square[::31, ::31] = 0
    else:
        level = {"black": 0, "gray": 128, "light": 235}[kind]
    assert len(read(on_clear(tmp_path / "a.png", square, level), size=32)) == 1


def test_a_picture_that_its_transparency_hides_is_refused(tmp_path: Path) -> None:
    gray = (RAMP * 4).astype(np.uint8)
    Image.fromarray(np.stack([gray, gray, gray, np.zeros_like(gray)], -1)).save(tmp_path / "a.png")
    assert "datasets.mine.background" in refusal(tmp_path / "a.png")


# --- files with several images ------------------------------------------------------------------------------------


def pages(n: int, size: int = SIDE) -> list[Image.Image]:
    return [Image.fromarray(np.full((size, size), 40 * (page + 1), np.uint8)) for page in range(n)]


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_several_images_in_a_file_need_the_key(tmp_path: Path, suffix: str) -> None:
    path, (first, *rest) = tmp_path / f"a.{suffix}", pages(3)
    first.save(path, save_all=True, append_images=rest, **({"lossless": True} if suffix == "webp" else {}))
    message = refusal(path)
    assert "3 images" in message
    assert "datasets.mine.frames" in message
    tones = [[int(picture.pixels[0, 0, 0]) for picture in read(path, frames=frames)] for frames in ("first", "all")]
    assert tones == [[40], [40, 80, 120]]


def test_a_thumbnail_may_come_first(tmp_path: Path) -> None:
    first, preview = pages(1)[0], Image.new("L", (4, 4), 200)
    for flag in (1, 4):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[254] = flag
        with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "a.tif"), True) as file:
            preview.save(file, "TIFF", tiffinfo=tags)
            file.newFrame()
            first.save(file, "TIFF")
        for frames in (None, "first", "all"):
            (picture,) = read(tmp_path / "a.tif", frames=frames)
            assert np.all(picture.pixels == 40)


@pytest.mark.parametrize("kind", ["float16", "float64", "12 bits, white is zero", "gray and alpha"])
def test_kinds_that_are_not_supported_are_not_called_damaged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    if kind.startswith("float"):
        save_tiff(path, RAMP.astype(kind))
    elif kind.startswith("12"):
        save_tiff(path, RAMP, packed(RAMP, 12), tag258=12, tag339=1, tag262=0)
    else:
        save_tiff(path, RAMP, bytes(128), tag258=8, tag339=1, tag277=2)
    message = refusal(path, value_range=(0, 1))
    assert "not supported" in message
    assert "PNG of 8 bits" in message


def test_thumbnails_and_previews_are_no_images(tmp_path: Path) -> None:
    first, preview = pages(1)[0], pages(1, 4)[0]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1  # a version of lower resolution
    preview.encoderinfo = {"tiffinfo": tags}
    first.save(tmp_path / "a.tif", save_all=True, append_images=[preview])
    first.convert("RGB").save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview.convert("RGB")])
    for name in ("a.tif", "a.jpg"):
        with Image.open(tmp_path / name) as image:
            assert image.n_frames == 2
        assert len(read(tmp_path / name, frames="all")) == len(read(tmp_path / name)) == 1


# --- the numbers of the file --------------------------------------------------------------------------------------

KINDS = {  # highest value, by how a file is written
    **{f"png {bits}": 2**bits - 1 for bits in (1, 2, 4, 8, 16)},
    **{f"png rgb {bits}": 2**bits - 1 for bits in (8, 16)},
    **{f"{kind} {highest}": highest for kind in ("pgm", "ppm") for highest in (1, 15, 100, 255, 1000, 4095, 65535)},
    **{f"tiff {bits}": 2**bits - 1 for bits in (1, 2, 4, 8, 12, 16)},
    "la": 255,
    "rgba": 255,
}


def write_kind(path: Path, kind: str, values: Array, alpha: Array, clear: int | None, options: dict[str, bool]) -> Path:
    name, _, depth = kind.rpartition(" ")
    highest = KINDS[kind]
    if name.startswith("png"):
        return save_png(path.with_suffix(".png"), values, int(depth), clear)
    if name in ("pgm", "ppm"):
        return save_pnm(path.with_suffix(".ppm"), values, highest, options["plain"])
    if name == "tiff":
        bits = int(depth)
        strip = values.astype("<u2").tobytes() if bits == 16 else packed(values, bits)
        return save_tiff(path.with_suffix(".tif"), values, strip, tag258=bits, tag339=1, tag262=1 - options["inverted"])
    bands = [*np.moveaxis(np.atleast_3d(values), 2, 0), alpha]
    Image.fromarray(np.stack(bands, -1).astype(np.uint8)).save(path := path.with_suffix(".png"))
    return path


def reference(values: Array, highest: int, limits: tuple[float, float] | None, inverted: bool) -> Array:
    """Gray levels of the numbers of a file, not rounded."""
    low, high = limits or (0, highest)
    levels = (values.astype(np.float64).clip(low, high) - low) * 255 / (high - low)
    return 255 - levels if inverted else levels


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(KINDS)),
    ends=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
    background=st.none() | st.integers(0, 255),
    has_clear=st.booleans(),
    options=st.fixed_dictionaries({"plain": st.booleans(), "inverted": st.booleans()}),
)
def test_the_numbers_of_a_file_become_levels_or_are_refused(
    seed: int,
    kind: str,
    ends: tuple[float, float] | None,
    background: int | None,
    has_clear: bool,
    options: dict[str, bool],
) -> None:
    """Files written byte by byte; the range, where one is set, is in the file's own numbers, the background is not."""
    rng = np.random.default_rng(seed)
    highest, colour = KINDS[kind], "rgb" in kind or "ppm" in kind
    values = rng.integers(0, highest + 1, (SIDE, SIDE, 3) if colour else (SIDE, SIDE)).astype(np.uint16)
    values[0, :2], alpha = (highest if colour else [0, highest]), rng.integers(0, 256, (SIDE, SIDE))
    clear = int(values[3, 3].flat[0]) if has_clear and kind.startswith("png") else None
    if clear is not None:
        values[3, 3] = clear
    limits = None
    if ends and max(ends) * highest - min(ends) * highest >= highest / 100:
        limits = (min(ends) * highest, max(ends) * highest)
    inverted = options["inverted"] and kind.startswith("tiff")
    levels = np.broadcast_to(np.atleast_3d(reference(values, highest, limits, inverted)), (SIDE, SIDE, 3))
    cover = np.ones((SIDE, SIDE, 1))
    if kind in ("la", "rgba"):
        cover = alpha[..., None] / 255
    elif clear is not None:
        cover = 1.0 - (np.atleast_3d(values) == clear).all(2, keepdims=True)
    expected = levels * cover + (255 if background is None else background) * (1 - cover)
    with tempfile.TemporaryDirectory() as folder:
        path = write_kind(Path(folder) / "a", kind, values, alpha, clear, options)
        try:
            (picture,) = read(path, 3, value_range=limits, background=background)
        except UserError as error:
            assert str(error).isprintable()
            lossy = colour and highest > 255
            if kind == "tiff 12" and inverted:
                return  # Pillow does not read it
            assert (limits and (inverted or lossy)) or (lossy and clear is not None) or "background" in str(error)
            assert "background" not in str(error) or ((cover < 1).any() and background is None)
            return
    assert np.abs(picture.pixels.transpose(1, 2, 0) - expected).max() < 1.01
    if limits:
        assert picture.limits == limits
        assert picture.found == (values.min(), values.max())


@pytest.mark.parametrize(
    ("kind", "limits"), [("png 4", (0, 255)), ("png 8", (0, 1000)), ("pgm 1000", (0, 4095)), ("png 16", (-1, 9))]
)
def test_a_range_beyond_the_bits_of_a_file_is_refused(tmp_path: Path, kind: str, limits: tuple[float, float]) -> None:
    """Else files of fewer bits among others would be dark."""
    path = write_kind(tmp_path / "a", kind, RAMP * KINDS[kind] // 63, RAMP, None, {"plain": False})
    message = refusal(path, value_range=limits)
    assert f"0 to {KINDS[kind]}" in message
    assert "datasets.mine.value_range" in message


@pytest.mark.parametrize("mode", ["CMYK", "RGBa", "palette", "bits"])
def test_converted_numbers_have_no_range(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    if mode == "bits":
        (path := tmp_path / "a.pbm").write_bytes(b"P4 8 8\n" + bytes(range(1, 9)))
    elif mode == "palette":
        Image.fromarray(RAMP.astype(np.uint8), "P").save(path)
    elif mode == "RGBa":
        strip = np.stack([RAMP * 4] * 4, -1).astype(np.uint8).tobytes()
        save_tiff(path, RAMP, strip, tag258=8, tag262=2, tag277=4, tag338=1, tag339=1)
    else:
        Image.fromarray(np.stack([RAMP * 4] * 4, -1).astype(np.uint8), mode).save(path)
    assert "datasets.mine.value_range" in refusal(path, value_range=(0, 100))
    assert len(read(path, background=0)) == 1


def test_specks_do_not_hide_a_loss(tmp_path: Path) -> None:
    """One bright pixel among values of 16 bits that turn flat, or among colours of one brightness."""
    deep = np.tile(RAMP * 4, (4, 4)).astype(np.uint16)
    deep[5, 5] = 65535
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert "datasets.mine.value_range" in refusal(tmp_path / "deep.png")
    assert len(read(tmp_path / "deep.png", value_range=(0, 255))) == 1
    colours = np.where(np.tile(RAMP, (4, 4))[..., None] % 2 == 0, (200, 0, 0), (0, 102, 0)).astype(np.uint8)
    colours[5, 5] = 255
    Image.fromarray(colours).save(tmp_path / "colours.png")
    assert "datasets.mine.channels" in refusal(tmp_path / "colours.png")
    sky = np.zeros((32, 32), np.uint16)
    sky[5, 5] = 65535  # a star is a picture
    Image.fromarray(sky).save(tmp_path / "sky.png")
    assert read(tmp_path / "sky.png", size=32)[0].pixels.max() == 255


# --- the whole stage ----------------------------------------------------------------------------------------------


def expected_gray(mode: str, values: Array, background: int) -> Array:
    """The picture in gray, computed from the values alone; (H, W, bands) for modes of several bands."""
    x = values.astype(np.float64)
    if mode in ("1", "L", "P"):
        return x
    if mode == "LA":
        return (x[..., 0] * x[..., 1] + background * (255 - x[..., 1])) / 255
    if mode == "I;16":
        return np.floor(x / 256)
    if mode in ("I", "F"):
        return x
    if mode == "CMYK":
        x = (255 - x[..., :3]) * (255 - x[..., 3:]) / 255
    if mode == "RGBA":
        x = (x[..., :3] * x[..., 3:] + background * (255 - x[..., 3:])) / 255
    return x @ np.array([0.299, 0.587, 0.114])


RANGES = {"I;16": 65535, "I": 100_000, "F": 1}  # of the values that make_values makes


def make_values(rng: np.random.Generator, mode: str, low: float, high: float, clear: bool) -> Array:
    """Random values of a mode, `low` to `high` being shares of the range of its bits; `clear`: white, all in alpha."""
    bands = {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode, 1)
    share = low + (high - low) * rng.random((SIDE, SIDE, bands))
    if mode == "1":
        return 255 * (share[..., 0] > 0.5)
    values = share if mode == "F" else np.rint(share * RANGES.get(mode, 255))
    if mode in ("LA", "RGBA"):
        values[..., -1] = np.rint(255 * rng.random((SIDE, SIDE)))
        values[..., :-1] = 255 if clear else values[..., :-1]
    return values if bands > 1 else values[..., 0]


def save_values(path: Path, mode: str, values: Array) -> Path:
    if mode == "1":
        Image.fromarray(values.astype(np.uint8)).convert("1").save(path := path.with_suffix(".png"))
    elif mode == "P":
        image = Image.fromarray(values.astype(np.uint8), "P")
        image.putpalette([level for level in range(256) for _ in range(3)])
        image.save(path := path.with_suffix(".png"))
    else:
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode, np.uint8)
        image = Image.fromarray(values.astype(dtype), mode) if mode == "CMYK" else Image.fromarray(values.astype(dtype))
        image.save(path := path.with_suffix(".tif" if mode in ("I", "F", "CMYK") else ".png"))
    return path


def run_stage(root: Path, out: Path, **keys: Any) -> None:
    settings = {"name": "mine", "source": "folder", "path": str(root), "image_size": SIDE, "channels": 1}
    options = settings | {"test_fraction": 0.3} | keys
    data.main(["--settings", json.dumps(options), "--data-dir", str(root), "--out", str(out)])


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    modes=st.lists(
        st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"]), min_size=1, max_size=2
    ),
    counts=st.lists(st.integers(2, 6), min_size=2, max_size=3),
    ends=st.sampled_from([(0, 1), (0, 1), (0.3, 0.7), (0, 0.0625), (0, 0.004), (0.5, 0.5), (0.98, 1)]),
    background=st.sampled_from(["auto", "white", "black", 77]),
    clear=st.booleans(),
    ranged=st.booleans(),
)
def test_what_is_stored_is_the_picture_or_one_line_refuses(
    seed: int,
    modes: Sequence[str],
    counts: Sequence[int],
    ends: tuple[float, float],
    background: str | int,
    clear: bool,
    ranged: bool,
) -> None:
    """Write random files, run the stage, and compare what it stores, unless it refuses."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        level = {"auto": 255, "white": 255, "black": 0}.get(str(background), background)
        limits = (0, RANGES[modes[0]]) if ranged and len(set(modes)) == 1 and modes[0] in RANGES else None
        pictures = []
        for label, n in enumerate(counts):
            (root / "images" / f"class{label}").mkdir(parents=True)
            for index in range(n):
                mode = modes[index % len(modes)]
                values = make_values(rng, mode, *ends, clear)
                save_values(root / "images" / f"class{label}" / str(index), mode, values)
                gray = values / limits[1] * 255 if limits else expected_gray(mode, values, int(level))
                pictures.append((label, gray))
        try:
            keys = {"background": background} | ({"value_range": limits} if limits else {})
            run_stage(root / "images", root / "out.safetensors", **keys)
        except UserError as error:
            assert str(error).isprintable()
            assert "datasets.mine" in str(error)
            assert "class" in str(error)
            plain = set(modes) <= {"1", "L", "P", "RGB", "CMYK", "I;16"} or (set(modes) <= {"LA", "RGBA"} and not clear)
            plain = plain or limits is not None
            assert not plain or ends not in [(0, 1), (0.3, 0.7)] or "1" in modes, f"refused for no reason: {error}"
            return
        stored = image_set.read(root / "out.safetensors")
        images = [*stored.train_images.numpy(), *stored.test_images.numpy()]
        labels = [*stored.train_labels.tolist(), *stored.test_labels.tolist()]
        assert sorted(labels) == sorted(label for label, _ in pictures)
        left = list(pictures)
        for image, label in zip(images, labels, strict=True):
            index = next(
                i for i, (own, picture) in enumerate(left) if own == label and np.abs(image[0] - picture).max() <= 1.51
            )
            del left[index]
        for label in range(len(counts)):
            own = [image for image, other in zip(images, labels, strict=True) if other == label]
            flat = sum(int(image.max()) - int(image.min()) <= 1 for image in own)
            assert flat <= len(own) / 2, "a class of flat tones"
        report = read_header(root / "out.safetensors", image_set.KIND)["report"]
        assert set(report["modes"]) == set(modes)
        assert [sum(side.values()) for side in report["classes"].values()] == list(counts)
