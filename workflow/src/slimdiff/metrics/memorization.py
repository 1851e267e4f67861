"""Do samples lie nearer to training images than unseen real images do? In pixels, where a copy is a copy."""

from dataclasses import dataclass

import numpy as np
import scipy.stats
import torch

from slimdiff.errors import UserError

CANDIDATES = 4  # of single precision, whose exact distances are compared
QUERIES, POOL = 1000, 10_000  # images whose distances are held at once
ROUNDING = 2.0**-24  # of single precision


@dataclass(frozen=True)
class Memorization:
    """The samples' distances to the training images beside those of the test images."""

    p: float  # one-sided: the chance of samples so near, did they lie as test images do
    ratio: float  # median of the samples' distances over that of the test images'; copies: 0


def memorization(samples: torch.Tensor, test: torch.Tensor) -> Memorization | None:
    """Whether `samples` (n,), distances to the nearest training image, are smaller than those of `test` images (m,).

    The test of Meehan et al. 2020 over all images at once: Mann and Whitney's, one-sided, by the normal approximation
    with ties. None where there is no test image, or where half of them or more are copies of training images.
    """
    ours, theirs = samples.numpy(), test.numpy()
    if len(theirs) == 0 or np.median(theirs) == 0:
        return None
    found = scipy.stats.mannwhitneyu(ours, theirs, alternative="less", method="asymptotic")
    return Memorization(float(found.pvalue), float(np.median(ours) / np.median(theirs)))


@torch.inference_mode()
def nearest_distances(images: torch.Tensor, training: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """The Euclidean distance of each of `images` to the nearest `training` image, white being 1: float64 (n,), exact.

    Single precision finds the candidates. Where its rounding leaves doubt whether the nearest is among them, double
    precision, in which whole numbers are exact, goes through all training images.

    Args:
        images, training: uint8 (n, C, H, W) and (N, C, H, W), N > 0.

    Raises:
        UserError: the images differ in size.
    """
    if images.shape[1:] != training.shape[1:]:
        shapes = ["×".join(map(str, one.shape[1:])) for one in (images, training)]
        raise UserError(f"images are {shapes[0]} (channels×height×width), the training images are {shapes[1]}")
    queries, pool = images.flatten(1).to(device), training.flatten(1).to(device)
    norms = torch.cat([rows.double().square().sum(1) for rows in pool.split(POOL)])
    found = torch.empty(len(queries), dtype=torch.float64)
    for start in range(0, len(queries), QUERIES):
        found[start : start + QUERIES] = _nearest(queries[start : start + QUERIES], pool, norms).cpu()
    return found.sqrt() / 255.0


def _nearest(queries: torch.Tensor, pool: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """The squared distance of each query (n, D) to the nearest of `pool` (N, D), uint8: whole numbers as float64."""
    x = queries.double()
    own = x.square().sum(1)
    values, indices = _smallest(queries.float(), pool, norms, CANDIDATES)
    exact = torch.stack([(x - pool[column].double()).square().sum(1) for column in indices.T], dim=1)
    best = exact.min(dim=1).values
    if len(pool) > CANDIDATES:
        # What single precision put behind the candidates is at least as far as the last of them, but for its rounding:
        # of a sum of D products, of the norm, and of their difference.
        largest = norms.max()
        rounding = ROUNDING * (2 * (x.shape[1] + 4) * (own * largest).sqrt() + 4 * largest)
        doubtful = best - own > values[:, -1].double() - rounding
        if doubtful.any():
            values, _ = _smallest(x[doubtful], pool, norms, 1)
            best[doubtful] = values[:, 0] + own[doubtful]
    return best


def _smallest(
    queries: torch.Tensor, pool: torch.Tensor, norms: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` smallest |p|² - 2 q·p over the pool for each query, ascending, in the queries' precision, and whose."""
    values, indices = [], []
    for start in range(0, len(pool), POOL):
        rows = pool[start : start + POOL].to(queries.dtype)
        here = torch.addmm(norms[start : start + POOL].to(queries.dtype), queries, rows.T, alpha=-2)
        least = here.topk(min(k, len(rows)), dim=1, largest=False)
        values.append(least.values)
        indices.append(least.indices + start)
    every = torch.cat(values, dim=1)
    least = every.topk(min(k, every.shape[1]), dim=1, largest=False)
    return least.values, torch.cat(indices, dim=1).gather(1, least.indices)
