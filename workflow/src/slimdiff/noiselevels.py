"""The training's loss level by level: what a channel, a layer or a whole compression costs, and at which noise."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from slimdiff.compression.importance import LevelLoss
from slimdiff.data.fit import to_model
from slimdiff.devices import autocast, resolve_precision
from slimdiff.diffusion.denoiser import NO_LABEL, build_denoiser
from slimdiff.diffusion.noise import derive_seed

LEVELS = 50  # noise levels that are equally likely in training
IMAGES_PER_LEVEL = 64
DRAWS_PER_LEVEL = 200  # of the training's own noise levels, to find so many equally likely ones


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

    For a discrete schedule these are steps at equal distances, for continuous noise levels the middles of equal shares
    of their distribution. A function gives the same loss at every call; labels are withheld as in training.

    Args:
        network: on `device`.
        images, labels: uint8 (M, C, H, W) and int64 (M,), of which images_per_level are drawn for each level.
        settings: `model`, `training` and `seed` of the training.
    """
    model, training, seed = settings["model"], settings["training"], settings["seed"]
    denoiser = build_denoiser(network, model, training)
    generator = torch.Generator().manual_seed(derive_seed(seed, "levels"))
    drawn = denoiser.training_sigmas(levels * DRAWS_PER_LEVEL, generator).sort().values
    sigmas = drawn[DRAWS_PER_LEVEL // 2 :: DRAWS_PER_LEVEL]
    precision = resolve_precision(device, training["precision"])

    def loss_at(level: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, "level", level))
        chosen = torch.randint(len(images), (images_per_level,), generator=generator)
        x_0 = denoiser.from_images(
            to_model(images[chosen].to(device), model["image_size"], model["channels"], model["fit"])
        )
        noise = torch.randn(x_0.shape, generator=generator).to(device)
        told = None
        if model["network"].get("classes", 0):
            dropped = torch.rand(images_per_level, generator=generator) < training["label_dropout"]
            told = labels[chosen].masked_fill(dropped, NO_LABEL).to(device)
        with autocast(device, precision):
            return denoiser.loss(x_0, sigmas[level].expand(images_per_level).to(device), noise, told).mean()

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
