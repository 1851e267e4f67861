"""What samples are compared with: a data set's training images, summed up once under each of its extractors."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from slimdiff import tensorfile
from slimdiff.errors import UserError
from slimdiff.metrics.extractors import FEATURES, Extractor, features
from slimdiff.metrics.frechet import Statistics, factor, frechet_distance, statistics

KIND = "reference"
SHUFFLE_SEED = 0  # of the order in which the test images' features are kept


@dataclass(frozen=True)
class Reference:
    """The training images of a data set under its k extractors, and the test images to show what noise alone costs."""

    mean: torch.Tensor  # float64 (k, d)
    covariance: torch.Tensor  # float64 (k, d, d)
    factor: torch.Tensor  # float64 (k, d, d), factor(covariance)
    test_features: torch.Tensor  # float32 (k, m, d), in an order drawn once, the same for every extractor
    n: int  # training images
    dataset: str
    extractors_sha256: str  # of the file that the extractors came from

    def statistics(self, index: int) -> Statistics:
        """Those of the training images under extractor `index`."""
        return Statistics(self.mean[index], self.covariance[index], self.n)


@dataclass(frozen=True)
class Distance:
    """How far a set of images is from the training images."""

    fid: float  # mean over the extractors
    rfid: float  # percent of the training images' total variance, mean over the extractors
    fid_extractors: tuple[float, ...]


@dataclass(frozen=True)
class Floor:
    """What real images that no model was trained on score: the mean over the draws of n of them."""

    fid: float
    rfid: float
    n: int  # images in each draw


def measure(
    train_images: torch.Tensor,
    test_images: torch.Tensor,
    extractors: Sequence[Extractor],
    dataset: str,
    extractors_sha256: str,
    device: torch.device,
) -> Reference:
    """The reference of one data set from its images, uint8 (N, C, H, W).

    Raises:
        UserError: fewer training images than features, or images that do not fit the extractors.
    """
    if len(train_images) < FEATURES:
        raise UserError(
            f"data set {dataset!r} has {len(train_images)} training images; its reference needs {FEATURES} or more: "
            f"add images (config key datasets.{dataset})"
        )
    order = torch.randperm(len(test_images), generator=torch.Generator().manual_seed(SHUFFLE_SEED))
    found = [statistics(features(extractor, train_images, device=device)) for extractor in extractors]
    test = [features(extractor, test_images[order], device=device).float() for extractor in extractors]
    return Reference(
        mean=torch.stack([one.mean for one in found]),
        covariance=torch.stack([one.covariance for one in found]),
        factor=torch.stack([factor(one.covariance) for one in found]),
        test_features=torch.stack(test),
        n=len(train_images),
        dataset=dataset,
        extractors_sha256=extractors_sha256,
    )


def distance(reference: Reference, image_features: Sequence[torch.Tensor]) -> Distance:
    """How far images are from the training images, given their features (n, d) under each extractor.

    Raises:
        UserError: fewer images than features.
    """
    fids, rfids = [], []
    for index, one in enumerate(image_features):
        real = reference.statistics(index)
        fid = frechet_distance(real, statistics(one), reference.factor[index])
        fids.append(fid)
        rfids.append(100.0 * fid / real.covariance.trace().item())
    return Distance(sum(fids) / len(fids), sum(rfids) / len(rfids), tuple(fids))


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
    return Floor(sum(draw.fid for draw in draws) / len(draws), sum(draw.rfid for draw in draws) / len(draws), n)


def write(path: str | os.PathLike[str], reference: Reference) -> None:
    """Write `reference`, with the floor of the whole test set in the header for people to read."""
    tensors = {
        "mean": reference.mean,
        "covariance": reference.covariance,
        "factor": reference.factor,
        "test_features": reference.test_features,
    }
    whole = floor(reference, reference.test_features.shape[1])
    header = {
        "dataset": reference.dataset,
        "n": reference.n,
        "extractors_sha256": reference.extractors_sha256,
        "test_n": reference.test_features.shape[1],
        "test_fid": whole.fid if whole else None,
        "test_rfid": whole.rfid if whole else None,
    }
    tensorfile.write(path, KIND, tensors, header)


def read(path: str | os.PathLike[str]) -> Reference:
    """The reference in `path`.

    Raises:
        UserError: the file is missing, damaged or of another kind.
    """
    tensors, header = tensorfile.read(path, KIND)
    return Reference(**tensors, n=header["n"], dataset=header["dataset"], extractors_sha256=header["extractors_sha256"])
