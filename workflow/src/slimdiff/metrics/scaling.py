"""Features on one scale and one grid, as the kernel distance and the manifold metrics take them.

The scale is one factor for all features of an extractor: raw ReLU features are so large that a cubic kernel sees a few
outliers alone, and a factor for each feature would blow up those that are nearly dead. The grid makes equal images
equal to the last bit, whatever batch they were in: products and sums of its points are exact in double precision, so
an exact copy is at distance 0, and ties between distances fall the same way on every machine.
"""

import torch

from slimdiff.metrics.frechet import Statistics

GRID = 2.0**-16  # a hundred-thousandth of a typical feature; sums stay exact up to squared norms of 2^19


def scale(real: Statistics) -> float:
    """The factor that brings the mean squared norm of real features, given their statistics, to their number d.

    1 where all of them are 0, since no factor would.
    """
    squared_norm = real.mean.square().sum() + real.covariance.trace() * (real.n - 1) / real.n
    return (len(real.mean) / squared_norm.item()) ** 0.5 if squared_norm > 0 else 1.0


def on_grid(features: torch.Tensor, factor: float) -> torch.Tensor:
    """`features` (n, d) times `factor`, rounded to multiples of 2^-16, as float64 (n, d).

    They pass through float32, in which the reference keeps those of real images.
    """
    return torch.round(features.float().double() * (factor / GRID)) * GRID
