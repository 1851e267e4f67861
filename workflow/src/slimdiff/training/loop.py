"""The training loop, one page, told in order.

It trains whatever network it is handed: one that the seed made (`train`), or one that comes from the weights of another
training (slimdiff.training.finetune, which this module knows nothing of, so that an edit there retrains nothing).

Every random draw of step k comes from (seed, k) and every epoch's order from (seed, epoch), so the state holds no
generator (slimdiff.training.state): weights, averages, optimizer and the step are all that a run is, and an interrupted run goes
on bit for bit.
"""

import hashlib
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linear_quant import quantize_linears
from slimdiff.compression.restore import StructuralChange
from slimdiff.data.image_set import ImageSet, saturated_share
from slimdiff.data.transforms import to_model
from slimdiff.diffusion.denoiser import NO_LABEL, build_denoiser
from slimdiff.diffusion.noise import derive_seed
from slimdiff.errors import UserError
from slimdiff.io.files import write_json
from slimdiff.io.settings import build, canonical
from slimdiff.io.tensors import tensors_digest
from slimdiff.models.registry import build_network
from slimdiff.runtime.devices import autocast, resolve_precision
from slimdiff.runtime.memory import is_oom
from slimdiff.training.hooks import TrainingHooks
from slimdiff.training.optimizers import build_optimizer, learning_rate_factor
from slimdiff.training.state import Progress, StateStore, locked, terminable

SECONDS_BETWEEN_LINES = 10.0
EXIT_TERMINATED = 143  # 128 + SIGTERM: what a scheduler expects of a job that it stopped


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained: an entry of `trainings:` over its model's `training:`."""

    epochs: int
    batch_size: int
    learning_rate: float
    lr_schedule: str  # constant | cosine | one-cycle
    optimizer: str  # adam | adamw
    optimizer_state: str  # float | 8bit
    weight_decay: float
    ema_decay: float  # of the averaged weights
    ema_warmup: str | int  # ramp: the decay rises as (1 + step) / (10 + step); a number: so many steps copy the weights
    precision: str  # float32 | bfloat16 | auto: of the network's arithmetic; weights are float32
    preconditioning: str  # score (the report's NCSN) | epsilon (the report's DDPM) | v | edm
    sigma_data: float  # edm
    black: float  # in the process, where white is 1
    groups: int | str  # of the inner convolutions: a number, or max
    linear: str  # float | 8bit | 4bit: quantized from the start and frozen
    # of conditional models
    noise_schedule: str = "linear"  # linear | cosine: epsilon, v
    min_snr_gamma: float | None = None  # epsilon, v: clamp of the loss's weight
    label_dropout: float = 0.0  # share of images whose label is withheld, so that the network learns to do without


@dataclass(frozen=True)
class Prepared:
    """A network that is ready to be trained."""

    network: nn.Module  # on the CPU
    structure: list[StructuralChange]  # what a load needs to build it, beside its settings
    generation: int = 0  # trainings before this one in its chain; each has random draws of its own
    start: dict[str, Any] | None = None  # which weights it comes from, for header and record; None: the seed's own
    hooks: TrainingHooks = field(default_factory=TrainingHooks)  # what is done to the weights meanwhile, and the loss


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    weights: dict[str, dict[str, torch.Tensor]]  # raw and ema state dicts
    header: dict[str, Any]  # for the checkpoint
    record: dict[str, Any]  # for train.json, with status and the reason of a failure


def train(
    images: ImageSet,
    settings: Mapping[str, Any],
    state_dir: Path,
    device: torch.device,
    code: str,
    seconds_between_saves: float = 30.0,
) -> Trained:
    """Train one network from the start that its seed makes; arguments and errors are those of `fit`."""
    options = build(TrainingSettings, settings["training"], "training")
    network = build_network(settings["model"], options.groups, derive_seed(settings["seed"], "network"))
    structure = []
    if options.linear != "float":
        structure.append({"linear": options.linear, "layers": quantize_linears(network, options.linear)})
    return fit(Prepared(network, structure), images, settings, state_dir, device, code, seconds_between_saves)


def fit(
    prepared: Prepared,
    images: ImageSet,
    settings: Mapping[str, Any],
    state_dir: Path,
    device: torch.device,
    code: str,
    seconds_between_saves: float = 30.0,
) -> Trained:
    """Train a network that is prepared.

    Args:
        settings: `dataset`, `model` (an entry of `models:`), `training`, `seed`, and `plugins` where some are used.
        state_dir: where the resumable state lives; a state of other settings, code, data or start is not used.
        code: fingerprint of the code.
        seconds_between_saves: what a kill -9 can cost, at most.

    Raises:
        UserError: another process is training here, or the network knows another number of classes than there are.
        SystemExit: 143 after SIGTERM, with the state saved.
    """
    model, seed = settings["model"], settings["seed"]
    options = build(TrainingSettings, settings["training"], "training")
    classes = model["network"].get("classes", 0)
    if classes not in (0, len(images.classes)):
        raise UserError(
            f"models.*.network.classes is {classes}; allowed for data set {images.dataset}: {len(images.classes)}, as "
            "many as it has, or 0 for a network that is told no class"
        )

    # network, its average, optimizer
    network, hooks = prepared.network.train().to(device), prepared.hooks
    precision = resolve_precision(device, options.precision)
    average = {key: value.clone() for key, value in network.state_dict().items()}
    averaged = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    denoiser = build_denoiser(network, model, settings["training"])
    optimizer = build_optimizer(
        options.optimizer, options.optimizer_state, network.parameters(), options.learning_rate, options.weight_decay
    )

    # data: uint8, resident on the device
    images_sha256 = tensors_digest({"images": images.train_images})
    pixels, labels = images.train_images.to(device), images.train_labels.to(device)
    n = pixels.shape[0]
    steps_per_epoch = max(1, n // options.batch_size)
    steps = options.epochs * steps_per_epoch
    draws: tuple[int | str, ...] = (seed, "finetune", prepared.generation) if prepared.generation else (seed,)
    origin = {} if prepared.start is None else {"start": prepared.start}
    plugin_catalog = {"plugins": settings["plugins"]} if "plugins" in settings else {}
    header = {
        "model": dict(model),
        "training": dict(settings["training"]),
        "structure": prepared.structure,
        "dataset": describe(images, images_sha256),
        "seed": seed,
        "code": code,
        **origin,
        **plugin_catalog,
    }
    key = hashlib.sha256(canonical([settings, code, images_sha256, prepared.start]).encode()).hexdigest()

    reason = ""
    with locked(state_dir), terminable() as terminated:
        store = StateStore(state_dir, key)
        progress = store.resume(network, average, optimizer)
        if progress.step:
            print(f"resuming at step {progress.step}/{steps}", flush=True)
        progress.started_at = progress.started_at or datetime.now(UTC).isoformat(timespec="seconds")
        loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
        order = _order(n, draws, progress.step // steps_per_epoch, device)
        saved_at = line_at = epoch_at = time.monotonic()
        line_step, resumed_epoch_s = progress.step, progress.epoch_s

        while progress.step < steps:
            epoch, position = divmod(progress.step, steps_per_epoch)

            # one step
            generator = torch.Generator().manual_seed(derive_seed(*draws, "step", progress.step))
            chosen = order[position * options.batch_size : (position + 1) * options.batch_size]
            x_0 = denoiser.from_images(to_model(pixels[chosen], model["image_size"], model["channels"], model["fit"]))
            sigma = hooks.training_sigmas(denoiser, len(chosen), generator).to(device)
            noise = torch.randn(x_0.shape, generator=generator).to(device)
            batch_labels = None
            if classes:
                dropped = torch.rand(len(chosen), generator=generator).to(device) < options.label_dropout
                batch_labels = labels[chosen].masked_fill(dropped, NO_LABEL)
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * learning_rate_factor(options.lr_schedule, progress.step, steps)
            optimizer.zero_grad(set_to_none=True)
            try:
                with hooks.around_backward(network):
                    with autocast(device, precision):
                        loss = hooks.loss(denoiser, x_0, sigma, noise, batch_labels).mean()
                    loss.backward()
                with hooks.around_step(network, average, progress.step, steps):
                    optimizer.step()
                    _average(network, average, averaged, _decay(options, progress.step))
            except Exception as error:
                if not is_oom(error):
                    raise
                reason = (
                    f"out of memory in step {progress.step + 1}: models.*.training.batch_size is {options.batch_size}; "
                    "lower it there or in trainings.*"
                )
                break
            loss_sum += loss.detach()
            progress.step += 1

            # end of an epoch
            mean = float(loss_sum) / steps_per_epoch if progress.step % steps_per_epoch == 0 else None
            now = time.monotonic()  # after the only line that waits for a GPU
            progress.epoch_s = resumed_epoch_s + now - epoch_at
            if mean is not None:
                _end_epoch(progress, epoch, mean, steps_per_epoch * options.batch_size)
                loss_sum.zero_()
                epoch_at, resumed_epoch_s = now, 0.0
                order = _order(n, draws, epoch + 1, device)
                if not math.isfinite(mean):
                    reason = f"loss became {mean} in epoch {epoch + 1}"
                    break

            # maintenance: a line for people, the state for the next run
            if now - line_at >= SECONDS_BETWEEN_LINES or progress.step == steps:
                rate = (progress.step - line_step) * options.batch_size / max(now - line_at, 1e-9)
                _report(store.folder, progress, steps, loss.item(), rate, options.batch_size)
                line_at, line_step = now, progress.step
            if terminated() or now - saved_at >= seconds_between_saves:
                progress.loss_sum = float(loss_sum)
                store.save(network, average, optimizer, progress)
                saved_at = time.monotonic()
            if terminated():
                print(f"SIGTERM: state saved at step {progress.step}/{steps}", flush=True)
                sys.exit(EXIT_TERMINATED)

    raw = network.state_dict()
    header |= {"status": "failed" if reason else "ok", "reason": reason}
    record = {
        "status": header["status"],
        "reason": reason,
        "steps": progress.step,
        "train_s": sum(entry["ms"] for entry in progress.epochs) / 1000.0,
        "train_ms_per_epoch": sum(entry["ms"] for entry in progress.epochs) / max(1, len(progress.epochs)),
        "epochs": progress.epochs,
        "loss_curve": progress.loss_curve,
        "interruptions": progress.interruptions,
        "precision": precision,
        "settings": dict(settings),
        "code": code,
        **origin,
        "started_at": progress.started_at,
    }
    return Trained({"raw": raw, "ema": average}, header, record)


def describe(images: ImageSet, images_sha256: str) -> dict[str, Any]:
    """The data set as a checkpoint's header says it."""
    channels, height, width = images.image_shape
    return {
        "name": images.dataset,
        "channels": channels,
        "height": height,
        "width": width,
        "classes": list(images.classes),
        "saturated": saturated_share(images.train_images),
        "sha256": images_sha256,
    }


def _order(n: int, draws: tuple[int | str, ...], epoch: int, device: torch.device) -> torch.Tensor:
    """The order of the images in `epoch`; the last ones, short of a batch, are left out."""
    generator = torch.Generator().manual_seed(derive_seed(*draws, "epoch", epoch))
    return torch.randperm(n, generator=generator).to(device)


def _decay(options: TrainingSettings, step: int) -> float:
    """Decay of the average at `step`: without the bias of the first steps, or 0 until the warm-up is over."""
    if options.ema_warmup == "ramp":
        return min(options.ema_decay, (1.0 + step) / (10.0 + step))
    return 0.0 if step < int(options.ema_warmup) else options.ema_decay


@torch.no_grad()
def _average(network: nn.Module, average: dict[str, torch.Tensor], names: list[str], decay: float) -> None:
    """Exponential moving average of the trained parameters."""
    parameters = dict(network.named_parameters())
    torch._foreach_lerp_([average[name] for name in names], [parameters[name] for name in names], 1.0 - decay)


def _end_epoch(progress: Progress, epoch: int, loss: float, n: int) -> None:
    ms = progress.epoch_s * 1000.0
    finite = loss if math.isfinite(loss) else None
    progress.epochs.append({"epoch": epoch + 1, "loss": finite, "ms": ms, "images_per_s": 1000.0 * n / max(ms, 1e-9)})
    progress.loss_sum = progress.epoch_s = 0.0


def _report(folder: Path, progress: Progress, steps: int, loss: float, images_per_s: float, batch_size: int) -> None:
    """One plain line in the log, one point of the loss curve, and a small file that other programs can read."""
    finite = loss if math.isfinite(loss) else None
    eta_s = (steps - progress.step) * batch_size / max(images_per_s, 1e-9)
    progress.loss_curve.append({"step": progress.step, "loss": finite})
    print(
        f"step {progress.step}/{steps}  loss {loss:.4g}  "
        f"{images_per_s:.0f} images/s  ETA {int(eta_s // 60)}:{int(eta_s % 60):02d}",
        flush=True,
    )
    status = {"step": progress.step, "steps": steps, "loss": finite, "images_per_s": images_per_s, "eta_s": eta_s}
    write_json(folder / "status.json", {**status, "updated_at": datetime.now(UTC).isoformat(timespec="seconds")})
