"""The training's loss level by level: what a channel, a layer or a whole compression costs, and at which noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff.compression.importance import LevelLoss
from slimdiff.data.transforms import to_model
from slimdiff.diffusion.denoiser import NO_LABEL, Denoiser, build_denoiser
from slimdiff.diffusion.noise import derive_seed
from slimdiff.runtime.devices import autocast, resolve_precision

LEVELS = 50  # noise levels that are equally likely in training
IMAGES_PER_LEVEL = 64
DRAWS_PER_LEVEL = 200  # of the training's own noise levels, to find so many equally likely ones
HELD_OUT_LEVELS, HELD_OUT_IMAGES = 30, 32  # of `denoising_losses`: noise levels, and test images at each
HELD_OUT_SEED = derive_seed("held-out levels")  # of their noise: the same for every cell


@dataclass(frozen=True)
class NoisyBatch:
    """Images of the process with the noise to come, all for one noise level."""

    x_0: torch.Tensor  # (N, C, S, S)
    noise: torch.Tensor  # like x_0, standard normal
    labels: torch.Tensor | None  # int64 (N,), -1 for none; None: the network knows no classes


def equally_likely(denoiser: Denoiser, levels: int, seed: int) -> torch.Tensor:
    """Noise levels (levels,) that are equally likely in training, ascending, on the CPU.

    For a discrete schedule these are steps at equal distances, for continuous noise levels the middles of equal shares
    of their distribution, by their quantiles among DRAWS_PER_LEVEL draws for each.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "levels"))
    drawn = denoiser.training_sigmas(levels * DRAWS_PER_LEVEL, generator).sort().values
    return drawn[DRAWS_PER_LEVEL // 2 :: DRAWS_PER_LEVEL]


def draw_batch(
    denoiser: Denoiser,
    images: torch.Tensor,
    labels: torch.Tensor,
    model: Mapping[str, Any],
    seed: int,
    level: int,
    n: int,
    label_dropout: float = 0.0,
) -> NoisyBatch:
    """`n` of the images for the noise level of index `level`, the same at every call, on the images' device.

    Args:
        images, labels: uint8 (M, C, H, W) and int64 (M,).
        model: of the training's settings.
        label_dropout: share of images whose label is withheld.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "level", level))
    chosen = torch.randint(len(images), (n,), generator=generator)
    fitted = to_model(images[chosen], model["image_size"], model["channels"], model["fit"])
    x_0 = denoiser.from_images(fitted)
    noise = torch.randn(x_0.shape, generator=generator)
    if not model["network"].get("classes", 0):
        return NoisyBatch(x_0, noise, None)
    dropped = torch.rand(n, generator=generator) < label_dropout
    return NoisyBatch(x_0, noise, labels[chosen].masked_fill(dropped, NO_LABEL))


def level_losses(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: Mapping[str, Any],
    device: torch.device,
    levels: int = LEVELS,
    images_per_level: int = IMAGES_PER_LEVEL,
) -> list[LevelLoss]:
    """The training loss at noise levels that are equally likely in training, ascending, each of its own images.

    A function gives the same loss at every call; labels are withheld as in training.

    Args:
        network: on `device`.
        images, labels: uint8 (M, C, H, W) and int64 (M,), of which images_per_level are drawn for each level.
        settings: `model`, `training` and `seed` of the training.
    """
    model, training, seed = settings["model"], settings["training"], settings["seed"]
    denoiser = build_denoiser(network, model, training)
    sigmas = equally_likely(denoiser, levels, seed)
    precision = resolve_precision(device, training["precision"])

    def loss_at(level: int) -> torch.Tensor:
        drawn = draw_batch(denoiser, images, labels, model, seed, level, images_per_level, training["label_dropout"])
        batch_labels = None if drawn.labels is None else drawn.labels.to(device)
        sigma = sigmas[level].expand(images_per_level).to(device)
        with autocast(device, precision):
            return denoiser.loss(drawn.x_0.to(device), sigma, drawn.noise.to(device), batch_labels).mean()

    return [lambda level=level: loss_at(level) for level in range(levels)]  # type: ignore[misc]


def mean_loss(
    images: torch.Tensor, labels: torch.Tensor, settings: Mapping[str, Any], levels: int, images_per_level: int
) -> Callable[[nn.Module], float]:
    """A function from a network on the CPU to its mean loss over all levels; arguments are those of `level_losses`."""

    @torch.no_grad()
    def loss(network: nn.Module) -> float:
        each = level_losses(network, images, labels, settings, torch.device("cpu"), levels, images_per_level)
        return sum(float(at_level()) for at_level in each) / levels

    return loss


@torch.inference_mode()
def denoising_losses(
    denoiser: Denoiser,
    images: torch.Tensor,
    labels: torch.Tensor,
    model: Mapping[str, Any],
    device: torch.device,
    precision: str,
    batch_size: int,
    levels: int = HELD_OUT_LEVELS,
    images_per_level: int = HELD_OUT_IMAGES,
) -> list[float]:
    """The training loss at `levels` noise levels, as `equally_likely` has them, each the mean over its own images.

    Images, noise and levels depend on neither the cell nor its seed, so cells of one data set, model and
    preconditioning compare image by image. Labels are all told, as in sampling, and no guidance is at work. A loss that
    is no finite number is given as it is.

    Args:
        denoiser: of the network on `device` as its engine runs it.
        images, labels: uint8 (M, C, H, W) and int64 (M,) that the network was not trained on.
        model: of the training's settings.
        precision: of the arithmetic, as a sampler has it.
        batch_size: images at once; levels share batches.
    """
    sigmas = equally_likely(denoiser, levels, HELD_OUT_SEED).repeat_interleave(images_per_level)
    draws = [
        draw_batch(denoiser, images, labels, model, HELD_OUT_SEED, level, images_per_level) for level in range(levels)
    ]
    x_0, noise = (torch.cat([getattr(drawn, name) for drawn in draws]) for name in ("x_0", "noise"))
    batch_labels = [drawn.labels for drawn in draws if drawn.labels is not None]
    parts = [x_0, sigmas, noise, *([torch.cat(batch_labels)] if batch_labels else [])]
    losses = []
    with autocast(device, precision):
        for batch in zip(*(part.split(batch_size) for part in parts), strict=True):
            losses.append(denoiser.loss(*(part.to(device) for part in batch)).cpu())
    return torch.cat(losses).double().unflatten(0, (levels, images_per_level)).mean(1).tolist()
