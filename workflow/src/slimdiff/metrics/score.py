"""From a file of samples to its score."""

import hashlib
from statistics import fmean
from typing import Any

import torch

from slimdiff.errors import UserError
from slimdiff.io.samples import Samples
from slimdiff.metrics.batches import BATCH_SIZE
from slimdiff.metrics.bootstrap import fid_indomain_sampling_sd
from slimdiff.metrics.classifier import classify_samples
from slimdiff.metrics.evaluator import Evaluator
from slimdiff.metrics.extractors import features
from slimdiff.metrics.inception import COLUMNS as INCEPTION_COLUMNS
from slimdiff.metrics.inception import score_inception
from slimdiff.metrics.kid import kernel_distance
from slimdiff.metrics.memorization import memorization, nearest_distances
from slimdiff.metrics.prdc import manifold
from slimdiff.metrics.reference import Reference, distance, floor
from slimdiff.metrics.scaling import on_grid
from slimdiff.runtime.memory import HalvingBatch, OutOfMemory

ORDER_SEED = 0  # of the order that samples are brought into
FEW = 10  # fewer images than so many for each feature are flagged
# The keys of a record that only samples can have a value for.
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
    "kid",
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
    *INCEPTION_COLUMNS.values(),
)


def score(samples: Samples, n_samples: int, evaluator: Evaluator, device: torch.device) -> dict[str, Any]:
    """The record of one cell: every metric of docs/metrics.md under its column's name, null where it does not apply.

    Beside the columns: `fid_indomain_extractors`, the distance under each extractor; `fid_indomain_floor_n`, how many real test images
    the floors are of (as many as there are samples, or all where there are fewer); `few_samples`, whether there are
    fewer than ten samples for each feature, so that the distances are bias for the most part; `manifold_n`, how many
    real images and samples kid and the manifold metrics compared; `score_batch_size`, how many images the networks took
    at once; and the digests of all networks.

    The samples are first brought into an order that follows from their pixels alone, so no score depends on the order
    in which they come. Those that failed are passed along with null metrics. Where memory runs out everything is done
    again with half the batch, once, to the same scores; where it runs out again the cell has failed at this stage.

    Raises:
        UserError: not `n_samples` images, fewer than there are features, or of another size than the data set's.
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
    batches = HalvingBatch(BATCH_SIZE)
    try:
        measures = batches.run(lambda size: _measure(samples, n_samples, evaluator, device, size))
    except OutOfMemory as error:
        why = f"out of memory with {error.tried[0]} images at once ({error}): score on a device with more memory"
        return record | {"status": "failed", "stage": "score", "reason": why}
    return record | measures | {"score_batch_size": batches.size}


def _measure(
    samples: Samples, n_samples: int, evaluator: Evaluator, device: torch.device, batch_size: int
) -> dict[str, Any]:
    """Every metric; the extractors and the judge take `batch_size` images at once."""
    order = canonical_order(torch.from_numpy(samples.images))
    images, labels = torch.from_numpy(samples.images)[order], torch.from_numpy(samples.labels)
    labels = labels[order] if len(labels) == n_samples else labels  # classify_samples refuses other counts
    scales = [evaluator.reference.scale(index) for index in range(len(evaluator.extractors))]
    # Rounded, so that the noise of batches is gone to the last bit: round-off has roots in the Fréchet distance.
    points = [
        on_grid(features(extractor, images, batch_size, device), factor)
        for extractor, factor in zip(evaluator.extractors, scales, strict=True)
    ]
    record = _frechet(evaluator.reference, [one / factor for one, factor in zip(points, scales, strict=True)])
    record |= _neighbourhoods(evaluator.reference, points, scales)
    record |= classify_samples(evaluator.classifier, images, labels, evaluator.class_shares, device, batch_size)
    nearest = nearest_distances(images, evaluator.train_images, device)
    found = memorization(nearest, evaluator.reference.test_nearest)
    if found:
        record |= {"memorization_p": found.p, "nearest_ratio": found.ratio}
    return record | {one.column: score_inception(images, one, device) for one in evaluator.inception}


def canonical_order(images: torch.Tensor) -> torch.Tensor:
    """Indices that bring uint8 (N, C, H, W) into an order drawn at random that is the same for the same set of images.

    Sorted by a hash of the pixels, then shuffled: sorting alone would put equal images side by side, and what draws the
    first few would draw copies.
    """
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images.contiguous().numpy()]
    by_digest = torch.tensor(sorted(range(len(digests)), key=digests.__getitem__), dtype=torch.int64)
    return by_digest[torch.randperm(len(digests), generator=torch.Generator().manual_seed(ORDER_SEED))]


def _frechet(reference: Reference, image_features: list[torch.Tensor]) -> dict[str, Any]:
    """The Fréchet distance, how sure it is, and what real images get."""
    n, d = image_features[0].shape
    found = distance(reference, image_features)
    least = floor(reference, n)
    return {
        "fid_indomain": found.fid,
        "fid_indomain_min": min(found.fid_indomain_extractors),
        "fid_indomain_max": max(found.fid_indomain_extractors),
        "fid_indomain_extractors": list(found.fid_indomain_extractors),
        "fid_indomain_sampling_sd": fid_indomain_sampling_sd(reference, image_features),
        "fid_indomain_pct": found.fid_indomain_pct,
        "fid_indomain_floor": least.fid if least else None,
        "fid_indomain_floor_pct": least.fid_indomain_pct if least else None,
        "fid_indomain_floor_n": least.n if least else None,
        "few_samples": n < FEW * d,
    }


def _neighbourhoods(reference: Reference, points: list[torch.Tensor], scales: list[float]) -> dict[str, Any]:
    """What compares samples with the kept training images one by one: means over the extractors.

    Args:
        points: the samples' features on the grid, for each extractor, and their scale.
    """
    real = [on_grid(kept, factor) for kept, factor in zip(reference.train_features, scales, strict=True)]
    kids = [kernel_distance(ours, theirs) for ours, theirs in zip(real, points, strict=True)]
    found = [manifold(ours, theirs) for ours, theirs in zip(real, points, strict=True)]
    return {
        "kid": fmean(kids),
        "precision": fmean(one.precision for one in found),
        "recall": fmean(one.recall for one in found),
        "density": fmean(one.density for one in found),
        "coverage": fmean(one.coverage for one in found),
        "manifold_n": found[0].m,
    }
