"""Monge Inception Distance (MIND, Berthet et al. 2026, arXiv:2605.06797): a sliced Wasserstein distance of features."""

import torch

PROJECTIONS = 1000  # the paper's
SEED = 0  # of the projections


def mind(real: torch.Tensor, generated: torch.Tensor) -> float:
    """Return 3 d times the squared 2-Wasserstein distance of projected features, mean over random directions.

    Along a direction that distance is the mean squared difference of the sorted projections (Rabin et al. 2011). The
    directions are the same for every pair of sets. Of the larger set the first features are taken, as many as there are
    in the other.

    Args:
        real, generated: float64 (n, d) and (m, d), in a random order.
    """
    n, d = min(len(real), len(generated)), real.shape[1]
    directions = torch.randn(d, PROJECTIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    directions /= directions.norm(dim=0)
    ours, theirs = ((directions.T @ features[:n].T).sort(dim=1).values for features in (real, generated))
    return 3 * d * (ours - theirs).square().mean().item()
