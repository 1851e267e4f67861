"""What the data stage reports of a data set, and what it refuses."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import striped_images
from PIL import Image, ImageCms, PngImagePlugin

from slimdiff.data import checks, image_set, sources
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError
from slimdiff.io.safetensors_header import read_header
from slimdiff.stages import data

SIDE = 8


def arrays(**changes: torch.Tensor) -> ImageSet:
    return replace(striped_images(), **changes)


def save(root: Path, name: str, values: Any) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def noise(seed: int, high: int = 256, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(seed).integers(0, high, (SIDE, SIDE)).astype(dtype)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Two classes of six images."""
    for index in range(12):
        save(tmp_path / "shapes", f"{('a', 'b')[index % 2]}/{index}.png", noise(index))
    return tmp_path / "shapes"


def run(root: Path, **keys: Any) -> tuple[ImageSet, dict[str, Any]]:
    """The stage's file: images, and the report in its header."""
    settings = {"source": "folder", "path": str(root), "image_size": SIDE, "channels": 1, "test_fraction": 0.5}
    out = root.parent / "images.safetensors"
    arguments = ["--settings", json.dumps({"name": "mine"} | settings | keys), "--data-dir", str(root)]
    data.main([*arguments, "--out", str(out)])
    return image_set.read(out), read_header(out, image_set.KIND)["report"]


def refusal(root: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        run(root, **keys)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_the_report_says_what_is_there(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(shapes, "a/flat.png", np.full((SIDE, SIDE), 9, np.uint8))
    save(shapes, "b/deep.png", np.arange(0, 65536, 1024, dtype=np.uint16).reshape(SIDE, SIDE))
    images, report = run(shapes)
    assert report["classes"] == {"a": {"train": 3, "test": 4}, "b": {"train": 3, "test": 4}}
    assert sum(report["flat"].values()) == 1
    assert report["duplicates"] == {"train": 0, "test": 0, "across": 0, "dropped": 0}
    assert report["modes"]["L"] == {"images": 13, "range": [0, 255], "found": [0, 255], "used": 1.0}
    assert report["modes"]["I;16"] == {"images": 1, "range": [0, 65535], "found": [0, 64512], "used": 64512 / 65535}
    printed = capsys.readouterr().out
    assert "a 7, b 7" in printed
    assert "values 0 to 64512, 98 % of the range 0 to 65535" in printed
    assert images.files is None, "what was read from is not stored"


def test_arrays_have_a_report_too() -> None:
    images, report = checks.examine(arrays(), "keep")
    assert torch.equal(images.train_images, arrays().train_images)
    assert report["modes"]["uint8"]["images"] == 96
    assert report["classes"]["rows"] == {"train": 36, "test": 12}


def test_the_digits_are_unharmed() -> None:
    digits = sources.load(sources.DataSettings(name="digits", source="digits"), Path("data"))
    images, report = checks.examine(digits, "keep")
    assert images is digits
    assert report["duplicates"] == {"train": 0, "test": 0, "across": 0, "dropped": 0}
    assert report["flat"] == {"train": 0, "test": 0}


# --- duplicates ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(shapes: Path) -> Path:
    """Training images of class a, each once more in the training set and once in the test set."""
    clean, _ = run(shapes)
    original = clean.train_images[clean.train_labels == 0][0, 0].numpy()
    for index in range(40):
        save(shapes, f"a/copy {index}.png", original)
    return shapes


def test_duplicates_are_counted(copied: Path) -> None:
    images, report = run(copied)
    train, test = ([image.numpy().tobytes() for image in side] for side in (images.train_images, images.test_images))
    assert report["duplicates"]["across"] == sum(image in train for image in test) > 0
    assert report["duplicates"]["train"] == len(train) - len(set(train)) > 0
    assert report["duplicates"]["test"] == len(test) - len(set(test)) > 0


def test_duplicates_across_the_split_can_be_dropped(copied: Path) -> None:
    kept, report = run(copied)
    images, dropped = run(copied, duplicates="drop")
    assert dropped["duplicates"]["dropped"] == report["duplicates"]["across"]
    assert dropped["duplicates"]["across"] == 0
    assert torch.equal(images.train_images, kept.train_images)
    assert len(images.test_images) == len(images.test_labels) == len(kept.test_images) - report["duplicates"]["across"]
    assert not {x.numpy().tobytes() for x in images.train_images} & {x.numpy().tobytes() for x in images.test_images}
    assert dropped["classes"]["a"]["test"] == int((images.test_labels == 0).sum())


def test_a_class_may_not_lose_all_its_test_images() -> None:
    whole = arrays(
        test_images=striped_images().train_images[:4].clone(), test_labels=striped_images().train_labels[:4].clone()
    )
    with pytest.raises(UserError, match=r"datasets\.stripes\.duplicates .* class 'rows'"):
        checks.examine(whole, "drop")
    assert checks.examine(whole, "keep")[1]["duplicates"]["across"] == 4


# --- sets without contrast ----------------------------------------------------------------------------------------


def test_a_class_of_flat_tones_is_refused(shapes: Path) -> None:
    for path in (shapes / "b").iterdir():
        save(shapes, f"b/{path.name}", np.full((SIDE, SIDE), 20 * int(path.stem), np.uint8))
    message = refusal(shapes)
    assert "6 of 6 images of class 'b'" in message
    assert str(shapes / "b") in message
    assert "datasets.mine.value_range" in message


@pytest.mark.parametrize(("n_flat", "refused"), [(1, False), (3, False), (4, True), (5, True)])
def test_a_class_of_mostly_flat_tones_is_refused(shapes: Path, n_flat: int, refused: bool) -> None:
    """Half of the six images may be blank; they are counted."""
    flat = sorted((shapes / "b").iterdir())[:n_flat]
    for path in flat:
        save(shapes, f"b/{path.name}", np.full((SIDE, SIDE), 255, np.uint8))
    if refused:
        message = refusal(shapes)
        assert f"{n_flat} of 6 images of class 'b'" in message
        assert any(str(path) in message for path in flat)
        assert "datasets.mine" in message
    else:
        assert sum(run(shapes)[1]["flat"].values()) == n_flat


def test_a_background_that_hides_most_of_a_class_is_refused(tmp_path: Path) -> None:
    """Black drawings, and a few white ones, over black."""
    for index in range(12):
        values = np.stack([np.full((SIDE, SIDE), 255 * (index < 4), np.uint8), noise(index)], -1)
        save(tmp_path / "icons", f"{('a', 'b')[index % 2]}/{index}.png", values)
    message = refusal(tmp_path / "icons", background="black")
    assert "4 of 6 images of class 'a'" in message
    assert "datasets.mine.background" in message


def test_colour_spaces_are_counted(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are not applied: 8 bits are stored as they are."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for path, profile in zip(sorted((shapes / "a").iterdir()), (srgb, xyz, xyz), strict=False):
        Image.open(path).save(path, icc_profile=profile)
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", struct.pack(">I", 100_000))
    Image.open(shapes / "b" / "1.png").save(shapes / "b" / "1.png", pnginfo=gamma)
    images, report = run(shapes)
    assert report["unapplied_profiles"] == 3
    assert "stored unconverted: 3" in capsys.readouterr().out
    stored = {image.numpy().tobytes() for image in [*images.train_images, *images.test_images]}
    assert stored == {noise(index).tobytes() for index in range(12)}


def test_a_class_of_one_image_over_and_over_is_refused(shapes: Path) -> None:
    for path in (shapes / "a").iterdir():
        save(shapes, f"a/{path.name}", noise(1))
    assert "all 6 images of class 'a'" in refusal(shapes)


@pytest.mark.parametrize(("bits", "refused"), [(10, True), (12, True), (14, False), (16, False)])
def test_a_few_bits_in_files_of_16_need_the_range(tmp_path: Path, bits: int, refused: bool) -> None:
    for index in range(12):
        save(tmp_path / "deep", f"{('a', 'b')[index % 2]}/{index}.png", noise(index, 2**bits, np.uint16))
    if refused:
        message = refusal(tmp_path / "deep")
        assert "mode I;16" in message
        assert "datasets.mine.value_range" in message
    images, report = run(tmp_path / "deep", **({"value_range": [0, 2**bits - 1]} if refused else {}))
    assert report["modes"]["I;16"]["used"] > (0.9 if refused else 0.2)
    assert int(images.train_images.max()) >= (250 if refused else 60)


def test_one_dark_class_among_bright_ones_is_refused(tmp_path: Path) -> None:
    for index in range(12):
        values = noise(index, 2**16 if index % 2 else 2**11, np.uint16)
        save(tmp_path / "deep", f"{('dark', 'bright')[index % 2]}/{index}.png", values)
    message = refusal(tmp_path / "deep")
    assert "class 'dark'" in message
    assert "datasets.mine.value_range" in message


def test_a_range_apart_from_the_values_is_refused(shapes: Path) -> None:
    assert "datasets.mine.value_range" in refusal(shapes, value_range=[1000, 2000])


def test_a_white_background_that_hides_everything_is_refused(tmp_path: Path) -> None:
    for index in range(12):
        values = np.stack([np.full((SIDE, SIDE), 255, np.uint8), noise(index)], -1)
        save(tmp_path / "icons", f"{('a', 'b')[index % 2]}/{index}.png", values)
    for keys in ({}, {"background": "auto"}, {"background": "white"}, {"background": 255}):
        assert "datasets.mine.background" in refusal(tmp_path / "icons", **keys)
    images, _ = run(tmp_path / "icons", background="black")
    assert {x.numpy().tobytes() for x in [*images.train_images, *images.test_images]} == {
        noise(index).tobytes() for index in range(12)
    }


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"train_images": torch.full((72, 1, 20, 20), 7, dtype=torch.uint8)}, id="one gray level"),
        pytest.param({"train_images": striped_images().train_images // 64}, id="a few gray levels"),
    ],
)
def test_arrays_without_contrast_are_refused(changes: dict[str, torch.Tensor]) -> None:
    changes["test_images"] = changes["train_images"][:24].clone()
    with pytest.raises(UserError, match=r"config key datasets\.stripes\)"):
        checks.examine(arrays(**changes), "keep")


def test_frames_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    for index in range(8):
        path = tmp_path / "films" / ("a", "b")[index % 2] / f"{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = [Image.fromarray(np.full((SIDE, SIDE), 30 * index, np.uint8)) for _ in range(5)]
        for number, frame in enumerate(frames):
            frame.putpixel((number, 0), 255 - 30 * index)
        frames[0].save(path, save_all=True, append_images=frames[1:])
    images, report = run(tmp_path / "films", frames="all")
    assert report["classes"] == {name: {"train": 10, "test": 10} for name in "ab"}
    tones = [set(side[:, 0, 7, 7].tolist()) for side in (images.train_images, images.test_images)]
    assert len(tones[0]) == len(tones[1]) == 4
    assert not tones[0] & tones[1]
    assert len(run(tmp_path / "films", frames="first")[0].train_images) == 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "P", "I;16"])
def test_digits_as_files_are_the_digits(tmp_path: Path, mode: str) -> None:
    """And a few blank images among them."""
    digits = sources.load(sources.DataSettings("digits", "digits"), Path("nowhere"))
    expected = set()
    for index, (image, label) in enumerate(zip(digits.test_images[:, 0], digits.test_labels.tolist(), strict=True)):
        values = image.numpy() * (index % 50 != 0)
        expected.add(values.tobytes())
        if mode == "I;16":
            save(tmp_path / "digits", f"{label}/{index}.png", values.astype(np.uint16) * 257)
        else:
            path = tmp_path / "digits" / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).convert(mode).save(path)
    images, report = run(tmp_path / "digits")
    assert {image.numpy().tobytes() for image in [*images.train_images, *images.test_images]} == expected
    assert sum(report["flat"].values()) == 8


def test_a_class_without_training_images_is_refused() -> None:
    """Nothing could be trained on it, nor compared with its samples. Without test images it only lacks a floor."""
    images = striped_images()
    with pytest.raises(
        UserError, match=r"class 'third' of data set 'stripes' has no training image.*datasets\.stripes"
    ):
        checks.examine(arrays(classes=(*images.classes, "third")), "keep")
    own = images.test_labels == 0
    left = arrays(test_images=images.test_images[own], test_labels=images.test_labels[own])
    assert [count["test"] for count in checks.examine(left, "keep")[1]["classes"].values()] == [int(own.sum()), 0]
