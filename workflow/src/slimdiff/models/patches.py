"""Patches of pixels as channels: a network of k×k patches works on images of 1/k the size (space-to-depth).

A quarter of the positions for k = 2, so about a quarter of the arithmetic at the same widths.
"""

import torch
import torch.nn.functional as F


def to_patches(x: torch.Tensor, size: int) -> torch.Tensor:
    """(N, C, S, S) → (N, C · size², S / size, S / size); `x` itself for size 1."""
    return x if size == 1 else F.pixel_unshuffle(x, size)


def from_patches(x: torch.Tensor, size: int) -> torch.Tensor:
    """Invert `to_patches`."""
    return x if size == 1 else F.pixel_shuffle(x, size)
