"""The kernel distance (KID, Bińkowski et al. 2018): unlike the Fréchet distance, unbiased for few images."""

import torch

BLOCK = 2500  # images per kernel matrix, of 50 MB
ROWS = 500  # of a kernel matrix with up to 10,000 columns


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


def kernel_distance_by_class(
    real: torch.Tensor, real_labels: torch.Tensor, generated: torch.Tensor, labels: torch.Tensor
) -> float | None:
    """Return the same for two sets of m images with the same, fixed number of each class.

    Such a set has fewer pairs of one class than a random one, so the mean over all its pairs is biased, on real MNIST
    images by -3 / m. Here pairs of a class weigh as much as that class has among pairs drawn with replacement. None
    if a class has one image, thus no pair: the image with itself would raise the distance of real images.

    Args:
        real, generated: features (m, d), as above.
        real_labels, labels: int64 (m,).
    """
    if bool((labels.bincount() == 1).any()):
        return None
    cross = _sum(real, generated) / (len(real) * len(generated))
    return _mean_within(real, real_labels) + _mean_within(generated, labels) - 2 * cross


def _all_pairs(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the estimate from all pairs in x (m, d) and y (m, d), except an image with itself."""
    m, d = x.shape
    within = 0.0
    for own in (x, y):
        kernel = (own @ own.T / d + 1) ** 3
        within += float(kernel.sum() - kernel.diagonal().sum())
    return within / (m * (m - 1)) - 2 * float(((x @ y.T / d + 1) ** 3).mean())


def _mean_within(x: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean kernel of two independent images with the classes' shares in x (n, d), two or more of each."""
    total = _sum(x, x)
    for own in (x[labels == label] for label in labels.unique()):
        of_class = _sum(own, own)
        itself = float(((own.square().sum(dim=1) / own.shape[1] + 1) ** 3).sum())
        total += (of_class - itself) * len(own) / (len(own) - 1) - of_class
    return total / len(x) ** 2


def _sum(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the sum of the kernel over all pairs of x (n, d) and y (m, d)."""
    return sum(float(((rows @ y.T / x.shape[1] + 1) ** 3).sum()) for rows in x.split(ROWS))
