"""How much of a Fréchet distance is the luck of the draw of the images, with the model held fixed."""

from collections.abc import Sequence

import torch

from slimdiff.metrics.frechet import Statistics, frechet_distance
from slimdiff.metrics.reference import Reference

RESAMPLES = 50  # the standard deviation of so many is itself off by a tenth
SEED = 0


def fid_indomain_sampling_sd(reference: Reference, image_features: Sequence[torch.Tensor]) -> float:
    """Standard deviation of `fid`, the mean over the extractors, over bootstrap draws of the n images.

    Drawing with replacement repeats images, which adds to every distance as much bias again as n images have, so the
    mean over the draws is no estimate of fid and only their spread is used. It is right where the distance is well
    above its floor. At the floor, where a distance is a sum of squares of noise alone, the spread comes out √3 times
    too large: to z² of variance 2 a draw adds the square of 2 z z' as well, of variance 4.

    Args:
        image_features: features (n, d) of the same images, in the same order, under each extractor.
    """
    n = len(image_features[0])
    generator = torch.Generator().manual_seed(SEED)
    draws = [torch.randint(n, (n,), generator=generator).bincount(minlength=n).double() for _ in range(RESAMPLES)]
    distances = torch.zeros(RESAMPLES, dtype=torch.float64)
    for index, one in enumerate(image_features):
        real, known = reference.statistics(index), reference.factor[index]
        middle = one.mean(dim=0)
        centred = one - middle
        for draw, counts in enumerate(draws):
            distances[draw] += frechet_distance(real, _resampled(centred, middle, counts), known)
    return (distances / len(image_features)).std().item()


def _resampled(centred: torch.Tensor, middle: torch.Tensor, counts: torch.Tensor) -> Statistics:
    """The statistics of features that each occur `counts` (n,) times; `middle` was taken off them beforehand."""
    n = len(counts)
    shift = counts @ centred / n
    second = (centred * counts[:, None]).T @ centred
    return Statistics(middle + shift, (second - n * torch.outer(shift, shift)) / (n - 1), n)
