"""A data set as all stages read it: uint8 images of one size with labels, in one verified file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from slimdiff.io.tensors import load_tensors, save_tensors

KIND = "images"


@dataclass
class Values:
    """The values of the pixels of some images."""

    images: int  # number
    limits: tuple[float, float]  # values that became black and white
    found: tuple[float, float]  # lowest and highest value


@dataclass(frozen=True)
class Files:
    """The image files of a set."""

    train: Sequence[Path]  # of each training image
    test: Sequence[Path]  # of each test image
    values: Mapping[str, Values]  # by mode, Pillow's name of the format of pixels
    keys: Sequence[str]  # of the config, that say how the values of these files are read
    unapplied_profiles: int  # images whose colour profile or gamma is not that of sRGB, stored without conversion


@dataclass(frozen=True)
class ImageSet:
    """Training and test images in their original size."""

    train_images: torch.Tensor  # uint8 (N, C, H, W)
    train_labels: torch.Tensor  # int64 (N,), index into classes
    test_images: torch.Tensor  # uint8 (M, C, H, W)
    test_labels: torch.Tensor  # int64 (M,)
    dataset: str  # its name in the config
    classes: tuple[str, ...]
    source: str  # where the bytes came from, for people to read
    files: Files | None = field(default=None, compare=False)  # that it was just read from

    def __post_init__(self) -> None:
        for images, labels in ((self.train_images, self.train_labels), (self.test_images, self.test_labels)):
            if images.dtype != torch.uint8 or images.ndim != 4:
                raise ValueError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise ValueError(f"labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError("training and test images differ in size")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width


def saturated_share(images: torch.Tensor) -> float:
    """Return the share of values in uint8 `images` that are 0 or 255."""
    return int(torch.count_nonzero((images == 0) | (images == 255))) / images.numel()


def write(path: str | os.PathLike[str], image_set: ImageSet, report: Mapping[str, Any] | None = None) -> None:
    """Write `image_set` atomically, and the report of slimdiff.data.checks; equal sets give equal bytes."""
    tensors = {
        "train_images": image_set.train_images,
        "train_labels": image_set.train_labels,
        "test_images": image_set.test_images,
        "test_labels": image_set.test_labels,
    }
    header = {"dataset": image_set.dataset, "classes": list(image_set.classes), "source": image_set.source}
    save_tensors(path, KIND, tensors, header | ({"report": report} if report else {}))


def read(path: str | os.PathLike[str]) -> ImageSet:
    """Return the image set in `path` after checking its digest.

    Raises:
        UserError: the file is missing, damaged or of another kind; the message tells how to rebuild it.
    """
    tensors, header = load_tensors(path, KIND)
    fields: dict[str, Any] = {**tensors}
    return ImageSet(**fields, dataset=header["dataset"], classes=tuple(header["classes"]), source=header["source"])
