"""The kernel distance (KID, Bińkowski et al. 2018): unlike the Fréchet distance, unbiased for few images."""

import torch

BLOCK = 2500  # images per kernel matrix, of 50 MB


def kernel_distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy under the kernel (x·y / d + 1)³ (eq. 4).

    It scatters around 0 if both sets come from one distribution. The first m images of each set are compared, m being
    the size of the smaller one, in equal disjoint blocks of at most 2,500 whose mean is returned; torch-fidelity draws
    overlapping subsets by default.

    Args:
        real, generated: features (n, d) on the scale of `slimdiff.metrics.reference`, at least 2 of each, in random
            order.
    """
    m = min(len(real), len(generated))
    blocks = -(-m // BLOCK)
    pairs = zip(real[:m].tensor_split(blocks), generated[:m].tensor_split(blocks), strict=True)
    return sum(_all_pairs(x, y) for x, y in pairs) / blocks


def _all_pairs(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the estimate from all pairs in x (m, d) and y (m, d), except an image with itself."""
    m, d = x.shape
    within = 0.0
    for own in (x, y):
        kernel = (own @ own.T / d + 1) ** 3
        within += float(kernel.sum() - kernel.diagonal().sum())
    return within / (m * (m - 1)) - 2 * float(((x @ y.T / d + 1) ** 3).mean())
