"""What samples are compared with: a data set's training images, summed up once under each of its extractors."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.errors import UserError
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.metrics.extractors import FEATURES, Extractor, features
from slimdiff.metrics.frechet import Statistics, factor, frechet_distance, statistics
from slimdiff.metrics.memorization import nearest_distances
from slimdiff.metrics.scaling import scale

KIND = "reference"
SHUFFLE_SEED = 0  # of the order in which the test images' features are kept
DRAW_SEED = 1  # of the training images whose features are kept
MOST_KEPT = 10_000  # training images
# What a file of one holds as tensors, and what its header says.
TENSORS = ("mean", "covariance", "factor", "test_features", "train_features", "test_nearest")
FACTS = ("n", "dataset", "extractors_sha256", "images_sha256")


@dataclass(frozen=True)
class Reference:
    """The training images of a data set under its k extractors, and the test images to show what noise alone costs."""

    mean: torch.Tensor  # float64 (k, d)
    covariance: torch.Tensor  # float64 (k, d, d)
    factor: torch.Tensor  # float64 (k, d, d), factor(covariance)
    test_features: torch.Tensor  # float32 (k, m, d), in an order drawn once, the same for every extractor
    train_features: torch.Tensor  # float32 (k, at most 10,000, d), of training images drawn once
    test_nearest: torch.Tensor  # float64 (m,), distance of each test image to the nearest training image in pixels
    n: int  # training images
    dataset: str
    extractors_sha256: str  # of the file that the extractors came from
    images_sha256: str  # of the tensors in the data set's file

    def statistics(self, index: int) -> Statistics:
        """Those of the training images under extractor `index`."""
        return Statistics(self.mean[index], self.covariance[index], self.n)

    def scale(self, index: int) -> float:
        """The factor that the features of extractor `index` are multiplied with for all but the Fréchet distance."""
        return scale(self.statistics(index))


@dataclass(frozen=True)
class Distance:
    """How far a set of images is from the training images."""

    fid: float  # mean over the extractors
    fid_indomain_pct: float  # percent of the training images' total variance, mean over the extractors
    fid_indomain_extractors: tuple[float, ...]


@dataclass(frozen=True)
class Floor:
    """What real images that no model was trained on score: the mean over the draws of n of them."""

    fid: float
    fid_indomain_pct: float
    n: int  # images in each draw


def measure(
    train_images: torch.Tensor,
    test_images: torch.Tensor,
    extractors: Sequence[Extractor],
    dataset: str,
    extractors_sha256: str,
    images_sha256: str,
    device: torch.device,
) -> Reference:
    """The reference of one data set from its images, uint8 (N, C, H, W).

    For metrics that need real images one by one it keeps the features of at most 10,000 training images, not of test
    images: so these can be scored like samples, and show what a perfect model would get.

    Raises:
        UserError: fewer training images than features, or images that do not fit the extractors.
    """
    if len(train_images) < FEATURES:
        raise UserError(
            f"data set {dataset!r} has {len(train_images)} training images; its reference needs {FEATURES} or more: "
            f"add images (config key datasets.{dataset})"
        )
    order = torch.randperm(len(test_images), generator=torch.Generator().manual_seed(SHUFFLE_SEED))
    drawn = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(DRAW_SEED))[:MOST_KEPT]
    found, kept, test = [], [], []
    for extractor in extractors:
        every = features(extractor, train_images, device=device)
        found.append(statistics(every))
        kept.append(every[drawn].float())
        test.append(features(extractor, test_images[order], device=device).float())
    return Reference(
        mean=torch.stack([one.mean for one in found]),
        covariance=torch.stack([one.covariance for one in found]),
        factor=torch.stack([factor(one.covariance) for one in found]),
        test_features=torch.stack(test),
        train_features=torch.stack(kept),
        test_nearest=nearest_distances(test_images, train_images, device),
        n=len(train_images),
        dataset=dataset,
        extractors_sha256=extractors_sha256,
        images_sha256=images_sha256,
    )


def distance(reference: Reference, image_features: Sequence[torch.Tensor]) -> Distance:
    """How far images are from the training images, given their features (n, d) under each extractor.

    Raises:
        UserError: fewer images than features.
    """
    fids, percents = [], []
    for index, one in enumerate(image_features):
        real = reference.statistics(index)
        fid = frechet_distance(real, statistics(one), reference.factor[index])
        fids.append(fid)
        percents.append(100.0 * fid / real.covariance.trace().item())
    return Distance(sum(fids) / len(fids), sum(percents) / len(percents), tuple(fids))


def floor(reference: Reference, n: int) -> Floor | None:
    """The distance of n real test images from the training images: what a perfect model would score with n samples.

    The test images are cut into as many disjoint draws of n as they make, in the order kept in the reference, and the
    mean over the draws is taken; one draw of 2,000 MNIST images is off by a fifth. With fewer than n test images the
    one draw is all of them; None where they are fewer than the features.
    """
    available = reference.test_features.shape[1]
    n = min(n, available)
    if n < FEATURES:
        return None
    draws = [
        distance(reference, list(reference.test_features[:, start : start + n].double().unbind()))
        for start in range(0, available - n + 1, n)
    ]
    return Floor(
        sum(draw.fid for draw in draws) / len(draws), sum(draw.fid_indomain_pct for draw in draws) / len(draws), n
    )


def write(path: str | os.PathLike[str], reference: Reference) -> None:
    """Write `reference`, with the floor of the whole test set in the header for people to read."""
    tensors = {name: getattr(reference, name) for name in TENSORS}
    whole = floor(reference, reference.test_features.shape[1])
    header = {
        "dataset": reference.dataset,
        "n": reference.n,
        "extractors_sha256": reference.extractors_sha256,
        "images_sha256": reference.images_sha256,
        "test_n": reference.test_features.shape[1],
        "test_fid_indomain": whole.fid if whole else None,
        "test_fid_indomain_pct": whole.fid_indomain_pct if whole else None,
    }
    save_tensors(path, KIND, tensors, header)


def read(path: str | os.PathLike[str]) -> Reference:
    """The reference in `path`.

    Raises:
        UserError: the file is missing, damaged, of another kind, or of a slimdiff that kept less in it.
    """
    tensors, header = load_tensors(path, KIND)
    missing = [name for name in (*TENSORS, *FACTS) if name not in {*tensors, *header}]
    if missing:
        raise UserError(f"{path} was made by another slimdiff: it lacks {missing[0]}; delete it and run again")
    held: dict[str, Any] = {**tensors, **{name: header[name] for name in FACTS}}
    return Reference(**held)
