"""Image files: samples with their facts, and pictures for people."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from slimdiff.inference.sampling import Sampled
from slimdiff.io.files import atomic
from slimdiff.io.settings import canonical


def write_samples(
    path: str | os.PathLike[str],
    sampled: Sampled,
    sampler: Mapping[str, Any],
    reason: str,
    classes: Sequence[str] = (),
    identity: str = "",
) -> None:
    """Write images (uint8, N C H W) with how they were made, or why they cannot be scored, as a compressed npz.

    `labels` are the classes that they were asked for, as indices of `classes`; nothing where the model is told none.
    `identity` is their model's (slimdiff.checkpoints.identity).
    """
    labels = torch.zeros(0, dtype=torch.int64) if sampled.labels is None else sampled.labels
    facts: dict[str, Any] = {} if sampled.batch_size is None else {"batch_size": np.int64(sampled.batch_size)}
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=sampled.images.numpy(),
            labels=labels.numpy(),
            classes=np.array(classes, dtype=np.str_),
            network_evaluations=np.float64(sampled.network_evaluations),
            sampler=np.str_(canonical(sampler)),
            status=np.str_("failed" if reason else "ok"),
            reason=np.str_(reason),
            identity=np.str_(identity),
            **facts,
        )


def write_png(path: str | os.PathLike[str], image: torch.Tensor) -> None:
    """Write one uint8 image (C, H, W), gray or RGB."""
    pixels = image.permute(1, 2, 0).numpy()
    with atomic(Path(path)) as temporary:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")
