"""The reference of a data set: statistics and features of its training images under each of its extractors.

The Fréchet distance takes raw features; all other metrics take features scaled and rounded to a grid. The scale is one
factor per extractor: raw ReLU features are so large that a cubic kernel would see only outliers, and a factor per
feature would inflate nearly dead ones. The grid removes the rounding noise of batches and makes distances exact in
double precision: a copy is at distance 0, and ties fall the same way on every machine.

`slimdiff.metrics.composition.compose` gives it the composition of a cell's samples before they are compared with it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.catalog.compositions import apportion
from slimdiff.catalog.limits import FEATURES, MAX_KEPT, DatasetFacts, dataset_faults
from slimdiff.errors import UserError, refuse
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.metrics.frechet import Statistics, factor, frechet_distance, statistics
from slimdiff.metrics.memorization import nearest_distances
from slimdiff.metrics.networks.extractors import Extractor, features
from slimdiff.metrics.networks.fit import Labelled

KIND = "reference"
SHUFFLE_SEED = 0  # of the order of the test images' features
DRAW_SEED = 1  # of the training images whose features are kept
COUNT_SEED = 3  # of the number of images of each class in a floor
MIN_SETS = 4  # of test images; fewer are too alike in the number of images of each class
DRAWS = 20  # of these numbers
GRID = 2.0**-16  # a hundred-thousandth of a typical feature; sums stay exact up to squared norms of 2^19
# Tensors and header fields of the file
TENSORS = (
    *("mean", "covariance", "factor", "class_counts", "class_mean", "class_covariance"),
    *("train_features", "train_labels", "test_features", "test_labels", "test_nearest"),
)
FACTS = ("n", "dataset", "extractors_sha256", "images_sha256")


@dataclass(frozen=True)
class Reference:
    """A data set's training images under its k extractors, and its test images, which give the floor."""

    mean: torch.Tensor  # float64 (k, d)
    covariance: torch.Tensor  # float64 (k, d, d)
    factor: torch.Tensor  # float64 (k, d, d), factor(covariance)
    class_counts: torch.Tensor  # int64 (classes,), training images
    class_mean: torch.Tensor  # float64 (k, classes, d); 0 without images, as the next
    class_covariance: torch.Tensor  # float64 (k, classes, d, d), divided by the number of images
    train_features: torch.Tensor  # float32 (k, M, d): the first 10,000 of a random order, later ones of rare classes
    train_labels: torch.Tensor  # int64 (M,)
    test_features: torch.Tensor  # float32 (k, m, d), in one random order for all extractors
    test_labels: torch.Tensor  # int64 (m,)
    test_nearest: torch.Tensor  # float64 (m,), pixel distance of each test image to the nearest training image
    n: int  # training images
    dataset: str
    extractors_sha256: str  # of the extractors' file
    images_sha256: str  # of the tensors in the data set's file

    def __post_init__(self) -> None:
        """Refuse training images that all look alike to an extractor: every distance is a share of their variance."""
        for index, covariance in enumerate(self.covariance):
            if covariance.trace().item() * self.scale(index) ** 2 < len(covariance) * GRID**2:
                raise UserError(
                    f"the training images of data set {self.dataset!r} have no variance in the features of extractor "
                    f"{index}: check the images and how they are read (config key datasets.{self.dataset})"
                )

    def statistics(self, index: int) -> Statistics:
        """Return the statistics of the training images under extractor `index`."""
        return Statistics(self.mean[index], self.covariance[index], self.n)

    def scale(self, index: int) -> float:
        """Return the factor that `on_grid` takes for the features of extractor `index`."""
        return scale(self.statistics(index))


@dataclass(frozen=True)
class Distance:
    """Fréchet distance between a set of images and the training images."""

    fid_indomain: float  # mean over the extractors
    fid_indomain_pct: float  # percent of the training images' total variance, mean over the extractors
    fid_indomain_extractors: tuple[float, ...]


@dataclass(frozen=True)
class Floor:
    """Fréchet distance between real test images and the training images: mean over sets of n test images."""

    fid_indomain: float
    fid_indomain_pct: float
    n: int  # images per set


def scale(real: Statistics) -> float:
    """Return the factor that brings the mean squared norm of real features to their number d; 1 if all are 0."""
    squared_norm = real.mean.square().sum() + real.covariance.trace() * (real.n - 1) / real.n
    return (len(real.mean) / squared_norm.item()) ** 0.5 if squared_norm > 0 else 1.0


def on_grid(features: torch.Tensor, factor: float) -> torch.Tensor:
    """Return `features` (n, d) times `factor`, rounded to multiples of 2^-16, as float64 (n, d).

    They pass through float32, the precision of the reference's features.
    """
    return torch.round(features.float().double() * (factor / GRID)) * GRID


def measure(
    train: Labelled,
    test: Labelled,
    extractors: Sequence[Extractor],
    dataset: str,
    extractors_sha256: str,
    images_sha256: str,
    device: torch.device,
) -> Reference:
    """Return the reference of one data set.

    Metrics that compare single images use the features of at most 10,000 training images, never of test images. Test
    images can therefore be scored like samples, and show the score of a perfect model.

    Args:
        train, test: images, uint8 (N, C, H, W), and labels, int64 (N,).

    Raises:
        UserError: there are fewer training images than features, or the extractors take images of another size.
    """
    (train_images, train_labels), (test_images, test_labels) = train, test
    refuse(dataset_faults(dataset, DatasetFacts(n_train=len(train_images))))
    order = torch.randperm(len(test_images), generator=torch.Generator().manual_seed(SHUFFLE_SEED))
    class_counts = torch.bincount(train_labels, minlength=extractors[0].n_classes)
    drawn = _draw(train_labels, class_counts.tolist())
    gaussians, moments, kept, tested = [], [], [], []
    for extractor in extractors:
        found = features(extractor, train_images, device=device)
        gaussians.append(statistics(found))
        moments.append([_moments(found[train_labels == label]) for label in range(len(class_counts))])
        kept.append(found[drawn].float())
        tested.append(features(extractor, test_images[order], device=device).float())
    return Reference(
        mean=torch.stack([gaussian.mean for gaussian in gaussians]),
        covariance=torch.stack([gaussian.covariance for gaussian in gaussians]),
        factor=torch.stack([factor(gaussian.covariance) for gaussian in gaussians]),
        class_counts=class_counts,
        class_mean=torch.stack([torch.stack([mean for mean, _ in each]) for each in moments]),
        class_covariance=torch.stack([torch.stack([covariance for _, covariance in each]) for each in moments]),
        train_features=torch.stack(kept),
        train_labels=train_labels[drawn],
        test_features=torch.stack(tested),
        test_labels=test_labels[order],
        test_nearest=nearest_distances(test_images, train_images, device)[order],
        n=len(train_images),
        dataset=dataset,
        extractors_sha256=extractors_sha256,
        images_sha256=images_sha256,
    )


def _draw(labels: torch.Tensor, class_counts: list[int]) -> torch.Tensor:
    """Return the training images whose features are kept, in a random order: the first MAX_KEPT of it, then more.

    Those after MAX_KEPT complete each class to its exact share of MAX_KEPT images, and to an equal share.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(DRAW_SEED))
    equal = -(-MAX_KEPT // len(class_counts))
    wanted = [max(equal, share) for share in apportion(min(len(labels), MAX_KEPT), class_counts)]
    kept = torch.arange(len(labels)) < MAX_KEPT
    for label, least in enumerate(wanted):
        kept[torch.nonzero(labels[order] == label).flatten()[:least]] = True
    return order[kept]


def _moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the covariance, divided by n, of `features` (n, d); zeros if n is 0."""
    n, d = features.shape
    if n == 0:
        return torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / n


def distance(
    reference: Reference, image_features: Sequence[torch.Tensor], weights: torch.Tensor | None = None
) -> Distance:
    """Return the distance between images, given their features (n, d) under each extractor, and the training images.

    Args:
        weights: float64 (n,), of the images; None: equal.

    Raises:
        UserError: there are fewer images than features.
    """
    fids, percents = [], []
    for index, generated in enumerate(image_features):
        real = reference.statistics(index)
        fid = frechet_distance(real, statistics(generated, weights), reference.factor[index])
        fids.append(fid)
        percents.append(100.0 * fid / real.covariance.trace().item())
    return Distance(sum(fids) / len(fids), sum(percents) / len(percents), tuple(fids))


def floor(reference: Reference, n: int, random_counts: bool = False) -> Floor | None:
    """Return the distance of n real test images: the score of a perfect model with n samples.

    It is the mean over disjoint sets of n test images, as many as there are, in the reference's order: one set of
    2,000 MNIST images is off by a fifth. With fewer than n test images, the only set is all of them. None if there are
    fewer test images than features.

    Args:
        random_counts: whether the model draws the class of each image, so that the number of images of a class varies.
            In sets that use most of the test images it varies too little: with fewer than four sets, these numbers are
            drawn by the training set's shares, and images weighted to them.
    """
    available = reference.test_features.shape[1]
    n = min(n, available)
    if n < FEATURES:
        return None
    features = reference.test_features.double()
    if random_counts and available < MIN_SETS * n:
        generator = torch.Generator().manual_seed(COUNT_SEED)
        draws = [_draw_weights(reference.test_labels, reference.class_counts, n, generator) for _ in range(DRAWS)]
        distances = [distance(reference, list(features.unbind()), weights) for weights in draws]
    else:
        sets = [features[:, start : start + n] for start in range(0, available - n + 1, n)]
        distances = [distance(reference, list(each.unbind())) for each in sets]
    return Floor(
        sum(each.fid_indomain for each in distances) / len(distances),
        sum(each.fid_indomain_pct for each in distances) / len(distances),
        n,
    )


def _draw_weights(labels: torch.Tensor, class_counts: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Return weights, float64 (m,), of images with these labels, int64 (m,), that make n random ones of them.

    The number of images of each class is multinomial by `class_counts`, int64 (classes,). As many random images of a
    class as that number is on average share it equally, and the others weigh 0.
    """
    expected = apportion(n, class_counts.tolist())
    drawn = torch.multinomial(class_counts.double(), n, replacement=True, generator=generator)
    weights = torch.zeros(len(labels), dtype=torch.float64)
    for label, count in enumerate(drawn.bincount(minlength=len(class_counts)).tolist()):
        own = torch.nonzero(labels == label).flatten()
        chosen = own[torch.randperm(len(own), generator=generator)[: max(1, expected[label])]]
        weights[chosen] = count / max(1, len(chosen))
    return weights


def write(path: str | os.PathLike[str], reference: Reference) -> None:
    """Write `reference`."""
    tensors = {name: getattr(reference, name) for name in TENSORS}
    header = {
        "dataset": reference.dataset,
        "n": reference.n,
        "extractors_sha256": reference.extractors_sha256,
        "images_sha256": reference.images_sha256,
        "test_n": reference.test_features.shape[1],
    }
    save_tensors(path, KIND, tensors, header)


def read(path: str | os.PathLike[str]) -> Reference:
    """Return the reference in `path`.

    Raises:
        UserError: the file is missing, damaged, of another kind, or from an older slimdiff.
    """
    tensors, header = load_tensors(path, KIND)
    missing = [name for name in (*TENSORS, *FACTS) if name not in {*tensors, *header}]
    if missing:
        raise UserError(f"{path} is from an older slimdiff and lacks {missing[0]}: delete it and run again")
    fields: dict[str, Any] = {**tensors, **{name: header[name] for name in FACTS}}
    return Reference(**fields)
