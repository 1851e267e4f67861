"""The classifier that recognizes the classes of samples.

Its architecture differs from the extractors', so it does not share their blind spots. It neither guides sampling nor
enters the Fréchet distance, so no model is optimized for it.
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
from slimdiff.metrics.networks.base import BATCH_SIZE, ImageClassifier, check_shape, in_batches, max_pool

KIND = "classifier"
MAX_MAP_SIDE = 4  # of the last feature map, so that the file stays small for large images
ARCHITECTURE = "conv5-32 stride 2, conv3-64, batch norm, max pool 2, conv3-64, batch norm, average pool, linear-classes"
CONFIDENT = 0.9  # a lower probability of the most likely class counts as low confidence


class Classifier(ImageClassifier):
    """An image classifier with 5.6 million multiply-accumulates per 1×28×28 image."""

    def __init__(self, image_shape: Sequence[int], n_classes: int) -> None:
        super().__init__(image_shape, n_classes)
        channels, height, width = image_shape
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 64, kernel_size=3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(64)
        # Average pooling with integer strides: adaptive pooling has no deterministic gradient on CUDA.
        sides = [-(-side // 2) // 2 for side in (height, width)]
        self.strides = tuple(-(-side // MAX_MAP_SIDE) for side in sides)
        rows, columns = (-(-side // stride) for side, stride in zip(sides, self.strides, strict=True))
        self.to_logits = nn.Linear(64 * rows * columns, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) → logits (N, classes), in the precision of the weights."""
        # In [0, 1], unlike elsewhere: zero padding then continues a black border.
        x = images.to(self.to_logits.weight.dtype) / 255.0
        x = F.relu(self.conv1(x))
        x = F.relu(max_pool(self.norm2(self.conv2(x))))
        x = F.relu(self.norm3(self.conv3(x)))
        if self.strides != (1, 1):
            x = F.avg_pool2d(x, self.strides, ceil_mode=True)
        logits: torch.Tensor = self.to_logits(x.flatten(1))
        return logits

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self(images)
        return logits


def write(path: str | os.PathLike[str], classifier: Classifier, header: dict[str, Any]) -> None:
    """Write the classifier of one data set.

    Args:
        header: `dataset`, `classes`, and how it was trained; `write` adds image size and architecture.
    """
    facts = {"image_shape": list(classifier.image_shape), "architecture": ARCHITECTURE}
    save_tensors(path, KIND, classifier.state_dict(), {**header, **facts})


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return data set, classes, accuracy and settings from the header of `path`.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    return safetensors_header.read_header(path, KIND)


def read(path: str | os.PathLike[str]) -> Classifier:
    """Return the frozen classifier in `path`, in double precision on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds another architecture.
    """
    tensors, header = load_tensors(path, KIND)
    if header["architecture"] != ARCHITECTURE:
        raise UserError(
            f"{path} holds a classifier of another architecture ({header['architecture']}): train a new one "
            f"(remove config key datasets.{header['dataset']}.classifier)"
        )
    classifier = Classifier(header["image_shape"], len(header["classes"]))
    classifier.load_state_dict(tensors)
    return classifier.double().eval().requires_grad_(False)


@torch.inference_mode()
def probabilities(
    classifier: Classifier, images: torch.Tensor, batch_size: int = BATCH_SIZE, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Return the class probabilities of `images`, uint8 (N, C, H, W), as float64 (N, classes) on the CPU.

    They are independent of batch and device up to double-precision rounding.

    Raises:
        UserError: the classifier takes images of another size.
    """
    check_shape(images, classifier)
    classifier.to(device)

    def run(batch: torch.Tensor) -> torch.Tensor:
        return classifier(batch).double().softmax(dim=1)

    return in_batches(run, images, classifier.n_classes, batch_size, device)


def shares(labels: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return the share of each class in `labels`, int64 (N,) with N > 0, as float64 (classes,) with sum 1."""
    return torch.bincount(labels, minlength=n_classes).double() / len(labels)


def classify_samples(
    classifier: Classifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    class_shares: torch.Tensor,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH_SIZE,
) -> dict[str, float | None]:
    """Return the classifier's metrics of `images`, each in [0, 1] and independent of batches and order.

    - `class_accuracy`: share of images recognized as the class of their label; None without labels.
    - `class_tv`: total variation distance, ½ Σ |p - q|, between the recognized classes and the labels, or the training
      set's classes without labels. 0: equal shares, 1: no class in common.
    - `low_confidence`: share of images whose most likely class has a probability below 0.9.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), the requested classes; (0,) for an unconditional model.
        class_shares: float64 (classes,), the share of each class in the training set.

    Raises:
        UserError: there is no image, the images have another size, the number of labels is wrong, or a class is
            unknown to the classifier.
    """
    n, n_classes = len(images), classifier.n_classes
    if n == 0:
        raise UserError("there is no image to classify: set sampling.n_samples above 0 and sample again")
    if len(labels) not in (0, n):
        raise UserError(f"there are {len(labels)} labels for {n} images; allowed: {n} or 0: sample again")
    if len(class_shares) != n_classes:
        raise UserError(
            f"the data set has {len(class_shares)} classes, its classifier {n_classes}: remove config key "
            "datasets.<name>.classifier to train a new one"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise UserError(
            f"the samples have labels {int(labels.min())} to {int(labels.max())}; the classifier knows 0 to "
            f"{n_classes - 1}: set models.<name>.network.classes to {n_classes}"
        )
    confidence, recognized = probabilities(classifier, images, batch_size, device).max(dim=1)
    expected = shares(labels, n_classes) if len(labels) else class_shares.double()
    actual = shares(recognized, n_classes)
    return {
        "class_accuracy": (recognized == labels).double().mean().item() if len(labels) else None,
        "class_tv": 0.5 * (actual - expected).abs().sum().item(),
        "low_confidence": (confidence < CONFIDENT).double().mean().item(),
    }
