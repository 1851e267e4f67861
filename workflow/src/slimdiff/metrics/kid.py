"""The kernel distance (KID, Bińkowski et al. 2018): unlike Fréchet's it has no bias from few images."""

import torch

BLOCK = 2500  # images whose kernel matrices are held at once: 50 MB each


def kernel_distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """The unbiased squared maximum mean discrepancy under the kernel (x·y / d + 1)³ (eq. 4).

    Around 0, and as often below as above it, where both sets come from one distribution. As many of each are compared
    as there are in the smaller set: its size cut into equal blocks of at most 2,500, and the mean taken over them. No
    image is in two blocks, unlike in the overlapping subsets that torch-fidelity draws by default.

    Args:
        real, generated: features (n, d) on the scale of `slimdiff.metrics.scaling`, at least 2 of each, their order
            drawn at random: the first are taken.
    """
    m = min(len(real), len(generated))
    blocks = -(-m // BLOCK)
    pairs = zip(real[:m].tensor_split(blocks), generated[:m].tensor_split(blocks), strict=True)
    return sum(_all_pairs(x, y) for x, y in pairs) / blocks


def _all_pairs(x: torch.Tensor, y: torch.Tensor) -> float:
    """The estimate from all pairs of x (m, d) and y (m, d), but those of an image with itself."""
    m, d = x.shape
    within = 0.0
    for own in (x, y):
        kernel = (own @ own.T / d + 1) ** 3
        within += float(kernel.sum() - kernel.diagonal().sum())
    return within / (m * (m - 1)) - 2 * float(((x @ y.T / d + 1) ** 3).mean())
