"""Likeness to another model's images from the same noise: PSNR and SSIM of image i against image i.

Both are a few lines here: importing torchmetrics would double the time of a small cell's score (docs/decisions).
"""

from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F

WHITE = 255
BATCH_SIZE = 500  # bounds the memory of `ssim`
# Wang et al. 2004, section III.C
WINDOW = 11  # pixels
WINDOW_SIGMA = 1.5
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class Likeness:
    """Means over the pairs of images."""

    psnr: float  # dB
    ssim: float | None  # None if a side is shorter than the window


def likeness(images: torch.Tensor, others: torch.Tensor) -> Likeness:
    """Return PSNR and SSIM of `images` against `others`, both uint8 (N, C, H, W), image by image."""
    small = min(images.shape[2:]) < WINDOW
    return Likeness(
        psnr=fmean(psnr(images, others).tolist()),
        ssim=None if small else fmean(ssim(images, others).tolist()),
    )


def psnr(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio of each pair in dB, float64 (N,), for uint8 (N, C, H, W).

    Identical images would have an infinite one. They get that of the smallest difference that 8 bits hold, one pixel by
    one level: 77.1 dB for 28×28 gray pixels.
    """
    squared = (images.int() - others.int()).square().flatten(1).sum(1).clamp(min=1)
    return 10 * torch.log10(WHITE**2 * images[0].numel() / squared.double())


def ssim(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the structural similarity of each pair, -1 to 1, float64 (N,), for uint8 (N, C, H, W).

    Wang et al. 2004, eqs. 13 to 17: Gaussian windows of 11×11 pixels, all that fit into the image, mean over windows
    and channels. No side may be shorter than a window. torchmetrics also averages windows over a mirrored edge.
    """
    rows, columns = (_windows(side) for side in images.shape[2:])
    c1, c2 = (K1 * WHITE) ** 2, (K2 * WHITE) ** 2
    found = []
    for x, y in zip(images.double().split(BATCH_SIZE), others.double().split(BATCH_SIZE), strict=True):
        mean_x, mean_y, square_x, square_y, product = (
            rows.T @ values @ columns for values in (x, y, x * x, y * y, x * y)
        )
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        spread = square_x - mean_x**2 + square_y - mean_y**2
        found.append((luminance * (2 * (product - mean_x * mean_y) + c2) / (spread + c2)).flatten(1).mean(1))
    return torch.cat(found)


def _windows(side: int) -> torch.Tensor:
    """Return the Gaussian weights of every window along `side` pixels: float64 (side, windows)."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / WINDOW_SIGMA) ** 2)
    weights = weights / weights.sum()
    return torch.stack([F.pad(weights, (i, side - WINDOW - i)) for i in range(side - WINDOW + 1)], dim=1)
