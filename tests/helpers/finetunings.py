"""Fine-tunings for tests: a short training, and trainings that start from its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from builders import MODELS, TRAININGS, striped_images

from slimdiff.checkpoints.weights import write_training
from slimdiff.io.files import write_json
from slimdiff.training.finetune import finetune
from slimdiff.training.loop import Trained, train

CPU = torch.device("cpu")
CHANNELS = {"prune": {"method": "channels", "importance": "l1", "amount": 0.5}}
Start = tuple[Path, dict[str, Any], dict[str, Any]]  # weights, record and settings of a training


def start_of(folder: Path, family: str, epochs: int = 1) -> Start:
    """Train a small network, and write its weights and record into `folder`."""
    options = TRAININGS[family](epochs=epochs)
    settings = {"dataset": "stripes", "model": MODELS[family](), "training": options, "seed": 0}
    trained = train(striped_images(), settings, folder / "state", CPU, "code")
    write_training(folder / "weights.safetensors", trained.weights, trained.header)
    write_json(folder / "train.json", trained.record)
    return folder / "weights.safetensors", trained.record, settings


def settings_of(
    start: Start, steps: Sequence[dict[str, Any]] = (CHANNELS,), weights: str = "raw", **changes: Any
) -> dict[str, Any]:
    """Return the settings of a training that starts from `start`."""
    settings = start[2]
    options = {**settings["training"], **changes}
    return {**settings, "training": options, "start": {"training": "plain", "weights": weights}, "steps": list(steps)}


def run(start: Start, folder: Path, *arguments: Any, settings: dict[str, Any] | None = None, **changes: Any) -> Trained:
    """Fine-tune with these settings, or with `settings_of` and these changes; the state is in `folder`."""
    settings = settings or settings_of(start, **changes)
    return finetune(start[0], start[1], striped_images(), settings, folder, CPU, "code", *arguments)


def equal(one: Trained, other: Trained) -> bool:
    """Return whether all weights are equal."""
    return all(
        torch.equal(one.weights[kind][key], other.weights[kind][key])
        for kind in one.weights
        for key in one.weights[kind]
    )
