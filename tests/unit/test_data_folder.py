"""Folders of images: split, names and damaged files."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from photos import big, empty, postscript, text
from PIL import Image

from slimdiff.data import folder, image_files, sources
from slimdiff.data.folder import FolderSettings
from slimdiff.data.image_reading import Reading
from slimdiff.data.sources import DataSettings
from slimdiff.errors import UserError


def save(path: Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (12, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for label, name in enumerate(("cats", "dogs")):
        for number in range(10):
            save(root / name / f"{number}.png", 100 * label + number)
    return root


def settings(root: Path, size: int = 8, channels: int = 3, test_fraction: float = 0.2) -> FolderSettings:
    return FolderSettings(str(root), test_fraction, Reading("datasets.pets", size, channels))


def read_image(path: Path, size: int, channels: int) -> npt.NDArray[np.uint8]:
    (picture,) = image_files.read(path, Reading("datasets.pets", size, channels))
    return picture.pixels


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("channels", [1, 3])
def test_classes_are_folders(photos: Path, channels: int) -> None:
    found = folder.load("pets", settings(photos, channels=channels))
    assert found.classes == ("cats", "dogs")
    assert found.image_shape == (channels, 8, 8)
    assert torch.bincount(found.train_labels).tolist() == [8, 8]
    assert torch.bincount(found.test_labels).tolist() == [2, 2]
    assert len(rows(found.train_images) | rows(found.test_images)) == 20


def test_the_split_depends_on_file_names_alone(photos: Path, tmp_path: Path) -> None:
    found = folder.load("pets", settings(photos))
    moved = tmp_path / "elsewhere" / "images"
    moved.parent.mkdir()
    photos.rename(moved)
    (moved / "cats" / ".DS_Store").write_bytes(b"hidden")
    (moved / ".git").mkdir()
    again = folder.load("other", settings(moved))
    assert torch.equal(found.train_images, again.train_images)
    assert torch.equal(found.test_images, again.test_images)


@pytest.mark.parametrize(("fraction", "n_test"), [(0.01, 1), (0.5, 5), (0.99, 9)])
def test_training_and_test_sets_are_never_empty(photos: Path, fraction: float, n_test: int) -> None:
    found = folder.load("pets", settings(photos, test_fraction=fraction))
    assert torch.bincount(found.test_labels).tolist() == [n_test, n_test]
    assert torch.bincount(found.train_labels).tolist() == [10 - n_test, 10 - n_test]


def test_pixels_are_unchanged(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", size=(8, 8))
    assert np.array_equal(read_image(path, 8, 3).transpose(1, 2, 0), np.asarray(Image.open(path)))


def test_images_are_cropped_to_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert np.all(read_image(tmp_path / "wide.png", 8, 3) == 200)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes_are_converted(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), mode=mode)
    assert read_image(path, 6, 1).shape == (1, 6, 6)
    assert read_image(path, 6, 3).shape == (3, 6, 6)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png", 8, 1)[0], levels // 256)


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "glass.png")
    assert np.all(read_image(tmp_path / "glass.png", 8, 3) == 255)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("L", (8, 8))
    image.paste(255, (0, 0, 8, 4))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png", 8, 1)
    assert np.all(found[0, :4] == 0)
    assert np.all(found[0, 4:] == 255)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)


def bomb(path: Path) -> None:
    """A PNG of a few bytes that claims 30,000 × 30,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)))


def floats(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(path, format="TIFF")


@pytest.mark.parametrize("damage", [truncated, text, empty, postscript, flipped, bomb, big, floats])
def test_a_broken_image_is_named(photos: Path, damage: Callable[[Path], None]) -> None:
    path = photos / "dogs" / "3.png"
    damage(path)
    with pytest.raises(UserError, match=r"dogs/3\.png") as caught:
        folder.load("pets", settings(photos))
    assert "\n" not in str(caught.value)


def test_a_file_without_an_image_suffix_is_refused(photos: Path) -> None:
    (photos / "cats" / "notes.txt").write_text("nice cats")
    with pytest.raises(UserError, match=r"cats/notes\.txt is not an image file; allowed: \.png, \.jpg"):
        folder.load("pets", settings(photos))


def test_a_folder_inside_a_class_is_refused(photos: Path) -> None:
    (photos / "cats" / "more.png").mkdir()
    with pytest.raises(UserError, match=r"cats/more\.png is not an image file"):
        folder.load("pets", settings(photos))


def test_an_image_next_to_the_class_folders_is_refused(photos: Path) -> None:
    save(photos / "stray.png")
    with pytest.raises(UserError, match=r"stray\.png lies outside the class folders"):
        folder.load("pets", settings(photos))


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\.pets\.path: .*nowhere cannot be read"):
        folder.load("pets", settings(tmp_path / "nowhere"))


@pytest.mark.parametrize(("names", "found"), [([], "none"), (["cats"], "'cats'")])
def test_a_single_class_is_refused(photos: Path, tmp_path: Path, names: list[str], found: str) -> None:
    root = tmp_path / "few"
    root.mkdir()
    for name in names:
        (photos / name).rename(root / name)
    with pytest.raises(UserError, match=rf"datasets\.pets\.path: .*few needs .* found {found}$"):
        folder.load("pets", settings(root))


@pytest.mark.parametrize("n", [0, 1])
def test_a_class_needs_two_images(photos: Path, n: int) -> None:
    for number in range(n, 10):
        (photos / "dogs" / f"{number}.png").unlink()
    with pytest.raises(UserError, match=f"dogs holds {n} image files"):
        folder.load("pets", settings(photos))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 3}, "image_size is 3; it must be at least 4"),
        ({"channels": 4}, r"channels is 4; allowed: 1 \(gray\), 3 \(RGB\)"),
        ({"test_fraction": 0.0}, "test_fraction is 0.0; it must lie between 0 and 1"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0; it must lie between 0 and 1"),
    ],
)
def test_settings_out_of_range(photos: Path, change: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=rf"datasets\.pets\.{message}"):
        folder.load("pets", settings(photos, **change))  # type: ignore[arg-type]


def test_the_folder_source_is_registered(photos: Path) -> None:
    wanted = DataSettings(name="pets", source="folder", path=str(photos), image_size=8, channels=3, test_fraction=0.2)
    assert sources.load(wanted, Path("data")).dataset == "pets"
