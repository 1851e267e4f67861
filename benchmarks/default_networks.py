"""Training and sampling of the default networks against their earlier settings, which config/sensitivity.yaml keeps.

Images per second, of random images and untrained networks, with the share of what one core does in matrix products of
the same precision. A training step counts as three forward passes; the optimizer's arithmetic does not count.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from _record import interleaved, record
from snakemake.utils import update_config
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.diffusion.denoiser import Denoiser, build_denoiser
from slimdiff.diffusion.guidance import labels_in_turn
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.inference.sampling import sample_images
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network
from slimdiff.runtime.devices import autocast, pick_device, resolve_precision
from slimdiff.training.optimizers import build_optimizer

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
ROUNDS, IMAGES, SIZE = 5, 256, 1536
DATASET = {"channels": 1, "height": 28, "width": 28, "saturated": 0.8}


def networks(*names: str) -> dict[str, Any]:
    """Return the models of these config files, each over the ones before."""
    config: dict[str, Any] = {}
    for name in names:
        update_config(config, yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    return dict(config["models"])


def denoiser_of(model: dict[str, Any]) -> Denoiser:
    """Return an untrained denoiser of a model."""
    return build_denoiser(build_network(model, model["training"]["groups"], 0), model, model["training"])


def labels_of(model: dict[str, Any], n: int) -> torch.Tensor | None:
    """Return labels (n,), or None for an unconditional model."""
    return labels_in_turn(n, model["network"]["classes"]) if model["network"]["classes"] else None


def training_rate(model: dict[str, Any]) -> float:
    """Return the images per second of training steps, after a warm-up of two."""
    options, denoiser = model["training"], denoiser_of(model)
    denoiser.network.train()
    precision = resolve_precision(CPU, options["precision"])
    optimizer = build_optimizer(
        options["optimizer"], options["optimizer_state"], denoiser.network, 1e-3, options["weight_decay"]
    )
    n, size = options["batch_size"], model["image_size"]
    x_0, sigma, noise = torch.rand(n, 1, size, size), torch.rand(n) + 0.1, torch.randn(n, 1, size, size)
    steps, start = IMAGES // n, 0.0
    for step in range(steps + 2):
        if step == 2:
            start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with autocast(CPU, precision):
            loss = denoiser.loss(x_0, sigma, noise, labels_of(model, n)).mean()
        loss.backward()
        optimizer.step()
    return steps * n / (time.perf_counter() - start)


def sampling_rate(model: dict[str, Any]) -> float:
    """Return the images per second of sampling a batch of 50."""
    denoiser = denoiser_of(model)
    denoiser.network.eval()
    settings = build(SamplerSettings, model["sampler"], "sampler")
    start = time.perf_counter()
    sample_images(denoiser, settings, model, DATASET, 50, 50, 0, labels_of(model, 50))
    return 50 / (time.perf_counter() - start)


def flop_per_image(model: dict[str, Any]) -> float:
    """Return the floating-point operations of one evaluation of one image."""
    network = build_network(model, model["training"]["groups"], 0).eval()
    x = torch.randn(1, 1, model["image_size"], model["image_size"])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, torch.ones(1), labels_of(model, 1))
    return float(counter.get_total_flops())


def evaluations(model: dict[str, Any]) -> float:
    """Return the network evaluations of one sampled image."""
    denoiser, settings = denoiser_of(model), build(SamplerSettings, model["sampler"], "sampler")
    denoiser.network.eval()
    return sample_images(denoiser, settings, model, DATASET, 1, 1, 0, labels_of(model, 1)).network_evaluations


def peak(dtype: torch.dtype) -> float:
    """Return the floating-point operations per second of a matrix product: the best of five."""
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2.0 * SIZE**3 / min(seconds[1:])


def compared(before: dict[str, Any], now: dict[str, Any], rate: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    """Return the rates of both, in turns, and the share of the core's peak that each reaches."""
    measured = interleaved(lambda: rate(before), lambda: rate(now), ROUNDS)
    for side, model in (("first", before), ("second", now)):
        training = rate is training_rate
        precision = resolve_precision(CPU, model["training" if training else "sampler"]["precision"])
        work = flop_per_image(model) * (3 if training else evaluations(model))
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        measured[f"{side}_share_of_peak"] = measured[side] * work / peak(dtype)
    return measured


if __name__ == "__main__":
    pick_device(0, 1)
    now, before = networks("config.yaml"), networks("config.yaml", "config/sensitivity.yaml")
    for name in ("ncsn", "ddpm"):
        for task, rate in (("training", training_rate), ("sampling", sampling_rate)):
            measured = compared(before[name], now[name], rate)
            record(f"{task} {name}: default / settings of config/sensitivity.yaml (images per s)", measured, 1)
    for task, rate in (("training", training_rate), ("sampling", sampling_rate)):
        measured = compared(now["ddpm"], now["unet2d"], rate)
        record(f"{task}: unet2d / ddpm, both default (images per s)", measured, 1)
