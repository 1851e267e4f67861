"""All metrics of one cell's samples."""

import hashlib
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from slimdiff.errors import UserError
from slimdiff.io.samples import Samples
from slimdiff.metrics.bootstrap import fid_indomain_sampling_sd
from slimdiff.metrics.composition import compose, count, pick
from slimdiff.metrics.evaluator import Evaluator, Foreign
from slimdiff.metrics.kid import kernel_distance, kernel_distance_by_class
from slimdiff.metrics.likeness import likeness
from slimdiff.metrics.memorization import copy_share, memorization, two_nearest_distances
from slimdiff.metrics.mind import mind
from slimdiff.metrics.networks.base import BATCH_SIZE
from slimdiff.metrics.networks.classifier import classify_samples
from slimdiff.metrics.networks.extractors import Extractor, features, fitted
from slimdiff.metrics.networks.inception import COLUMNS as INCEPTION_COLUMNS
from slimdiff.metrics.networks.inception import score_inception
from slimdiff.metrics.prdc import compute_prdc
from slimdiff.metrics.reference import Reference, distance, floor, on_grid
from slimdiff.runtime.memory import HalvingBatch, OutOfMemory

ORDER_SEED = 0  # of the canonical order of samples
FEW_PER_FEATURE = 10  # fewer images per feature are flagged
# The record's keys that are null if sampling or scoring failed
MEASURES = (
    "fid_indomain",
    "fid_indomain_min",
    "fid_indomain_max",
    "fid_indomain_extractors",
    "fid_indomain_sampling_sd",
    "fid_indomain_pct",
    "fid_indomain_floor",
    "fid_indomain_floor_pct",
    "fid_indomain_floor_n",
    "few_samples",
    "fid_foreign",
    "kid",
    "mind",
    "precision",
    "recall",
    "density",
    "coverage",
    "manifold_n",
    "class_accuracy",
    "class_tv",
    "low_confidence",
    "memorization_p",
    "nearest_ratio",
    "copy_share",
    "psnr",
    "ssim",
    *INCEPTION_COLUMNS.values(),
)


def score(
    samples: Samples, n_samples: int, evaluator: Evaluator, device: torch.device, baseline: Samples | None = None
) -> dict[str, Any]:
    """Return the record of one cell: every metric of docs/metrics.md by its column, null where it does not apply.

    Further keys: `fid_indomain_extractors`, the distance under each extractor; `fid_indomain_floor_n`, the number of
    test images behind the floors (the number of samples, or all test images if fewer); `few_samples`, whether there
    are fewer than ten samples per feature, so that bias dominates the distances; `manifold_n`, the number of real
    images and of samples that kid and precision to coverage compare; `score_batch_size`; the networks' digests.

    `psnr` and `ssim` compare image i with image i of `baseline`, which has the same noise and classes; they are null
    without it, and if its sampling failed. For all other scores the samples are first sorted by their pixels, so that
    their order does not count. What they are compared with has their composition (`slimdiff.metrics.composition`).
    Failed samples get null metrics. If memory runs out, everything is repeated once with half the batch, to the same
    scores; if it runs out again, the cell has failed at this stage.

    Raises:
        UserError: there are not `n_samples` images, fewer than features, or they differ in size from the data set's, or
            in number, size or classes from the baseline's.
    """
    record: dict[str, Any] = {
        "status": samples.status,
        "reason": samples.reason,
        "n_samples": n_samples,
        **dict.fromkeys(MEASURES),
        **evaluator.digests,
        "reference_n": evaluator.reference.n,
        "network_evaluations": samples.network_evaluations,
        "sampler": samples.sampler,
        "sampling_batch_size": samples.batch_size,
        "score_batch_size": None,
    }
    if samples.status != "ok":
        return record
    if len(samples.images) != n_samples:
        raise UserError(f"there are {len(samples.images)} samples, sampling.n_samples is {n_samples}: sample again")
    pairs = {} if baseline is None or baseline.status != "ok" else _likeness(samples, baseline)
    batches = HalvingBatch(BATCH_SIZE)
    try:
        measures = batches.run(lambda size: _measure(samples, n_samples, evaluator, device, size))
    except OutOfMemory as error:
        why = f"out of memory with {error.tried[0]} images at once ({error}): score on a device with more memory"
        return record | {"status": "failed", "stage": "score", "reason": why}
    return record | measures | pairs | {"score_batch_size": batches.size}


def _measure(
    samples: Samples, n_samples: int, evaluator: Evaluator, device: torch.device, batch_size: int
) -> dict[str, Any]:
    """Compute every metric; extractors and classifier take `batch_size` images at once."""
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
    # The classifier comes first, since it rejects labels that do not fit.
    record: dict[str, Any] = dict(
        classify_samples(evaluator.classifier, images, labels, evaluator.class_shares, device, batch_size)
    )
    order = canonical_order(images, labels)
    images, labels = images[order], labels[order] if len(labels) else labels
    real = compose(evaluator.reference, labels)
    scales = [real.scale(index) for index in range(len(evaluator.extractors))]
    points = _points(evaluator.extractors, images, scales, batch_size, device)
    record |= _frechet(real, [point / factor for point, factor in zip(points, scales, strict=True)], labels)
    record |= _pairwise(real, points, scales, labels)
    if evaluator.foreign:
        record["fid_foreign"] = _foreign(evaluator.foreign, images, labels, batch_size, device)
    nearest, second = two_nearest_distances(images, evaluator.train_images, device)
    record["copy_share"] = copy_share(nearest, second)
    result = memorization(nearest, real.test_nearest)
    if result:
        record |= {"memorization_p": result.p, "nearest_ratio": result.ratio}
    return record | {
        inception.column: score_inception(images, labels, inception, device) for inception in evaluator.inception
    }


def _likeness(samples: Samples, baseline: Samples) -> dict[str, Any]:
    """Return PSNR and SSIM of the samples against the baseline's."""
    if samples.images.shape != baseline.images.shape or samples.labels.tolist() != baseline.labels.tolist():
        raise UserError(
            f"the samples are {samples.images.shape} (images, channels, height, width), the baseline's "
            f"{baseline.images.shape}; allowed: the same, with the same class of each image: delete both samples.npz "
            "and run again"
        )
    found = likeness(torch.from_numpy(samples.images), torch.from_numpy(baseline.images))
    return {"psnr": found.psnr, "ssim": found.ssim}


def canonical_order(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return indices that put uint8 (N, C, H, W) into a random order that depends only on the set of images.

    Equal images are ordered by their labels, int64 (N,), if there are any.

    They sort by a hash of the pixels, then shuffle: sorting alone would make equal images neighbours, and the first
    few images would contain many copies.
    """
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images.contiguous().numpy()]
    keys = list(zip(digests, labels.tolist() or [0] * len(digests), strict=True))
    by_digest = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__), dtype=torch.int64)
    return by_digest[torch.randperm(len(digests), generator=torch.Generator().manual_seed(ORDER_SEED))]


def _points(
    extractors: Sequence[Extractor],
    images: torch.Tensor,
    scales: list[float],
    batch_size: int,
    device: torch.device,
) -> list[torch.Tensor]:
    """Return the features of `images` under each extractor, on the grid.

    Rounding to the grid removes the noise of batches, of which the Fréchet distance would take the square root.
    """
    return [
        on_grid(features(extractor, images, batch_size, device), factor)
        for extractor, factor in zip(extractors, scales, strict=True)
    ]


def _foreign(
    foreign: Foreign, images: torch.Tensor, labels: torch.Tensor, batch_size: int, device: torch.device
) -> float:
    """Return the Fréchet distance in the features of another data set's extractors, mean over these."""
    real = compose(foreign.reference, labels)
    scales = [real.scale(index) for index in range(len(foreign.extractors))]
    images = fitted(images, foreign.extractors[0].image_shape)
    points = _points(foreign.extractors, images, scales, batch_size, device)
    return distance(real, [point / factor for point, factor in zip(points, scales, strict=True)]).fid_indomain


def _frechet(real: Reference, image_features: list[torch.Tensor], labels: torch.Tensor) -> dict[str, Any]:
    """Return the Fréchet distance, its sampling error, and the floor."""
    n, d = image_features[0].shape
    generated = distance(real, image_features)
    least = floor(real, n, random_counts=not len(labels))
    return {
        "fid_indomain": generated.fid_indomain,
        "fid_indomain_min": min(generated.fid_indomain_extractors),
        "fid_indomain_max": max(generated.fid_indomain_extractors),
        "fid_indomain_extractors": list(generated.fid_indomain_extractors),
        "fid_indomain_sampling_sd": fid_indomain_sampling_sd(real, image_features, labels),
        "fid_indomain_pct": generated.fid_indomain_pct,
        "fid_indomain_floor": least.fid_indomain if least else None,
        "fid_indomain_floor_pct": least.fid_indomain_pct if least else None,
        "fid_indomain_floor_n": least.n if least else None,
        "few_samples": n < FEW_PER_FEATURE * d,
    }


def compare_pairs(
    real: Reference, points: Sequence[torch.Tensor], scales: Sequence[float], labels: torch.Tensor
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[float | None]]:
    """Return under each extractor the features that metrics over pairs compare, and the kernel distance of these.

    The features are of kept training images and of samples, (m, d) each; those of a class-conditional model are as many
    of each class as both sides have. Its distance is None if that is one image of a class.

    Args:
        real: composed as the samples are.
        points, scales: the samples' features (n, d) on the grid under each extractor, and their factors.
        labels: int64 (n,); (0,) for an unconditional model.
    """
    kept = [on_grid(features, factor) for features, factor in zip(real.train_features, scales, strict=True)]
    if not len(labels):
        pairs = list(zip(kept, points, strict=True))
        return pairs, [kernel_distance(x, y) for x, y in pairs]
    chosen = pick(labels, count(real.train_labels, len(real.class_counts)))
    pairs = [(x, y[chosen]) for x, y in zip(kept, points, strict=True)]
    return pairs, [kernel_distance_by_class(x, real.train_labels, y, labels[chosen]) for x, y in pairs]


def _pairwise(real: Reference, points: list[torch.Tensor], scales: list[float], labels: torch.Tensor) -> dict[str, Any]:
    """Return the metrics over pairs of samples and kept training images: means over the extractors.

    Args:
        points, scales: the samples' features on the grid under each extractor, and their factors.
    """
    pairs, by_extractor = compare_pairs(real, points, scales, labels)
    kids = [value for value in by_extractor if value is not None]
    results = [compute_prdc(x, y) for x, y in pairs]
    return {
        "kid": fmean(kids) if kids else None,
        "mind": fmean(mind(x, y) for x, y in pairs),
        "precision": fmean(result.precision for result in results),
        "recall": fmean(result.recall for result in results),
        "density": fmean(result.density for result in results),
        "coverage": fmean(result.coverage for result in results),
        "manifold_n": results[0].m,
    }
