"""A cell's samples.npz: its images and how they were made."""

import json
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimdiff.errors import UserError
from slimdiff.io.files import atomic
from slimdiff.io.settings import canonical

KEYS = {"images", "labels", "classes", "network_evaluations", "sampler", "status", "reason"}
OPTIONAL_KEYS = {"identity", "batch_size"}  # missing in older files
DAMAGE_ERRORS = (  # NumPy and zipfile raise these when bits of the archive or of an array's header change
    *(OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Samples:
    """A cell's images and how they were made."""

    images: NDArray[np.uint8]  # (N, C, H, W); N is 0 if sampling failed
    labels: NDArray[np.int64]  # (N,), indices of `classes`; (0,) for an unconditional model
    classes: tuple[str, ...]
    sampler: Mapping[str, Any]  # settings
    network_evaluations: float  # mean per image
    status: str = "ok"  # ok or failed
    reason: str = ""  # of a failure
    batch_size: int | None = None  # images drawn at once; 0: not even one batch fits in memory; None: older file
    identity: str | None = None  # of the model, see slimdiff.checkpoints.identity; None: older file


def write_samples(path: str | os.PathLike[str], samples: Samples) -> None:
    """Write `samples` atomically as a compressed npz without pickles."""
    optional: dict[str, Any] = {} if samples.batch_size is None else {"batch_size": np.int64(samples.batch_size)}
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=samples.images,
            labels=samples.labels,
            classes=np.array(samples.classes, dtype=np.str_),
            network_evaluations=np.float64(samples.network_evaluations),
            sampler=np.str_(canonical(samples.sampler)),
            status=np.str_(samples.status),
            reason=np.str_(samples.reason),
            identity=np.str_(samples.identity or ""),
            **optional,
        )


def read_samples(path: str | os.PathLike[str]) -> Samples:
    """Return the samples in `path`.

    Raises:
        UserError: the file is missing, damaged, or not a samples file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if unknown := set(file.files) - KEYS - OPTIONAL_KEYS:
                raise ValueError(f"unknown key {min(unknown)!r}")
            samples = Samples(
                images=np.asarray(file["images"], np.uint8),
                labels=np.asarray(file["labels"], np.int64),
                classes=tuple(map(str, file["classes"])),
                sampler=json.loads(str(file["sampler"])),
                network_evaluations=float(np.mean(file["network_evaluations"])),
                status=str(file["status"]),
                reason=str(file["reason"]),
                batch_size=int(file["batch_size"]) if "batch_size" in file else None,
                identity=str(file["identity"]) if "identity" in file else None,
            )
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except DAMAGE_ERRORS as error:
        raise UserError(f"{path} is not a valid samples file ({error}): delete it and run again") from None
    n_images, n_labels = len(samples.images), len(samples.labels)
    if n_images and n_labels not in (0, n_images):
        raise UserError(f"{path} has {n_labels} labels for {n_images} images: delete it and run again")
    return samples
