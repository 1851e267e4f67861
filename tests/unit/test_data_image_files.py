"""Image files of every mode and depth: stored as any viewer shows them, or refused with the key that settles it."""

import json
import struct
import tempfile
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
from slimdiff.data.image_files import Picture, Reading
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


def save_tiff(path: Path, values: Array, **tags: int) -> Path:
    """Write a TIFF of one strip with the values as they are, for bits and signs that Pillow does not write."""
    height, width = values.shape
    bits, kind = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: values.nbytes}
    entries |= {339: kind} | {int(tag.removeprefix("tag")): value for tag, value in tags.items()}
    content = (
        struct.pack("<2sHI", b"II", 42, 8 + values.nbytes) + values.astype(values.dtype.newbyteorder("<")).tobytes()
    )
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
    assert "save it with 8 bits" in refusal(tmp_path / "a.tif", 3, value_range=(0, 4095))


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
    assert np.all(read_one(path, background=255) >= 250), "what was asked for"
    black = read_one(path, background=0)
    assert (black.min(), black.max()) == (0, 255 if mode in ("L", "RGB", "I;16", "P") else 252)
    assert read_one(path, background=128).min() == 128


def test_a_black_picture_on_transparency_is_on_white(tmp_path: Path) -> None:
    alpha = (RAMP * 4).astype(np.uint8)
    Image.fromarray(np.stack([np.zeros_like(alpha), alpha], -1), "LA").save(tmp_path / "a.png")
    (picture,) = read(tmp_path / "a.png")
    assert np.array_equal(picture.pixels[0], 255 - alpha)
    assert picture.keys == ("background",)


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
            assert max(int(image.max()) - int(image.min()) for image in own) > 1, "a class of flat tones"
        report = read_header(root / "out.safetensors", image_set.KIND)["report"]
        assert set(report["modes"]) == set(modes)
        assert [sum(side.values()) for side in report["classes"].values()] == list(counts)
