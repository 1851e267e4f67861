"""From the name of a source to a data set: the one table that a new source is added to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimdiff.data import cifar10, folder, mnist
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError

DIGITS_TEST_EVERY = 5  # every fifth image of a class is a test image


@dataclass(frozen=True)
class DataSettings:
    """Where a data set comes from; path to test_fraction belong to source `folder` alone, which needs them all."""

    name: str
    source: str
    path: str | None = None
    image_size: int | None = None
    channels: int | None = None
    test_fraction: float | None = None
    options: Mapping[str, Any] | None = None  # of a plugin's source
    plugins: Sequence[Mapping[str, str]] = ()  # what brings it, loaded by then


def load(settings: DataSettings, data_dir: Path) -> ImageSet:
    """The data set, its images as uint8 (N, C, H, W) at their own size.

    Args:
        data_dir: where the user may have placed files.

    Raises:
        UserError: an unknown source, a setting that is missing or misplaced, or no way to get the data.
    """
    if settings.source not in SOURCES:
        raise UserError(
            f"datasets.{settings.name}.source is {settings.source!r}; allowed: {', '.join(sorted(SOURCES))}"
        )
    if settings.options is not None and not settings.plugins:
        raise UserError(f"datasets.{settings.name}.options: only sources of plugins have it, not {settings.source!r}")
    return SOURCES[settings.source](settings, data_dir)


def _digits(settings: DataSettings, data_dir: Path) -> ImageSet:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels; they come with the library."""
    _refuse_folder_keys(settings)
    from sklearn.datasets import load_digits  # takes a second, and no other source needs it

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
    path, size, channels, fraction = settings.path, settings.image_size, settings.channels, settings.test_fraction
    if path is None or size is None or channels is None or fraction is None:
        given = {"path": path, "image_size": size, "channels": channels, "test_fraction": fraction}
        missing = next(key for key, value in given.items() if value is None)
        raise UserError(f"datasets.{settings.name}: source 'folder' needs the key {missing!r}")
    return folder.load(settings.name, folder.FolderSettings(path, size, channels, fraction))


def _refuse_folder_keys(settings: DataSettings) -> None:
    for key in ("path", "image_size", "channels", "test_fraction"):
        if getattr(settings, key) is not None:
            raise UserError(f"datasets.{settings.name}.{key}: only source 'folder' has it, not {settings.source!r}")


SOURCES: dict[str, Callable[[DataSettings, Path], ImageSet]] = {
    "mnist": _mnist,
    "fashion_mnist": _mnist,
    "digits": _digits,
    "cifar10": _cifar10,
    "folder": _folder,
}
