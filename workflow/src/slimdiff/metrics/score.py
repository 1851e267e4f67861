"""From a file of samples to its score."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from slimdiff import samplefile
from slimdiff.errors import UserError
from slimdiff.metrics.extractors import Extractor, features
from slimdiff.metrics.reference import Reference, distance, floor


@dataclass(frozen=True)
class Samples:
    """A cell's images and how they came to be."""

    images: torch.Tensor  # uint8 (N, C, H, W)
    labels: torch.Tensor  # int64 (N,): the classes they were asked for; (0,) where they were asked for none
    status: str  # ok or failed
    reason: str  # why failed, else empty
    sampler: dict[str, Any]
    network_evaluations: float  # mean per image


def read_samples(path: str | os.PathLike[str]) -> Samples:
    """The samples in `path` (npz, no pickle).

    Raises:
        UserError: the file is missing, damaged, or not one of samples.
    """
    with samplefile.opened(path) as file:
        return Samples(
            images=torch.from_numpy(np.asarray(file["images"], np.uint8)),
            labels=torch.from_numpy(np.asarray(file["labels"], np.int64)),
            status=str(file["status"]),
            reason=str(file["reason"]),
            sampler=json.loads(str(file["sampler"])),
            network_evaluations=float(np.mean(file["network_evaluations"])),
        )


def score(
    samples: Samples, n_samples: int, reference: Reference, extractors: Sequence[Extractor], device: torch.device
) -> dict[str, Any]:
    """The record of one cell: `fid` and `rfid` (percent), lower is better, and the floor that real images reach.

    `fid_floor` and `rfid_floor` are what `fid_floor_n` real test images score: as many as there are samples, or all
    test images where there are fewer. `class_accuracy` is the share of samples that the extractors, which are
    classifiers trained on real images alone, take for the class that was asked for: mean over them, null for a model
    that is told no class. Samples that failed are passed along with null metrics.

    Raises:
        UserError: not `n_samples` images, fewer than there are features, or of another size than the extractors take.
    """
    record: dict[str, Any] = {
        "status": samples.status,
        "reason": samples.reason,
        "n_samples": n_samples,
        "fid": None,
        "rfid": None,
        "fid_extractors": None,
        "fid_floor": None,
        "rfid_floor": None,
        "fid_floor_n": None,
        "class_accuracy": None,
        "extractors_sha256": reference.extractors_sha256,
        "reference_n": reference.n,
        "network_evaluations": samples.network_evaluations,
        "sampler": samples.sampler,
    }
    if samples.status != "ok":
        return record
    if len(samples.images) != n_samples:
        raise UserError(f"there are {len(samples.images)} samples, sampling.n_samples is {n_samples}: sample again")
    image_features = [features(extractor, samples.images, device=device) for extractor in extractors]
    found = distance(reference, image_features)
    record |= {"fid": found.fid, "rfid": found.rfid, "fid_extractors": list(found.fid_extractors)}
    least = floor(reference, n_samples)
    if least:
        record |= {"fid_floor": least.fid, "rfid_floor": least.rfid, "fid_floor_n": least.n}
    if len(samples.labels):
        taken_for = [
            extractor.to_logits(one.to(device)).argmax(1).cpu()
            for extractor, one in zip(extractors, image_features, strict=True)
        ]
        shares = [(guess == samples.labels).double().mean().item() for guess in taken_for]
        record["class_accuracy"] = sum(shares) / len(shares)
    return record
