"""The user's own data set: a folder with one subfolder of image files per class."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from slimdiff.data import class_folders, image_files
from slimdiff.data.download import Availability
from slimdiff.data.image_files import Picture
from slimdiff.data.image_reading import Reading
from slimdiff.data.image_set import Files, ImageSet, Values
from slimdiff.errors import UserError


@dataclass(frozen=True)
class FolderSettings:
    """How to turn a folder into a data set."""

    path: str  # holds one folder per class
    test_fraction: float  # of the files of each class, above 0 and below 1
    reading: Reading


@dataclass
class Found:
    """What the files of a folder hold."""

    values: dict[str, Values] = field(default_factory=dict)  # by mode
    keys: dict[str, None] = field(default_factory=dict)  # of the data set, that say how they are read
    unapplied_profiles: int = 0  # images in a colour space other than sRGB

    def enter(self, picture: Picture) -> None:
        """Count a picture."""
        self.keys |= dict.fromkeys(picture.keys)
        self.unapplied_profiles += picture.unapplied_profile
        own = self.values.setdefault(picture.mode, Values(0, picture.limits, picture.found))
        own.images += 1
        own.limits = min(own.limits[0], picture.limits[0]), max(own.limits[1], picture.limits[1])
        own.found = min(own.found[0], picture.found[0]), max(own.found[1], picture.found[1])


def load(dataset: str, settings: FolderSettings) -> ImageSet:
    """Return every image below `settings.path`; its folder's name is its class.

    A hash of class and file name decides the split, so it depends on nothing else and spreads neighbouring frames of
    a video over both parts. The frames of one file stay together. Hidden files are ignored.

    Raises:
        UserError: the folder is missing, has fewer than two classes, a class of one file, or a file that cannot be read
            (slimdiff.data.image_files.read).
    """
    _check(settings)
    root = Path(settings.path)
    classes = _find(dataset, root)
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, folder in enumerate(classes):
        files = sorted(folder.files, key=_split_key)
        n_test = class_folders.count_test(len(files), settings.test_fraction)
        test += [(file, label) for file in sorted(files[:n_test], key=os.fsencode)]
        train += [(file, label) for file in sorted(files[n_test:], key=os.fsencode)]
    found = Found()
    train_images, train_labels, train_files = _read(train, settings.reading, found)
    test_images, test_labels, test_files = _read(test, settings.reading, found)
    keys = [f"{settings.reading.key}.{key}" for key in found.keys]
    return ImageSet(
        train_images,
        train_labels,
        test_images,
        test_labels,
        dataset,
        tuple(folder.name for folder in classes),
        f"folder {root}",
        Files(train_files, test_files, found.values, keys, found.unapplied_profiles),
    )


def find(dataset: str, root: Path) -> Availability:
    """Return whether `root` holds a folder of image files for each class, without opening one."""
    try:
        return Availability(f"{len(_find(dataset, root))} classes in {root}")
    except UserError as error:
        return Availability(problem=str(error), fix=f"correct datasets.{dataset}.path or the folder")


def _check(settings: FolderSettings) -> None:
    reading = settings.reading
    if reading.image_size < 4:
        raise UserError(f"{reading.key}.image_size is {reading.image_size}; it must be at least 4")
    if reading.channels not in (1, 3):
        raise UserError(f"{reading.key}.channels is {reading.channels}; allowed: 1 (gray), 3 (RGB)")
    if not 0 < settings.test_fraction < 1:
        raise UserError(f"{reading.key}.test_fraction is {settings.test_fraction}; it must lie between 0 and 1")


def _find(dataset: str, root: Path) -> list[class_folders.ClassFolder]:
    try:
        return class_folders.find(root)
    except UserError as error:
        raise UserError(f"datasets.{dataset}.path: {error}") from None


def _split_key(file: Path) -> bytes:
    """Return a sort key that puts the files of a class in a reproducible random order."""
    return hashlib.sha256(os.fsencode(f"{file.parent.name}/{file.name}")).digest()


def _read(
    files: Sequence[tuple[Path, int]], reading: Reading, found: Found
) -> tuple[torch.Tensor, torch.Tensor, list[Path]]:
    """Return images, labels and files of one side of the split, and enter what the files hold into `found`."""
    pixels, labels, paths = bytearray(), [], []  # one buffer: a list of images would hold all of them twice
    for path, label in files:
        for picture in image_files.read(path, reading):
            pixels += picture.pixels.data
            labels.append(label)
            paths.append(path)
            found.enter(picture)
    size = reading.image_size
    images = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, reading.channels, size, size)
    return images, torch.tensor(labels, dtype=torch.int64), paths
