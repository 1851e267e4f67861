"""Extractors: small frozen classifiers whose features define the in-domain metrics."""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.catalog.limits import FEATURES
from slimdiff.errors import UserError
from slimdiff.io import safetensors_header
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.metrics.networks.base import BATCH_SIZE, ImageClassifier, check_shape, in_batches, max_pool

KIND = "extractors"
FIT_BATCH = 1000  # images to resize at once
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue
MAX_MAP_SIDE = 8  # of the last feature map, so that the file stays small for large images
ARCHITECTURE = f"conv5-16, pool 2, conv3-32, batch norm, pool 2, linear-{FEATURES}, linear-classes"


class Extractor(ImageClassifier):
    """An image classifier whose last hidden layer gives the features."""

    def __init__(self, image_shape: Sequence[int], n_classes: int) -> None:
        super().__init__(image_shape, n_classes)
        channels, height, width = image_shape
        self.conv1 = nn.Conv2d(channels, 16, kernel_size=5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        # Average pooling with integer strides: adaptive pooling has no deterministic gradient on CUDA.
        self.strides = tuple(-(-(side // 4) // MAX_MAP_SIDE) for side in (height, width))
        rows, columns = (-(-(side // 4) // stride) for side, stride in zip((height, width), self.strides, strict=True))
        self.to_features = nn.Linear(32 * rows * columns, FEATURES)
        self.to_logits = nn.Linear(FEATURES, n_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) → (N, 64), at least 0, in the precision of the weights."""
        # In [0, 1], unlike elsewhere: zero padding then continues a black border.
        x = images.to(self.to_features.weight.dtype) / 255.0
        # Max pooling before ReLU gives the same result with a quarter of the work.
        x = F.relu(max_pool(self.conv1(x)))
        x = F.relu(max_pool(self.norm(self.conv2(x))))
        if self.strides != (1, 1):
            x = F.avg_pool2d(x, self.strides, ceil_mode=True)
        return F.relu(self.to_features(x.flatten(1)))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.to_logits(self.features(images))
        return logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images)


def write(path: str | os.PathLike[str], extractors: Sequence[Extractor], header: dict[str, Any]) -> None:
    """Write the extractors of one data set to one file.

    Args:
        header: `dataset`, `classes`, and how they were trained; `write` adds image size and architecture.
    """
    tensors = {
        f"{index}.{name}": tensor
        for index, extractor in enumerate(extractors)
        for name, tensor in extractor.state_dict().items()
    }
    facts = {"image_shape": list(extractors[0].image_shape), "architecture": ARCHITECTURE, "count": len(extractors)}
    save_tensors(path, KIND, tensors, {**header, **facts})


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return data set, classes, accuracies and settings from the header of `path`."""
    return safetensors_header.read_header(path, KIND)


def read(path: str | os.PathLike[str]) -> list[Extractor]:
    """Return the frozen extractors in `path`, in double precision on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds another architecture.
    """
    tensors, header = load_tensors(path, KIND)
    if header["architecture"] != ARCHITECTURE:
        raise UserError(f"{path} holds extractors of another architecture ({header['architecture']}): train new ones")
    extractors = []
    for index in range(header["count"]):
        extractor = Extractor(header["image_shape"], len(header["classes"]))
        prefix = f"{index}."
        extractor.load_state_dict(
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        )
        extractors.append(extractor.double().eval().requires_grad_(False))
    return extractors


def fitted(images: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return uint8 `images` (N, C, H, W), C = 1 or 3, in the `shape` that another data set's extractor takes.

    Colour becomes luma (ITU-R BT.601), gray three equal channels; other sizes are scaled (bilinear, antialiased).
    """
    if tuple(images.shape[1:]) == tuple(shape):
        return images
    channels, *size = shape
    parts = []
    for part in images.split(FIT_BATCH):
        x = part.float()
        if len(x[0]) == 3 and channels == 1:
            x = (x * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
        parts.append(x.expand(-1, channels, -1, -1).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts)


@torch.inference_mode()
def features(
    extractor: Extractor, images: torch.Tensor, batch_size: int = BATCH_SIZE, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Return the features of `images`, uint8 (N, C, H, W), as float64 (N, 64) on the CPU.

    They are independent of batch and device up to double-precision rounding.

    Raises:
        UserError: the extractor takes images of another size.
    """
    check_shape(images, extractor)
    return in_batches(extractor.to(device).features, images, FEATURES, batch_size, device)
