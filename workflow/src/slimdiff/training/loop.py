"""The training loop, in order: data, loss, backward pass, weights, average, maintenance.

All random draws of step k come from (seed, k) and the order of an epoch from (seed, epoch). So weights, average,
optimizer and step are the whole state (slimdiff.training.state), and an interrupted training resumes bit for bit.
"""

import contextlib
import hashlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimdiff.catalog.families import NOISE_LEVELS
from slimdiff.catalog.limits import DatasetFacts, model_faults
from slimdiff.compression.linear_quant import quantize_linears
from slimdiff.compression.mixed_linear import mixed_weights
from slimdiff.compression.restore import StructuralChange
from slimdiff.data.image_set import ImageSet
from slimdiff.data.transforms import to_model
from slimdiff.diffusion.denoiser import NO_LABEL, NoisyBatch, build_denoiser
from slimdiff.diffusion.noise import derive_seed
from slimdiff.errors import refuse
from slimdiff.io.settings import build, canonical
from slimdiff.io.tensors import tensors_digest
from slimdiff.models.registry import build_network
from slimdiff.runtime.devices import (
    autocast,
    check_compiler,
    compile_mode,
    deterministic_operations,
    kernels_of,
    resolve_precision,
    upload,
)
from slimdiff.runtime.memory import is_oom
from slimdiff.training.hooks import TrainingHooks
from slimdiff.training.optimizers import build_optimizer, learning_rate_factor
from slimdiff.training.record import TrainingFailed, TrainingLog, build_header, build_record
from slimdiff.training.state import StateStore, locked, terminable

EXIT_TERMINATED = 143  # 128 + SIGTERM, the exit code that schedulers expect of a stopped job


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained: an entry of `trainings:` over its model's `training:`."""

    epochs: float  # the last one may be shorter
    batch_size: int
    learning_rate: float
    lr_schedule: str  # constant | cosine | one-cycle
    optimizer: str  # adam | adamw | muon
    optimizer_state: str  # float | 8bit
    weight_decay: float
    ema_decay: float  # decay of the averaged (EMA) weights
    ema_warmup: str | int  # ramp: decay (1 + step) / (10 + step) at first; a number: that many steps of copying
    precision: str  # of the arithmetic: float32 | bfloat16 | auto; weights are float32
    preconditioning: str  # score (the paper's NCSN) | epsilon (the paper's DDPM) | v | sample | edm
    sigma_data: float  # edm
    black: float  # pixel value of black in the process; white is 1
    groups: int | str  # groups of the inner convolutions: a number, or max
    linear: str  # float | 8bit | 4bit: quantized from the start and frozen | 8bit-mixed: float weights, int8 products
    ema_sampled_after: int | None = None  # 8bit-mixed: epochs after which the average keeps its linear weights
    compile: bool = False  # compile the network with torch.compile, on a GPU with CUDA graphs
    log_sigma_mean: float = NOISE_LEVELS["log_sigma_mean"]  # edm: mean of ln sigma, at sigma_data 0.5
    log_sigma_std: float = NOISE_LEVELS["log_sigma_std"]  # edm: its standard deviation
    # options that not every family has
    noise_schedule: str | Mapping[str, Any] = "linear"  # epsilon, v, sample: linear | cosine | options of diffusers
    min_snr_gamma: float | None = None  # epsilon, v, sample: clamp of the loss weight
    label_dropout: float = 0.0  # fraction of images whose label is withheld, for classifier-free guidance


@dataclass(frozen=True)
class Prepared:
    """A network that is ready to be trained."""

    network: nn.Module  # on the CPU
    structure: list[StructuralChange]  # structural changes to repeat on loading
    generation: int = 0  # number of trainings before this one in its chain; each has its own random draws
    start: dict[str, Any] | None = None  # identity of the starting weights; None: initialized from the seed
    pretrained: dict[str, Any] | None = None  # source and digest of the first weights; None: initialized from the seed
    hooks: TrainingHooks = field(default_factory=TrainingHooks)


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    weights: dict[str, dict[str, torch.Tensor]]  # state dicts raw and ema
    header: dict[str, Any]  # header of the checkpoint
    record: dict[str, Any]  # content of train.json, with status and the reason of a failure


def train(
    images: ImageSet,
    settings: Mapping[str, Any],
    state_dir: Path,
    device: torch.device,
    code: str,
    seconds_between_saves: float = 30.0,
) -> Trained:
    """Train a network that is initialized from its seed; arguments and errors are those of `fit`."""
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
    """Train a prepared network.

    Args:
        settings: `dataset`, `model` (an entry of `models:`), `training`, `seed`, and optionally `finetune_seed` (of the
            draws of a later training; by default `seed`) and `plugins`.
        state_dir: folder of the resumable state; a state of other settings, code, data or start is ignored.
        code: fingerprint of the code.
        seconds_between_saves: the most that a kill -9 can cost.

    Raises:
        UserError: another process trains here, or the data set's classes or image size do not fit the model.
        SystemExit: 143 after SIGTERM, with the state saved.
    """
    model, seed = settings["model"], settings["seed"]
    options = build(TrainingSettings, settings["training"], "training")
    facts = DatasetFacts(len(images.classes), images.classes, images.image_shape)
    refuse(model_faults(model, images.dataset, facts), "models", "*")
    classes = model["network"].get("classes", 0)

    # network, its average, optimizer
    network, hooks = prepared.network.train().to(device), prepared.hooks
    precision = resolve_precision(device, options.precision)
    if options.compile:
        check_compiler(device, "training.compile", "set it to false")
        network.compile(dynamic=False, mode=compile_mode(device))  # in place: parameters keep their names
    average = {key: value.clone() for key, value in network.state_dict().items()}
    averaged = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    # of a copy that was evaluated bitsandbytes never quantizes the weights again
    followed_later = [key for key in averaged if key not in mixed_weights(network)]
    denoiser = build_denoiser(network, model, settings["training"])
    optimizer = build_optimizer(
        options.optimizer, options.optimizer_state, network, options.learning_rate, options.weight_decay
    )

    # images: uint8, resident on the device
    images_sha256 = tensors_digest({"images": images.train_images})
    pixels, labels = images.train_images.to(device), images.train_labels.to(device)
    steps_per_epoch = max(1, len(pixels) // options.batch_size)
    steps = max(1, round(options.epochs * steps_per_epoch))
    sampled_at = math.inf if options.ema_sampled_after is None else options.ema_sampled_after * steps_per_epoch
    own_seed = settings.get("finetune_seed", seed)
    rng_key: tuple[int | str, ...] = (own_seed, "finetune", prepared.generation) if prepared.generation else (seed,)

    key = hashlib.sha256(canonical([settings, code, images_sha256, prepared.start]).encode()).hexdigest()
    reason = ""
    with locked(state_dir), terminable() as terminated, deterministic_operations(device):
        store = StateStore(state_dir, key)
        progress = store.resume(network, average, optimizer)
        images_per_step = min(options.batch_size, len(pixels))
        log = TrainingLog(progress, steps, steps_per_epoch, images_per_step, state_dir, device)
        order = _order(len(pixels), rng_key, progress.step // steps_per_epoch, device)
        saved_at = time.monotonic()

        while progress.step < steps:
            # data
            epoch, position = divmod(progress.step, steps_per_epoch)
            if position == 0:
                order = _order(len(pixels), rng_key, epoch, device)
            chosen = order[position * options.batch_size : (position + 1) * options.batch_size]
            generator = torch.Generator().manual_seed(derive_seed(*rng_key, "step", progress.step))
            x_0 = denoiser.from_images(to_model(pixels[chosen], model["image_size"], model["channels"], model["fit"]))
            sigma = upload(hooks.training_sigmas(denoiser, len(chosen), generator), device)
            noise = upload(torch.randn(x_0.shape, generator=generator), device)
            batch_labels = None
            if classes:
                dropped = upload(torch.rand(len(chosen), generator=generator), device) < options.label_dropout
                batch_labels = labels[chosen].masked_fill(dropped, NO_LABEL)
            batch = NoisyBatch(x_0, sigma, noise, batch_labels)

            try:
                with _failing_out_of_memory(progress.step, options.batch_size):
                    # loss, backward pass
                    optimizer.zero_grad(set_to_none=True)
                    with hooks.around_backward(network):
                        with autocast(device, precision):
                            loss = hooks.loss(denoiser, batch, progress.step / steps).mean()
                        loss.backward()

                    # weights, average
                    for group in optimizer.param_groups:
                        factor = learning_rate_factor(options.lr_schedule, progress.step, steps)
                        group["lr"] = options.learning_rate * factor
                    with hooks.around_step(network, average, progress.step, steps):
                        optimizer.step()
                        followed = averaged if progress.step < sampled_at else followed_later
                        _update_average(network, average, followed, _decay(options, progress.step))
                log.end_step(loss)
            except TrainingFailed as failure:
                reason = str(failure)
                break

            # maintenance
            if terminated() or time.monotonic() - saved_at >= seconds_between_saves:
                log.before_save()
                store.save(network, average, optimizer, progress)
                saved_at = time.monotonic()
            if terminated():
                print(f"SIGTERM: state saved at step {progress.step}/{steps}", flush=True)
                sys.exit(EXIT_TERMINATED)

    record = build_record(progress, settings, prepared.start, code, precision, kernels_of(device), reason)
    header = build_header(
        images, images_sha256, settings, code, reason, prepared.structure, prepared.start, prepared.pretrained
    )
    return Trained({"raw": network.state_dict(), "ema": average}, header, record)


@contextlib.contextmanager
def _failing_out_of_memory(step: int, batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a failed training."""
    try:
        yield
    except Exception as error:
        if not is_oom(error):
            raise
        raise TrainingFailed(
            f"out of memory in step {step + 1}: models.*.training.batch_size is {batch_size}; lower it there or in "
            "trainings.*"
        ) from error


def _order(n: int, rng_key: tuple[int | str, ...], epoch: int, device: torch.device) -> torch.Tensor:
    """Return the order of the images in `epoch`, without the last incomplete batch."""
    generator = torch.Generator().manual_seed(derive_seed(*rng_key, "epoch", epoch))
    return torch.randperm(n, generator=generator).to(device)


def _decay(options: TrainingSettings, step: int) -> float:
    """Return the decay of the average at `step`: smaller at first with `ramp`, 0 during a warm-up."""
    if options.ema_warmup == "ramp":
        return min(options.ema_decay, (1.0 + step) / (10.0 + step))
    return 0.0 if step < int(options.ema_warmup) else options.ema_decay


@torch.no_grad()
def _update_average(network: nn.Module, average: dict[str, torch.Tensor], names: list[str], decay: float) -> None:
    """Update the exponential moving average of the trained parameters."""
    parameters = dict(network.named_parameters())
    torch._foreach_lerp_([average[name] for name in names], [parameters[name] for name in names], 1.0 - decay)
