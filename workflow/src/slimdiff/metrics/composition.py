"""One composition for samples and what they are compared with.

A class-conditional model samples a fixed number of images of each class. Real images drawn at random compare with them
neither in their shares nor in their spread: the number of each class varies, which raises a Fréchet distance.
"""

from dataclasses import replace

import torch

from slimdiff.catalog.compositions import apportion, largest_counts
from slimdiff.catalog.limits import MAX_KEPT, comparison_faults
from slimdiff.errors import refuse
from slimdiff.metrics.frechet import factor
from slimdiff.metrics.reference import Reference

THIN_SEED = 2


def count(labels: torch.Tensor, n_classes: int) -> list[int]:
    """Return how often each of `n_classes` or more classes occurs in `labels`, int64 (n,)."""
    counts: list[int] = torch.bincount(labels, minlength=n_classes).tolist()
    return counts


def pick(labels: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the indices, ascending, of the first images of each class in `labels`, int64 (n,): `counts` of them."""
    places = [own[:wanted] for own, wanted in zip(_places(labels, len(counts)), counts, strict=True)]
    return torch.cat(places).sort().values


def thin(labels: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the same for images of each class at random, so that the order of the classes stays random."""
    generator = torch.Generator().manual_seed(THIN_SEED)
    places = [
        own[torch.randperm(len(own), generator=generator)[:wanted]]
        for own, wanted in zip(_places(labels, len(counts)), counts, strict=True)
    ]
    return torch.cat(places).sort().values


def compose(reference: Reference, labels: torch.Tensor) -> Reference:
    """Return `reference` with the composition of samples: its statistics, kept training images and test images.

    Of a class-conditional model's n samples each class is a known number. The statistics weigh each class by it; of
    the training images the largest set of at most n images is kept; the test images form as many disjoint sets of n as
    there are, one after the other, or one smaller set. An unconditional model draws from the training set's shares:
    test images of classes that have too many for these are left out.

    Args:
        reference: as `slimdiff.metrics.reference.read` returns it.
        labels: int64 (n,), the requested classes; (0,) for an unconditional model.

    Raises:
        UserError: a requested class has so few training images that too few of all classes are left.
    """
    trained = reference.class_counts.tolist()
    available = count(reference.test_labels, len(trained))
    if not len(labels):
        chosen = thin(reference.test_labels, largest_counts(sum(available), trained, available))
        return _select(reference, torch.arange(min(len(reference.train_labels), MAX_KEPT)), chosen)
    counts = count(labels, len(trained))
    refuse(comparison_faults(reference.dataset, counts, trained))
    tested = largest_counts(len(labels), counts, available)
    kept = largest_counts(len(labels), counts, count(reference.train_labels, len(trained)))
    enough = sum(tested) == len(labels)  # else pick one smaller set
    chosen = (_sets if enough else pick)(reference.test_labels, tested)
    composed = _select(reference, pick(reference.train_labels, kept), chosen)
    if counts == apportion(len(labels), trained):
        return composed  # whose statistics are those of all training images, without an image's rounding
    gaussians = [_weigh(reference, index, torch.tensor(counts)) for index in range(len(reference.mean))]
    return replace(
        composed,
        mean=torch.stack([mean for mean, _ in gaussians]),
        covariance=torch.stack([covariance for _, covariance in gaussians]),
        factor=torch.stack([factor(covariance) for _, covariance in gaussians]),
    )


def _select(reference: Reference, train: torch.Tensor, test: torch.Tensor) -> Reference:
    """Return `reference` with these of its kept training images and test images, given by index."""
    return replace(
        reference,
        train_features=reference.train_features[:, train],
        train_labels=reference.train_labels[train],
        test_features=reference.test_features[:, test],
        test_labels=reference.test_labels[test],
        test_nearest=reference.test_nearest[test],
    )


def _sets(labels: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Return the indices of as many disjoint sets with these counts as `labels`, int64 (m,), allow, set by set."""
    sets = [
        [own[start : start + wanted] for start in range(0, len(own) - wanted + 1, wanted)]
        for own, wanted in zip(_places(labels, len(counts)), counts, strict=True)
        if wanted
    ]
    return torch.cat([torch.cat(parts) for parts in zip(*sets, strict=False)])


def _places(labels: torch.Tensor, n_classes: int) -> list[torch.Tensor]:
    """Return the indices, ascending, of each class in `labels`, int64 (n,)."""
    return [torch.nonzero(labels == label).flatten() for label in range(n_classes)]


def _weigh(reference: Reference, index: int, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the covariance of the training images, each class weighted to its share of `counts`.

    Under extractor `index`. The covariance is unbiased in the sense of `numpy.cov(aweights=…)`: for equal weights it is
    the usual one.
    """
    shares = counts.double() / counts.sum()
    mean = shares @ reference.class_mean[index]
    offsets = reference.class_mean[index] - mean
    within = torch.einsum("c,cij->ij", shares, reference.class_covariance[index])
    between = (offsets * shares[:, None]).T @ offsets
    squared_weights = (shares.square() / reference.class_counts.clamp(min=1)).sum()
    return mean, (within + between) / (1 - squared_weights)
