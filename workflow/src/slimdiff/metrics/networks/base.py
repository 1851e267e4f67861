"""The base of the small image classifiers, and how to run them over many images."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.catalog.limits import MIN_SIDE
from slimdiff.errors import UserError

BATCH_SIZE = 64  # fits in the cache: on a CPU in double precision, 250 took nearly twice as long


class ImageClassifier(nn.Module):
    """A small network that classifies the images of one data set.

    Args:
        image_shape: channels, height, width of the images; no side below 4.
        n_classes: number of classes.

    Raises:
        UserError: the images are too small.
    """

    def __init__(self, image_shape: Sequence[int], n_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < MIN_SIDE:
            raise UserError(
                f"images of {height}×{width} are too small to classify; the minimum is {MIN_SIDE}×{MIN_SIDE}"
            )
        self.image_shape, self.n_classes = (channels, height, width), n_classes

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, C, H, W) → (N, classes), in the precision of the weights."""
        raise NotImplementedError


def max_pool(x: torch.Tensor) -> torch.Tensor:
    """Max pooling: (N, C, H, W) → (N, C, H // 2, W // 2).

    On a CPU, `max_pool2d` takes ten times as long in this memory layout. Training keeps it: it passes the gradient of
    equal values to one of them, `maximum` splits it.
    """
    if torch.is_grad_enabled():
        return F.max_pool2d(x, 2)
    rows, columns = (side // 2 * 2 for side in x.shape[2:])
    x = torch.maximum(x[:, :, 0:rows:2], x[:, :, 1:rows:2])
    return torch.maximum(x[..., 0:columns:2], x[..., 1:columns:2])


def in_batches(
    run: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    width: int,
    batch_size: int,
    device: torch.device | str,
) -> torch.Tensor:
    """Apply `run` to `images`, uint8 (N, C, H, W), on `device`; return float64 (N, width) on the CPU."""
    # One block for all results: small ones between large temporaries would fragment the heap (7.6 GB).
    results = torch.empty(len(images), width, dtype=torch.float64)
    for start in range(0, len(images), batch_size):
        results[start : start + batch_size] = run(images[start : start + batch_size].to(device))
    return results


def check_shape(images: torch.Tensor, network: ImageClassifier) -> None:
    """Raise UserError unless `network` accepts images (N, C, H, W) of this size."""
    if tuple(images.shape[1:]) != network.image_shape:
        actual, allowed = ("×".join(map(str, shape)) for shape in (images.shape[1:], network.image_shape))
        name = type(network).__name__.lower()
        raise UserError(f"images are {actual} (channels×height×width); the {name} takes {allowed}")
