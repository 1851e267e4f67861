"""Memorization: are samples closer to training images, in pixels, than unseen real images are?"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special

from slimdiff.errors import UserError

CANDIDATES = 4  # found in single precision, then compared exactly
COPY_RATIO = 3  # a copy is this many times nearer to its training image than to the next one (Yoon et al. 2023)
QUERIES, POOL = 1000, 10_000  # images per block of distances
ROUNDING = 2.0**-24  # of single precision


@dataclass(frozen=True)
class Memorization:
    """Distances of samples to the training images, compared with those of test images."""

    p: float  # one-sided, under the null hypothesis that samples are distributed like test images
    ratio: float  # median distance of the samples / of the test images; copies: 0


def memorization(samples: torch.Tensor, test: torch.Tensor) -> Memorization | None:
    """Test whether the distances `samples` (n,) to the nearest training image are smaller than those of `test` (m,).

    The test of Meehan et al. 2020 over all images at once: Mann-Whitney, one-sided, in the normal approximation with
    ties. None without test images, or if half of them or more are copies of training images.
    """
    sample_distances, test_distances = samples.numpy(), test.numpy()
    if len(test_distances) == 0 or np.median(test_distances) == 0:
        return None
    ratio = float(np.median(sample_distances) / np.median(test_distances))
    return Memorization(_mann_whitney(sample_distances, test_distances), ratio)


def _mann_whitney(samples: NDArray[np.float64], test: NDArray[np.float64]) -> float:
    """Return the p-value of scipy.stats.mannwhitneyu(samples, test, alternative="less", method="asymptotic").

    scipy.stats takes as long to import as the other metrics of a cell take together.
    """
    n, m = len(samples), len(test)
    _, places, counts = np.unique(np.concatenate([samples, test]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of each value; ties get their mean rank
    larger = n * m - (ranks[places[:n]].sum() - n * (n + 1) / 2)  # pairs in which the test image is farther
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    spread = np.sqrt(n * m / 12 * ((n + m + 1) - ties / ((n + m) * (n + m - 1))))
    if spread == 0:
        return 1.0
    return float(special.ndtr(-(larger - n * m / 2 - 0.5) / spread))


def copy_share(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the share of images that are copies: `first` is less than a third of `second`, or 0.

    The criterion of Yoon et al. 2023, which Gu et al. 2023 (arXiv 2310.02664) use: a typical image is about as far
    from its two nearest training images. The median of `memorization` does not see a few copies.

    Args:
        first, second: distances (n,) to the nearest and second nearest training image, n > 0.
    """
    return float(((COPY_RATIO * first < second) | (first == 0)).double().mean())


def nearest_distances(images: torch.Tensor, training: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the exact Euclidean distance of each image to the nearest `training` image, white being 1: float64 (n,).

    Args and errors are those of `two_nearest_distances`.
    """
    return two_nearest_distances(images, training, device)[0]


@torch.inference_mode()
def two_nearest_distances(
    images: torch.Tensor, training: torch.Tensor, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the exact Euclidean distances of each image to its two nearest `training` images, white being 1.

    Both are float64 (n,). The second is infinite if there is one training image. Single precision finds candidates. If
    its rounding could hide one of the two, double precision, in which whole numbers are exact, searches all training
    images.

    Args:
        images, training: uint8 (n, C, H, W) and (N, C, H, W), N > 0.

    Raises:
        UserError: the images differ in size.
    """
    if images.shape[1:] != training.shape[1:]:
        shapes = ["×".join(map(str, part.shape[1:])) for part in (images, training)]
        raise UserError(f"images are {shapes[0]} (channels×height×width), the training images are {shapes[1]}")
    queries, pool = images.flatten(1).to(device), training.flatten(1).to(device)
    norms = torch.cat([rows.double().square().sum(1) for rows in pool.split(POOL)])
    squared = torch.full((len(queries), 2), torch.inf, dtype=torch.float64)
    for start in range(0, len(queries), QUERIES):
        nearest = _nearest(queries[start : start + QUERIES], pool, norms).cpu()
        squared[start : start + QUERIES, : nearest.shape[1]] = nearest
    first, second = (squared.sqrt() / 255.0).unbind(1)
    return first, second


def _nearest(queries: torch.Tensor, pool: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Return the squared distances of each query (n, D) to the two nearest of `pool` (N, D), uint8: float64 (n, 2).

    (n, 1) if the pool holds one image.
    """
    x = queries.double()
    own = x.square().sum(1)
    values, indices = _smallest(queries.float(), pool, norms, CANDIDATES)
    exact = torch.stack([(x - pool[column].double()).square().sum(1) for column in indices.T], dim=1)
    best = exact.sort(dim=1).values[:, :2]
    if len(pool) > CANDIDATES:
        # Images behind the candidates are at least as far as the last candidate, up to single precision's rounding of
        # a sum of D products, of the norm, and of their difference.
        largest = norms.max()
        rounding = ROUNDING * (2 * (x.shape[1] + 4) * (own * largest).sqrt() + 4 * largest)
        doubtful = best[:, 1] - own > values[:, -1].double() - rounding
        if doubtful.any():
            values, _ = _smallest(x[doubtful], pool, norms, 2)
            best[doubtful] = values + own[doubtful, None]
    return best


def _smallest(
    queries: torch.Tensor, pool: torch.Tensor, norms: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each query the `k` smallest |p|² - 2 q·p over the pool, ascending, in its precision, and indices."""
    values, indices = [], []
    for start in range(0, len(pool), POOL):
        rows = pool[start : start + POOL].to(queries.dtype)
        block = torch.addmm(norms[start : start + POOL].to(queries.dtype), queries, rows.T, alpha=-2)
        smallest = block.topk(min(k, len(rows)), dim=1, largest=False)
        values.append(smallest.values)
        indices.append(smallest.indices + start)
    candidates = torch.cat(values, dim=1)
    smallest = candidates.topk(min(k, candidates.shape[1]), dim=1, largest=False)
    return smallest.values, torch.cat(indices, dim=1).gather(1, smallest.indices)
