"""The sampling error of a Fréchet distance for a fixed model, by bootstrap over its images."""

from collections.abc import Sequence

import torch

from slimdiff.metrics.frechet import Statistics, frechet_distance
from slimdiff.metrics.reference import Reference

RESAMPLES = 50  # determines the standard deviation to a tenth
SEED = 0


def fid_indomain_sampling_sd(
    reference: Reference, image_features: Sequence[torch.Tensor], labels: torch.Tensor
) -> float:
    """Return the standard deviation of `fid_indomain` over bootstrap resamples of the n images.

    The number of images of each class is fixed in a class-conditional model's samples, hence also in their resamples.

    Resampling repeats images, which doubles the bias of n images, so only the spread of the resamples is used, not
    their mean. The spread is correct well above the floor. At the floor a distance is a sum of squared noise, and the
    spread is √3 times too large: to z², of variance 2, a resample adds 2 z z', of variance 4.

    Args:
        image_features: features (n, d) of the same images, in the same order, under each extractor.
        labels: int64 (n,), the requested classes; (0,) for an unconditional model.
    """
    n = len(image_features[0])
    classes = [torch.nonzero(labels == label).flatten() for label in labels.unique()] or [torch.arange(n)]
    generator = torch.Generator().manual_seed(SEED)
    resamples = [_resample(n, classes, generator) for _ in range(RESAMPLES)]
    distances = torch.zeros(RESAMPLES, dtype=torch.float64)
    for index, features in enumerate(image_features):
        real, factor = reference.statistics(index), reference.factor[index]
        mean = features.mean(dim=0)
        centred = features - mean
        for resample, counts in enumerate(resamples):
            distances[resample] += frechet_distance(real, _resampled(centred, mean, counts), factor)
    return (distances / len(image_features)).std().item()


def _resample(n: int, classes: Sequence[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return how often each of n images is drawn, float64 (n,), as many times per class as it has images."""
    counts = torch.zeros(n, dtype=torch.float64)
    for own in classes:
        drawn = torch.randint(len(own), (len(own),), generator=generator)
        counts[own] = drawn.bincount(minlength=len(own)).double()
    return counts


def _resampled(centred: torch.Tensor, mean: torch.Tensor, counts: torch.Tensor) -> Statistics:
    """Return the statistics of the features `centred + mean` (n, d), each repeated `counts` (n,) times."""
    n = len(counts)
    shift = counts @ centred / n
    second = (centred * counts[:, None]).T @ centred
    return Statistics(mean + shift, (second - n * torch.outer(shift, shift)) / (n - 1), n)
