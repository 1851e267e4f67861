"""The judge: a classifier that says which classes samples show, and nothing else is made or scored with it.

It has another architecture than the extractors, so that it does not share their blind spots, and it is used neither to
guide sampling nor for the Fréchet distance: samples cannot have been made to please it.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.errors import UserError
from slimdiff.io import safetensors_header
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.metrics.batches import BATCH_SIZE, check_shape, in_batches

KIND = "classifier"
LARGEST_MAP = 4  # height and width of the last feature map at most, so that the file stays small for large images
SMALLEST_IMAGE = 4
ARCHITECTURE = "conv5-32 stride 2, conv3-64, batch norm, max pool 2, conv3-64, batch norm, average pool, linear-classes"
CONFIDENT = 0.9  # a lower probability of the most likely class is low confidence


class Classifier(nn.Module):
    """A small classifier of a data set's images: 5.6 million multiply-accumulates for one image of 1×28×28.

    Args:
        image_shape: channels, height, width of the images it takes; no side below 4.
        n_classes: of the data set.

    Raises:
        UserError: the images are too small.
    """

    def __init__(self, image_shape: Sequence[int], n_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < SMALLEST_IMAGE:
            raise UserError(f"images of {height}×{width} are too small for a classifier: at least 4×4 are needed")
        self.image_shape = (channels, height, width)
        self.n_classes = n_classes
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 64, kernel_size=3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(64)
        # Average pooling by whole pixels: adaptive pooling has no deterministic gradient on CUDA.
        sides = [-(-side // 2) // 2 for side in (height, width)]
        self.strides = tuple(-(-side // LARGEST_MAP) for side in sides)
        rows, columns = (-(-side // stride) for side, stride in zip(sides, self.strides, strict=True))
        self.to_logits = nn.Linear(64 * rows * columns, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) → logits (N, classes), in the precision of the weights."""
        # From 0 to 1, unlike elsewhere: the zeros that the convolutions pad with then continue a black border.
        x = images.to(self.to_logits.weight.dtype) / 255.0
        x = F.relu(self.conv1(x))
        x = F.relu(F.max_pool2d(self.norm2(self.conv2(x)), 2))
        x = F.relu(self.norm3(self.conv3(x)))
        if self.strides != (1, 1):
            x = F.avg_pool2d(x, self.strides, ceil_mode=True)
        logits: torch.Tensor = self.to_logits(x.flatten(1))
        return logits


def write(path: str | os.PathLike[str], classifier: Classifier, header: dict[str, Any]) -> None:
    """Write the classifier of one data set.

    Args:
        header: `dataset`, `classes`, and how it was trained; image size and architecture are added.
    """
    facts = {"image_shape": list(classifier.image_shape), "architecture": ARCHITECTURE}
    save_tensors(path, KIND, classifier.state_dict(), {**header, **facts})


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the file says about its classifier: data set, classes, accuracy, settings.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    return safetensors_header.read_header(path, KIND)


def read(path: str | os.PathLike[str]) -> Classifier:
    """The frozen classifier in `path`, in double precision on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds another architecture.
    """
    tensors, header = load_tensors(path, KIND)
    if header["architecture"] != ARCHITECTURE:
        raise UserError(
            f"{path} holds a classifier of another architecture ({header['architecture']}): train it anew "
            f"(leave out config key datasets.{header['dataset']}.classifier)"
        )
    classifier = Classifier(header["image_shape"], len(header["classes"]))
    classifier.load_state_dict(tensors)
    return classifier.double().eval().requires_grad_(False)


@torch.inference_mode()
def probabilities(
    classifier: Classifier, images: torch.Tensor, batch_size: int = BATCH_SIZE, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """The probability of each class for each of `images`, uint8 (N, C, H, W), as float64 (N, classes) on the CPU.

    To the noise of double precision they are the same in any batch and on any device.

    Raises:
        UserError: the images have another size than the classifier takes.
    """
    check_shape(images, classifier.image_shape, "the classifier takes")
    classifier.to(device)

    def run(batch: torch.Tensor) -> torch.Tensor:
        return classifier(batch).double().softmax(dim=1)

    return in_batches(run, images, classifier.n_classes, batch_size, device)


def shares(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """The share of each class among `labels`, int64 (N,) with N > 0, as float64 (classes,), summing to 1."""
    return torch.bincount(labels, minlength=n_classes).double() / len(labels)


def classify_samples(
    classifier: Classifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    class_shares: torch.Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH_SIZE,
) -> dict[str, float | None]:
    """What the classifier says of `images`, each figure in [0, 1] and independent of batches and order.

    - `class_accuracy`: share of images taken for the class that was asked for; None where none was asked for.
    - `class_tv`: total variation distance, ½ Σ |p - q|, between the classes that the images are taken for and those
      asked for; where none were, those of the training set. 0: equal shares, 1: no class in common.
    - `low_confidence`: share of images whose most likely class gets a probability below 0.9.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,): the classes that were asked for; (0,) where none was.
        class_shares: float64 (classes,): the share of each class in the training set.

    Raises:
        UserError: images of another size, no image, labels of another count, or classes that the classifier lacks.
    """
    n, n_classes = len(images), classifier.n_classes
    if n == 0:
        raise UserError("there is no image to judge: sample again, with sampling.n_samples above 0")
    if len(labels) not in (0, n):
        raise UserError(f"there are {len(labels)} labels for {n} images; allowed: one for each, or none: sample again")
    if len(class_shares) != n_classes:
        raise UserError(
            f"the data set has {len(class_shares)} classes, its classifier knows {n_classes}: leave out config key "
            "datasets.<name>.classifier to train one for it"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise UserError(
            f"samples were asked for class {int(labels.min())} to {int(labels.max())}; the classifier knows 0 to "
            f"{n_classes - 1}: set models.<name>.network.classes to {n_classes}"
        )
    confidence, taken_for = probabilities(classifier, images, batch_size, device).max(dim=1)
    expected = shares(labels, n_classes) if len(labels) else class_shares.double()
    seen = shares(taken_for, n_classes)
    return {
        "class_accuracy": (taken_for == labels).double().mean().item() if len(labels) else None,
        "class_tv": 0.5 * (seen - expected).abs().sum().item(),
        "low_confidence": (confidence < CONFIDENT).double().mean().item(),
    }
