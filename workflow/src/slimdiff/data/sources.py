"""The table of data sources: add a new source here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimdiff.data import cifar10, folder, mnist
from slimdiff.data.download import Availability, first_probed
from slimdiff.data.image_reading import Reading
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError

REQUIRED_KEYS = ("path", "image_size", "channels", "test_fraction")  # of source folder
FOLDER_KEYS = (*REQUIRED_KEYS, "value_range", "background", "frames")
CHOICES = {
    "value_range": ("auto",),
    "background": ("auto", "white", "black"),
    "frames": ("first", "all"),
    "duplicates": ("keep", "drop"),
}
DIGITS_TEST_EVERY = 5  # every fifth image of a class is a test image


@dataclass(frozen=True)
class DataSettings:
    """Where a data set comes from; only source `folder` takes path to frames, and it requires path to test_fraction."""

    name: str
    source: str
    path: str | None = None
    image_size: int | None = None
    channels: int | None = None
    test_fraction: float | None = None
    value_range: Sequence[float] | str = "auto"  # values that become black and white; auto: by the files
    background: int | str = "auto"  # behind transparency: white, black, a gray level; auto: white if that shows all
    frames: str | None = None  # of files with several images: first or all
    duplicates: str = "keep"  # test images that are copies of training images: keep or drop
    options: Mapping[str, Any] | None = None  # of a source from a plugin
    plugins: Sequence[Mapping[str, str]] = ()  # that define it, already loaded


def load(settings: DataSettings, data_dir: Path) -> ImageSet:
    """Return the data set, its images as uint8 (N, C, H, W) in their original size.

    Args:
        data_dir: folder where the user may have placed files.

    Raises:
        UserError: the source is unknown, a setting is missing or misplaced, or no source has the data.
    """
    if settings.source not in SOURCES:
        raise UserError(
            f"datasets.{settings.name}.source is {settings.source!r}; allowed: {', '.join(sorted(SOURCES))}"
        )
    for key, allowed in CHOICES.items():
        value = getattr(settings, key)
        if isinstance(value, str) and value not in allowed:
            raise UserError(f"datasets.{settings.name}.{key} is {value!r}; allowed: {', '.join(allowed)}")
    if settings.options is not None and not settings.plugins:
        raise UserError(f"datasets.{settings.name}.options: only sources from plugins take it, not {settings.source!r}")
    return SOURCES[settings.source](settings, data_dir)


def find(dataset: str, options: Mapping[str, Any], data_dir: Path) -> Availability:
    """Return where a data set is available, without downloading it, from the places that `load` tries.

    Args:
        options: the entry of `datasets:`, with one of slimdiff's own sources.
    """
    source = str(options["source"])
    if source == "digits":
        return Availability("scikit-learn")
    if source == "folder":
        return folder.find(dataset, Path(options["path"]))
    if source == "cifar10":
        return first_probed(cifar10.places(data_dir), cifar10.fix(data_dir))
    return first_probed(mnist.places(source, data_dir), mnist.fix(data_dir))


def _digits(settings: DataSettings, data_dir: Path) -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits of 8×8 pixels, which ship with the library."""
    _refuse_folder_keys(settings)
    from sklearn.datasets import load_digits  # takes a second to import, and no other source needs it

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(np.round(np.reshape(images, (-1, 1, 8, 8)) * (255 / 16)).astype(np.uint8))
    targets = torch.from_numpy(np.asarray(labels, np.int64))
    test = torch.zeros(len(targets), dtype=torch.bool)
    for digit in range(10):
        test[torch.nonzero(targets == digit).flatten()[::DIGITS_TEST_EVERY]] = True
    return ImageSet(
        train_images=pixels[~test],
        train_labels=targets[~test],
        test_images=pixels[test],
        test_labels=targets[test],
        dataset=settings.name,
        classes=tuple("0123456789"),
        source="scikit-learn",
    )


def _mnist(settings: DataSettings, data_dir: Path) -> ImageSet:
    _refuse_folder_keys(settings)
    return mnist.load(settings.source, settings.name, data_dir)


def _cifar10(settings: DataSettings, data_dir: Path) -> ImageSet:
    _refuse_folder_keys(settings)
    return cifar10.load(settings.name, data_dir)


def _folder(settings: DataSettings, data_dir: Path) -> ImageSet:
    options = {key: getattr(settings, key) for key in FOLDER_KEYS}
    for key in REQUIRED_KEYS:
        if options[key] is None:
            raise UserError(f"datasets.{settings.name}: source 'folder' needs the key {key!r}")
    reading = Reading.of(settings.name, options)
    return folder.load(settings.name, folder.FolderSettings(options["path"], options["test_fraction"], reading))


def _refuse_folder_keys(settings: DataSettings) -> None:
    for key in FOLDER_KEYS:
        if getattr(settings, key) != getattr(DataSettings, key):
            raise UserError(f"datasets.{settings.name}.{key}: only source 'folder' takes it, not {settings.source!r}")


SOURCES: dict[str, Callable[[DataSettings, Path], ImageSet]] = {
    "mnist": _mnist,
    "fashion_mnist": _mnist,
    "digits": _digits,
    "cifar10": _cifar10,
    "folder": _folder,
}
