"""Fine-tuning: take a training's weights, remove channels or blocks, and train on in slimdiff.training.loop.

The changed network is stored next to the resumable state and always read back from there. An interrupted run thus
resumes with the very same network, whatever device it was pruned on.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimdiff.catalog.families import FIXED_BY_START
from slimdiff.checkpoints import weights
from slimdiff.compression.blocks import BlockSettings, prune_blocks
from slimdiff.compression.channels import ChannelSettings, prune_channels
from slimdiff.compression.importance import LevelLoss
from slimdiff.compression.restore import StructuralChange
from slimdiff.data.image_set import ImageSet
from slimdiff.diffusion.noise import derive_seed
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.settings import build, canonical
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.training.compression_aware import build_hooks
from slimdiff.training.consistency import ConsistencySettings, ConsistencyTuning
from slimdiff.training.distillation import Distill, DistillSettings
from slimdiff.training.hooks import TrainingHooks
from slimdiff.training.knowledge import KnowledgeDistillation, KnowledgeSettings
from slimdiff.training.loop import Prepared, Trained, fit
from slimdiff.training.losses import LEVELS, level_losses

LEVELS_PER_PROBE = 5  # a block's cost is measured at every fifth noise level
PREPARED_KIND = "prepared"
PREPARED = "start.safetensors"  # in the state folder; slimdiff.training.state.clear_state removes it


def _prune(
    network: nn.Module, settings: Mapping[str, Any], seed: int, losses: Sequence[LevelLoss]
) -> StructuralChange | None:
    if settings.get("method") == "blocks":
        probed = losses[LEVELS_PER_PROBE // 2 :: LEVELS_PER_PROBE]
        return prune_blocks(
            network,
            build(BlockSettings, settings, "prune"),
            lambda: sum(float(loss()) for loss in probed) / len(probed),
        )
    return prune_channels(network, build(ChannelSettings, settings, "prune"), seed, losses)


# Changes of the weights before the first step, by the key of an entry of `trainings:`.
PREPARATIONS: dict[str, Callable[[nn.Module, Mapping[str, Any], int, Sequence[LevelLoss]], StructuralChange | None]] = {
    "prune": _prune,
}


def finetune(
    start: Path,
    start_record: Mapping[str, Any],
    images: ImageSet,
    settings: Mapping[str, Any],
    state_dir: Path,
    device: torch.device,
    code: str,
    seconds_between_saves: float = 30.0,
) -> Trained:
    """Train on from the weights in `start`.

    Args:
        start: weights.safetensors of a training.
        start_record: its train.json.
        settings: those of slimdiff.training.loop.fit; `start` (`training`: its name, `weights`: raw or ema); `steps`, a
            list of {name in PREPARATIONS: settings}; and optionally `hook`, {distill or a name in
            slimdiff.training.compression_aware.HOOKS: settings}.
        state_dir: as in `fit`; also holds the prepared network.

    Returns:
        The training. Its record has the seconds of the whole chain (`train_s`), of all but its first training
        (`finetune_s`), of this training (`own_s`), and of its preparation (`prepare_s`). If the start has failed: its
        own weights and its reason.

    Raises:
        UserError: settings that do not match the start, and errors of `fit`.
        SystemExit: 143 after SIGTERM, with the state saved.
    """
    network, header = weights.read_training(start, settings["start"]["weights"])
    _check_start(header, settings)
    generation = header.get("start", {}).get("generation", 0) + 1
    origin = {**settings["start"], "sha256": files.digest(start), "generation": generation}
    before_s = {key: start_record.get(key) or 0.0 for key in ("train_s", "finetune_s")}
    if header["status"] != "ok":
        states = {kind: weights.read_training(start, kind)[0].state_dict() for kind in weights.WEIGHTS}
        passed_on = {"settings": dict(settings), "code": code, "start": origin}
        record = {**start_record, **passed_on, **before_s, "own_s": 0.0, "prepare_s": 0.0}
        return Trained(states, {**header, "code": code, "start": origin}, record)

    teachers = {"distill": lambda options: _distill(options, network)}
    hooks = build_hooks(settings.get("hook", {}), teachers)  # before the steps: they change the network in place
    key = hashlib.sha256(canonical([settings, code, origin]).encode()).hexdigest()
    if not _is_prepared(state_dir / PREPARED, key):
        started = time.monotonic()
        structure = header["structure"] + _apply_steps(network, images, settings, device)
        described = {"model": header["model"], "training": header["training"], "structure": structure, "key": key}
        prepare_s = time.monotonic() - started
        save_tensors(state_dir / PREPARED, PREPARED_KIND, network.state_dict(), {**described, "prepare_s": prepare_s})
    tensors, described = load_tensors(state_dir / PREPARED, PREPARED_KIND)
    network = weights.rebuild(described, tensors)
    prepared = Prepared(network, described["structure"], generation, origin, header.get("pretrained"), hooks)
    trained = fit(prepared, images, settings, state_dir, device, code, seconds_between_saves)
    own_s = trained.record["train_s"] + described["prepare_s"]
    times = {key: seconds + own_s for key, seconds in before_s.items()}
    return Trained(
        trained.weights,
        trained.header,
        {**trained.record, **times, "own_s": own_s, "prepare_s": described["prepare_s"]},
    )


DISTILLATIONS: dict[str, tuple[type, Callable[[Any, nn.Module], TrainingHooks]]] = {  # method → settings and hook
    "progressive": (DistillSettings, Distill),
    "consistency": (ConsistencySettings, ConsistencyTuning),
    "knowledge": (KnowledgeSettings, KnowledgeDistillation),
}


def _distill(options: Mapping[str, Any], start: nn.Module) -> TrainingHooks:
    method = options.get("method", "progressive")
    if method not in DISTILLATIONS:
        raise UserError(f"distill.method is {method!r}; allowed: {', '.join(DISTILLATIONS)}")
    settings, hook = DISTILLATIONS[method]
    return hook(build(settings, options, "distill"), start)


def _apply_steps(
    network: nn.Module, images: ImageSet, settings: Mapping[str, Any], device: torch.device
) -> list[StructuralChange]:
    """Apply the training's steps in order, in place; the network ends on the CPU."""
    records: list[StructuralChange] = []
    for step in settings["steps"]:
        if len(step) != 1 or next(iter(step)) not in PREPARATIONS:
            raise UserError(f"trainings.* has the step {dict(step)}; allowed: one of {', '.join(PREPARATIONS)}")
        ((name, options),) = step.items()
        losses = level_losses(network.to(device), images.train_images, images.train_labels, settings, device, LEVELS)
        seed = derive_seed(settings.get("finetune_seed", settings["seed"]), "compress")
        record = PREPARATIONS[name](network, options, seed, losses)
        records += [] if record is None else [record]
    network.cpu()
    return records


def _check_start(header: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise if the start is of another model, seed or data set, or if its network computes something else."""
    if header["model"] != settings["model"]:
        raise UserError(
            "the start's weights are of another model than settings.model: start from a training of this one"
        )
    for key, theirs, expected in (
        ("seed", header["seed"], settings["seed"]),
        ("data set", header["dataset"]["name"], settings["dataset"]),
    ):
        if theirs != expected:
            raise UserError(
                f"the start's weights are of {key} {theirs!r}, expected {expected!r}; delete them and run again"
            )
    for key in FIXED_BY_START:
        theirs, expected = header["training"].get(key), settings["training"].get(key)
        if theirs != expected:
            raise UserError(f"trainings.*.finetune.{key} is {expected!r}; allowed: {theirs!r}, the start's value")


def _is_prepared(path: Path, key: str) -> bool:
    """Whether `path` holds the intact network of these settings, this code and this start."""
    try:
        return bool(load_tensors(path, PREPARED_KIND)[1]["key"] == key)
    except UserError:
        return False
