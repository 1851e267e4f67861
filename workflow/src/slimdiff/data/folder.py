"""The user's own data set: a folder with one subfolder of image files per class."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from slimdiff.catalog.limits import count_test
from slimdiff.data.download import Availability
from slimdiff.data.image_headers import FORMATS, check_size
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class FolderSettings:
    """How to turn a folder into a data set."""

    path: str  # holds one folder per class
    image_size: int  # height and width after a centre crop to a square, at least 4
    channels: int  # 1 (gray) or 3 (RGB)
    test_fraction: float  # of each class, above 0 and below 1


def load(dataset: str, settings: FolderSettings) -> ImageSet:
    """Return every image below `settings.path`; its folder's name is its class.

    A hash of class and file name decides the split, so it depends on nothing else and spreads neighbouring frames of
    a video over both parts. Hidden files are ignored.

    Raises:
        UserError: the folder is missing, has fewer than two classes, a class of one image, or a damaged image.
    """
    _check(dataset, settings)
    root = Path(settings.path)
    classes = _class_folders(dataset, root)
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, folder in enumerate(classes):
        files = sorted(_image_files(folder), key=_split_key)
        if len(files) < 2:
            raise UserError(f"class folder {folder} holds {len(files)} images; it needs one to train and one to test")
        n_test = count_test(len(files), settings.test_fraction)
        test += [(file, label) for file in sorted(files[:n_test])]
        train += [(file, label) for file in sorted(files[n_test:])]
    train_images, train_labels = _stack(train, settings)
    test_images, test_labels = _stack(test, settings)
    names = tuple(folder.name for folder in classes)
    return ImageSet(train_images, train_labels, test_images, test_labels, dataset, names, f"folder {root}")


def find(dataset: str, root: Path) -> Availability:
    """Return whether `root` holds a folder for each class, without opening an image."""
    try:
        return Availability(f"{len(_class_folders(dataset, root))} classes in {root}")
    except UserError as error:
        return Availability(problem=str(error), fix=f"correct datasets.{dataset}.path or the folder")


def read_image(path: Path, size: int, channels: int) -> torch.Tensor:
    """Return one image file as uint8 (channels, size, size).

    Apply EXIF orientation, blend transparency over white, scale 16 bits to 8, crop the central square and resample it
    (Lanczos).

    Raises:
        UserError: the file is damaged or too large; the message names it.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_size(path, image)
            image.load()
            upright = ImageOps.exif_transpose(image)
            plain = _eight_bits(upright, path).convert("RGB" if channels == 3 else "L")
            square = ImageOps.fit(plain, (size, size), Image.Resampling.LANCZOS)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise a dozen different errors for damaged bytes
        raise UserError(f"{path} is a damaged image ({error}): replace it or remove it from the folder") from None
    return torch.from_numpy(np.array(square, np.uint8).reshape(size, size, channels)).permute(2, 0, 1)


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """Return `image` in a mode that Pillow converts to gray or RGB without clipping or losing transparency."""
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point pixels, whose range is unknown: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image


def _check(dataset: str, settings: FolderSettings) -> None:
    key = f"datasets.{dataset}"
    if settings.image_size < 4:
        raise UserError(f"{key}.image_size is {settings.image_size}; it must be at least 4")
    if settings.channels not in (1, 3):
        raise UserError(f"{key}.channels is {settings.channels}; allowed: 1 (gray), 3 (RGB)")
    if not 0 < settings.test_fraction < 1:
        raise UserError(f"{key}.test_fraction is {settings.test_fraction}; it must lie between 0 and 1")


def _class_folders(dataset: str, root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"datasets.{dataset}.path: folder {root} does not exist")
    entries = _visible(root)
    stray = next((entry for entry in entries if not entry.is_dir()), None)
    if stray:
        raise UserError(f"{stray} lies outside the class folders of data set {dataset!r}: move or delete it")
    if len(entries) < 2:
        raise UserError(
            f"datasets.{dataset}.path: {root} holds {len(entries)} class folders, at least 2 are needed; "
            "it must hold one folder per class, with the images inside"
        )
    return entries


def _image_files(folder: Path) -> list[Path]:
    files = _visible(folder)
    for file in files:
        if not file.is_file() or file.suffix.lower() not in SUFFIXES:
            raise UserError(f"{file} is not an image file; allowed: {', '.join(SUFFIXES)}. Move or delete it")
    return files


def _split_key(file: Path) -> bytes:
    """Return a sort key that puts the files of a class in a reproducible random order."""
    return hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).digest()


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _stack(files: list[tuple[Path, int]], settings: FolderSettings) -> tuple[torch.Tensor, torch.Tensor]:
    images = [read_image(file, settings.image_size, settings.channels) for file, _ in files]
    return torch.stack(images), torch.tensor([label for _, label in files], dtype=torch.int64)
