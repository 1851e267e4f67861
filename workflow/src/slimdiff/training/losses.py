"""The training loss by noise level, for sensitivity, importance and held-out loss."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from slimdiff.compression.importance import LevelLoss
from slimdiff.data.transforms import to_model
from slimdiff.diffusion.denoiser import NO_LABEL, Denoiser, NoisyBatch, build_denoiser
from slimdiff.diffusion.noise import derive_seed
from slimdiff.runtime.devices import autocast, resolve_precision

LEVELS = 50  # number of noise levels, equally likely in training
IMAGES_PER_LEVEL = 64
DRAWS_PER_LEVEL = 200  # random training noise levels, whose quantiles are equally likely
HELD_OUT_LEVELS, HELD_OUT_IMAGES = 30, 32  # in `denoising_losses`: noise levels, and test images per level
HELD_OUT_SEED = derive_seed("held-out levels")  # seed of their noise, the same for every cell


def equally_likely(denoiser: Denoiser, levels: int, seed: int) -> torch.Tensor:
    """Return noise levels (levels,) that are equally likely in training, ascending, on the CPU.

    They are medians of equal parts of the distribution, from DRAWS_PER_LEVEL draws per level. For a discrete schedule
    these are equidistant steps.
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
    sigma: torch.Tensor,
    n: int,
    label_dropout: float = 0.0,
) -> NoisyBatch:
    """Return `n` of the images with noise of the level of index `level`, the same at every call, on the images' device.

    Args:
        images, labels: uint8 (M, C, H, W) and int64 (M,).
        model: of the training's settings.
        sigma: (), the noise level.
        label_dropout: fraction of images whose label is withheld.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "level", level))
    chosen = torch.randint(len(images), (n,), generator=generator)
    fitted = to_model(images[chosen], model["image_size"], model["channels"], model["fit"])
    x_0 = denoiser.from_images(fitted)
    noise = torch.randn(x_0.shape, generator=generator)
    if not model["network"].get("classes", 0):
        return NoisyBatch(x_0, sigma.expand(n), noise, None)
    dropped = torch.rand(n, generator=generator) < label_dropout
    return NoisyBatch(x_0, sigma.expand(n), noise, labels[chosen].masked_fill(dropped, NO_LABEL))


def level_losses(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: Mapping[str, Any],
    device: torch.device,
    levels: int = LEVELS,
    images_per_level: int = IMAGES_PER_LEVEL,
) -> list[LevelLoss]:
    """Return the training loss at equally likely noise levels, ascending, each on its own images.

    A function returns the same loss at every call. Labels are withheld as in training.

    Args:
        network: on `device`.
        images, labels: uint8 (M, C, H, W) and int64 (M,); each level uses images_per_level of them.
        settings: `model`, `training` and `seed` of the training.
    """
    model, training, seed = settings["model"], settings["training"], settings["seed"]
    denoiser = build_denoiser(network, model, training)
    sigmas = equally_likely(denoiser, levels, seed)
    precision = resolve_precision(device, training["precision"])

    def loss_at(level: int) -> torch.Tensor:
        given = (denoiser, images, labels, model, seed, level, sigmas[level])
        batch = draw_batch(*given, images_per_level, training["label_dropout"]).to(device)
        with autocast(device, precision):
            return denoiser.loss(*batch).mean()

    return [lambda level=level: loss_at(level) for level in range(levels)]  # type: ignore[misc]


def mean_loss(
    images: torch.Tensor, labels: torch.Tensor, settings: Mapping[str, Any], levels: int, images_per_level: int
) -> Callable[[nn.Module], float]:
    """Return a function from a network on the CPU to its mean loss over all levels; arguments as in `level_losses`."""

    @torch.no_grad()
    def loss(network: nn.Module) -> float:
        losses = level_losses(network, images, labels, settings, torch.device("cpu"), levels, images_per_level)
        return sum(float(at_level()) for at_level in losses) / levels

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
    """Return the training loss at `levels` equally likely noise levels, each the mean over its own images.

    Images, noise and levels depend on neither the cell nor its seed. Cells of one data set, model, preconditioning and
    distribution of noise levels thus compare image by image. No label is withheld, as in sampling, and there is no
    guidance. Losses may be NaN or infinite.

    Args:
        denoiser: of the network on `device` as its engine runs it.
        images, labels: uint8 (M, C, H, W) and int64 (M,) that the network was not trained on.
        model: of the training's settings.
        precision: of the arithmetic, as for a sampler.
        batch_size: images per batch; levels share batches.
    """
    batches = [
        draw_batch(denoiser, images, labels, model, HELD_OUT_SEED, level, sigma, images_per_level)
        for level, sigma in enumerate(equally_likely(denoiser, levels, HELD_OUT_SEED))
    ]
    parts = [torch.cat(part) for part in zip(*batches, strict=True) if part[0] is not None]
    losses = []
    with autocast(device, precision):
        for batch in zip(*(part.split(batch_size) for part in parts), strict=True):
            losses.append(denoiser.loss(*(part.to(device) for part in batch)).cpu())
    return torch.cat(losses).double().unflatten(0, (levels, images_per_level)).mean(1).tolist()
