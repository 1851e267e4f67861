"""The Fréchet distance in 2,048 features, as many as Inception's: ours against pytorch-fid and torch-fidelity.

slimdiff computes the eigenvalues of a symmetric matrix, with the reference's factor precomputed; pytorch-fid scipy's
root of the product matrix; torch-fidelity the eigenvalues of the product, which is not symmetric. Times are seconds per
distance; `relative_difference` compares the values. The covariances have full rank, from 10,000 correlated features.
"""

import time
import warnings
from collections.abc import Callable

import scipy.linalg
import torch
from _record import interleaved, record
from torch_fidelity.metric_fid import fid_statistics_to_metric

from slimdiff.metrics.frechet import Statistics, factor, frechet_distance, statistics
from slimdiff.runtime.devices import pick_device

FEATURES, IMAGES, THREADS, ROUNDS = 2048, 10_000, 2, 3


def features(seed: int) -> torch.Tensor:
    """Return correlated features whose spectrum falls like 1/k, as that of images does."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(0)))[0]
    scales = torch.arange(1, FEATURES + 1).rsqrt()
    return (torch.randn(IMAGES, FEATURES, generator=generator) * scales) @ mixing + 0.01 * seed


def by_root(a: Statistics, b: Statistics) -> float:
    """Heusel et al. 2017, eq. 6, with scipy's matrix root."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    rest = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace()
    return float(rest) - 2 * float(root.trace())


def by_torch_fidelity(a: Statistics, b: Statistics) -> float:
    """Return torch-fidelity's distance for the same means and covariances."""
    sides = ({"mu": one.mean.numpy(), "sigma": one.covariance.numpy()} for one in (a, b))
    return float(fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"])


if __name__ == "__main__":
    pick_device(0, THREADS)
    real, generated = statistics(features(1)), statistics(features(2))
    real_factor = factor(real.covariance)
    values: dict[str, float] = {}

    def ours() -> float:
        start = time.perf_counter()
        values["ours"] = frechet_distance(real, generated, real_factor)
        return time.perf_counter() - start

    for name, other in {"scipy's sqrtm": by_root, "torch-fidelity": by_torch_fidelity}.items():

        def theirs(other: Callable[[Statistics, Statistics], float] = other) -> float:
            start = time.perf_counter()
            values["theirs"] = other(real, generated)
            return time.perf_counter() - start

        measured = interleaved(ours, theirs, ROUNDS)
        difference = {"relative_difference": abs(values["theirs"] / values["ours"] - 1)}
        record(f"Fréchet distance, {FEATURES} features: {name} / ours (s)", {**measured, **difference}, THREADS)
