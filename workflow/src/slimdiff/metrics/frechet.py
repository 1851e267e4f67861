"""The Fréchet distance between two sets of features (Heusel et al. 2017, eq. 6), in double precision."""

from dataclasses import dataclass

import torch

from slimdiff.errors import UserError


@dataclass(frozen=True)
class Statistics:
    """The Gaussian that summarizes a set of features."""

    mean: torch.Tensor  # float64 (d,)
    covariance: torch.Tensor  # float64 (d, d), unbiased
    n: int  # number of images


def statistics(features: torch.Tensor, weights: torch.Tensor | None = None) -> Statistics:
    """Return the mean and the unbiased covariance of `features` (n, d).

    Args:
        weights: float64 (n,), relative, of the images, as `numpy.cov(aweights=…)` takes them; None: equal.

    Raises:
        UserError: n < d: the covariance would be singular, and the distance mostly bias.
    """
    n, d = features.shape
    if n < d:
        raise UserError(
            f"{n} images are too few for a Fréchet distance in {d} features: raise sampling.n_samples to at least {d}, "
            f"better {10 * d} or more"
        )
    x = features.double()
    if weights is not None:
        shares = weights / weights.sum()
        mean = shares @ x
        centred = x - mean
        return Statistics(mean, (centred * shares[:, None]).T @ centred / (1 - shares.square().sum()), n)
    mean = x.mean(dim=0)
    centred = x - mean
    return Statistics(mean, centred.T @ centred / (n - 1), n)


def factor(covariance: torch.Tensor) -> torch.Tensor:
    """Return B with B Bᵀ = `covariance`, by eigh: unlike Cholesky it handles dead features (a singular matrix)."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()


def frechet_distance(a: Statistics, b: Statistics, factor_a: torch.Tensor | None = None) -> float:
    """Return |μ_a - μ_b|² + tr Σ_a + tr Σ_b - 2 tr (Σ_a Σ_b)^½, at least 0.

    With Σ_a = B Bᵀ, the eigenvalues of Σ_a Σ_b are those of the symmetric Bᵀ Σ_b B: real, without a matrix root.
    Null directions of Σ_a are dropped, since each would add the root of its round-off. The error is 1e-14 of the total
    variance, or 1e-8 if Σ_b has null directions that Σ_a lacks.

    Args:
        factor_a: `factor(a.covariance)`, if already computed.
    """
    root = factor(a.covariance) if factor_a is None else factor_a
    variances = root.square().sum(dim=0)
    root = root[:, variances > variances.max() * len(variances) * torch.finfo(root.dtype).eps]
    values = torch.linalg.eigvalsh(root.T @ b.covariance @ root)
    cross = values.clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, distance.item())
