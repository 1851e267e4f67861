"""The sampling error of a Fréchet distance for a fixed model, by bootstrap over its images."""

from collections.abc import Sequence

import torch

from slimdiff.metrics.frechet import Statistics, frechet_distance
from slimdiff.metrics.reference import Reference

RESAMPLES = 50  # determines the standard deviation to a tenth
SEED = 0


def fid_indomain_sampling_sd(reference: Reference, image_features: Sequence[torch.Tensor]) -> float:
    """Return the standard deviation of `fid_indomain` over bootstrap resamples of the n images.

    Resampling repeats images, which doubles the bias of n images, so only the spread of the resamples is used, not
    their mean. The spread is correct well above the floor. At the floor a distance is a sum of squared noise, and the
    spread is √3 times too large: to z², of variance 2, a resample adds 2 z z', of variance 4.

    Args:
        image_features: features (n, d) of the same images, in the same order, under each extractor.
    """
    n = len(image_features[0])
    generator = torch.Generator().manual_seed(SEED)
    resamples = [torch.randint(n, (n,), generator=generator).bincount(minlength=n).double() for _ in range(RESAMPLES)]
    distances = torch.zeros(RESAMPLES, dtype=torch.float64)
    for index, features in enumerate(image_features):
        real, factor = reference.statistics(index), reference.factor[index]
        mean = features.mean(dim=0)
        centred = features - mean
        for resample, counts in enumerate(resamples):
            distances[resample] += frechet_distance(real, _resampled(centred, mean, counts), factor)
    return (distances / len(image_features)).std().item()


def _resampled(centred: torch.Tensor, mean: torch.Tensor, counts: torch.Tensor) -> Statistics:
    """Return the statistics of the features `centred + mean` (n, d), each repeated `counts` (n,) times."""
    n = len(counts)
    shift = counts @ centred / n
    second = (centred * counts[:, None]).T @ centred
    return Statistics(mean + shift, (second - n * torch.outer(shift, shift)) / (n - 1), n)
