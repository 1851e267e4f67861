"""A data set of the user's own: a folder with one sub-folder of image files for each class."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError

# Only these readers are asked, whatever a file claims to be: others start programs (EPS) or are rarely tried.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 64_000_000  # of one file, before it is decoded; a small file can claim to hold terabytes


@dataclass(frozen=True)
class FolderSettings:
    """How a folder becomes a data set."""

    path: str  # holds one folder per class
    image_size: int  # height and width after a centre crop to a square, at least 4
    channels: int  # 1 (gray) or 3 (RGB)
    test_fraction: float  # of every class, above 0 and below 1


def load(dataset: str, settings: FolderSettings) -> ImageSet:
    """Every image below `settings.path`, its class the name of its folder.

    The split goes by a hash of class and file name, so that it depends on nothing else and neighbours in a
    sequence of frames do not end up on the same side. Hidden files are ignored.

    Raises:
        UserError: no such folder, fewer than two classes, a class of one image, a file that is not a whole image.
    """
    _check(dataset, settings)
    root = Path(settings.path)
    classes = _class_folders(dataset, root)
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, folder in enumerate(classes):
        files = sorted(_image_files(folder), key=_drawn)
        if len(files) < 2:
            raise UserError(f"class folder {folder} holds {len(files)} images; it needs one to train and one to test")
        n_test = min(max(1, round(settings.test_fraction * len(files))), len(files) - 1)
        test += [(file, label) for file in sorted(files[:n_test])]
        train += [(file, label) for file in sorted(files[n_test:])]
    train_images, train_labels = _stack(train, settings)
    test_images, test_labels = _stack(test, settings)
    names = tuple(folder.name for folder in classes)
    return ImageSet(train_images, train_labels, test_images, test_labels, dataset, names, f"folder {root}")


def read_image(path: Path, size: int, channels: int) -> torch.Tensor:
    """One image file as uint8 (channels, size, size).

    Turned as its EXIF tag says, transparency over white, 16 bits scaled to 8, cut to the square in the middle, and
    resampled (Lanczos).

    Raises:
        UserError: names the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{path} has {width}×{height} pixels, more than {MAX_PIXELS:,}: make it smaller")
            image.load()
            upright = ImageOps.exif_transpose(image)
            plain = _eight_bits(upright, path).convert("RGB" if channels == 3 else "L")
            square = ImageOps.fit(plain, (size, size), Image.Resampling.LANCZOS)
    except UserError:
        raise
    except Exception as error:  # Pillow's readers fail on broken bytes in a dozen different ways
        raise UserError(f"{path} is not a whole image ({error}): replace it or take it out of the folder") from None
    return torch.from_numpy(np.array(square, np.uint8).reshape(size, size, channels)).permute(2, 0, 1)


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """`image` in a mode that Pillow converts to gray or RGB without clipping or losing what lies behind glass."""
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


def _drawn(file: Path) -> bytes:
    """What puts the files of a class in a random order that is always the same."""
    return hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).digest()


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _stack(files: list[tuple[Path, int]], settings: FolderSettings) -> tuple[torch.Tensor, torch.Tensor]:
    images = [read_image(file, settings.image_size, settings.channels) for file, _ in files]
    return torch.stack(images), torch.tensor([label for _, label in files], dtype=torch.int64)
