"""From a denoiser to images: batches, noise per image, the data set's own size, and whether they can be scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.data.fit import to_dataset
from slimdiff.diffusion.denoiser import Denoiser, to_images
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, find_sampler

DEGENERATE_STD = 1.0 / 255.0  # of the pixels over all images, in [-1, 1]: about half a gray level


@dataclass(frozen=True)
class Sampled:
    """Images and what they cost."""

    images: torch.Tensor  # uint8 (N, C, H, W)
    network_evaluations: float  # mean per image
    reason: str  # why they are no result; empty when they are one


@torch.inference_mode()
def sample_images(
    denoiser: Denoiser,
    settings: SamplerSettings,
    model: Mapping[str, Any],
    dataset: Mapping[str, Any],
    n: int,
    batch_size: int,
    seed: int,
) -> Sampled:
    """n images in the data set's size and channels.

    Args:
        model: `channels`, `image_size`, `fit` of the model.
        dataset: `height`, `width`, `channels` of the data set.
        seed: with its index, all that an image's noise depends on.
    """
    sampler = find_sampler(settings.method)
    device = next(denoiser.network.parameters()).device
    shape = (model["channels"], model["image_size"], model["image_size"])
    images, evaluations, finite = [], 0.0, True
    for start in range(0, n, batch_size):
        indices = range(start, min(start + batch_size, n))
        try:
            end = sampler(denoiser, ImageNoise(seed, indices, device), shape, settings)
        except FloatingPointError as error:
            return Sampled(torch.zeros(0, *_size(dataset), dtype=torch.uint8), 0.0, str(error))
        x = to_images(end.x)
        finite = finite and bool(torch.isfinite(x).all())
        batch = to_dataset(torch.nan_to_num(x), dataset["height"], dataset["width"], dataset["channels"], model["fit"])
        images.append(batch.cpu())
        evaluations += float(end.evaluations.sum())
    everything = torch.cat(images)
    return Sampled(everything, evaluations / n, _degenerate(everything, finite))


def _degenerate(images: torch.Tensor, finite: bool) -> str:
    """Why these images cannot be scored, or nothing."""
    if not finite:
        return "samples hold NaN or infinity"
    values = images.float() / 127.5 - 1.0
    if float(values.std()) < DEGENERATE_STD:
        return f"samples are constant (all pixels at {float(values.mean()):+.2f} of [-1, 1])"
    if len(values) > 1 and bool((values.std(dim=0) < DEGENERATE_STD).all()):
        return "all samples are the same image"
    return ""


def _size(dataset: Mapping[str, Any]) -> tuple[int, int, int]:
    return dataset["channels"], dataset["height"], dataset["width"]


def grid(images: torch.Tensor, columns: int = 10, border: int = 2) -> torch.Tensor:
    """uint8 (N, C, H, W) → one uint8 image (C, rows·(H + border) + border, …), row by row, on mid-gray."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.full(
        (channels, rows * (height + border) + border, columns * (width + border) + border), 128, dtype=torch.uint8
    )
    for index in range(n):
        top = border + (index // columns) * (height + border)
        left = border + (index % columns) * (width + border)
        sheet[:, top : top + height, left : left + width] = images[index]
    return sheet
