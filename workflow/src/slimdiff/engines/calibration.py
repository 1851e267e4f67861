"""Noised real images: the inputs that calibrate int8 networks and measure output errors.

Half of the noise levels follow the training's distribution, half are levels of the recipe's sampler. Together they
cover both ends of the range, where activations differ by orders of magnitude.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.data.transforms import to_model
from slimdiff.diffusion.denoiser import NO_LABEL, Denoiser
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise, derive_seed
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.io.settings import build

PROBES = 2  # number of images sampled to find the sampler's noise levels
UNLABELLED_EVERY = 3  # every third label is withheld


@dataclass(frozen=True)
class NetworkInputs:
    """Inputs of a network."""

    x: torch.Tensor  # (N, C, S, S), scaled by c_in
    noise_level: torch.Tensor  # (N,), c_noise
    labels: torch.Tensor | None  # int64 (N,), -1 for none


class _Recorder(Denoiser):
    """A denoiser that records its noise levels."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.network, denoiser.settings)
        self.seen: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        self.seen.append(sigma.float().cpu())
        return super().__call__(x, sigma, labels)


@torch.no_grad()
def sampler_sigmas(denoiser: Denoiser, model: Mapping[str, Any], sampler: Mapping[str, Any]) -> torch.Tensor:
    """Return the noise levels (K,) at which a sampler evaluates the network, by sampling two images."""
    recorder = _Recorder(denoiser)
    settings = build(SamplerSettings, sampler, "sampler")
    labels = torch.zeros(PROBES, dtype=torch.int64) if model["network"].get("classes") else None
    guided = Guided(recorder, labels, settings.guidance, interval=settings.guidance_interval, clip=settings.clip)
    shape = (model["channels"], model["image_size"], model["image_size"])
    sample(guided, ImageNoise(0, range(PROBES)), shape, settings)
    return torch.cat(recorder.seen)


def noised_inputs(
    denoiser: Denoiser,
    model: Mapping[str, Any],
    images: torch.Tensor,
    labels: torch.Tensor,
    sigmas: torch.Tensor,
    n: int,
    seed: int,
) -> NetworkInputs:
    """Return a network's inputs for `n` images, half at noise levels of the training and half at `sigmas`.

    Args:
        images, labels: uint8 (M, C, H, W) and int64 (M,), from which n are drawn.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "noised"))
    chosen = torch.randint(len(images), (n,), generator=generator)
    x_0 = denoiser.from_images(to_model(images[chosen], model["image_size"], model["channels"], model["fit"]))
    sampled = sigmas[torch.randint(len(sigmas), (n,), generator=generator)]
    drawn = denoiser.training_sigmas(n, generator)
    sigma = torch.where(torch.arange(n) % 2 == 0, drawn, sampled)
    _, _, c_in, c_noise = denoiser.coefficients(sigma)
    x = x_0 + sigma[:, None, None, None] * torch.randn(x_0.shape, generator=generator)
    chosen_labels = None
    if model["network"].get("classes"):
        chosen_labels = labels[chosen]
        if model["network"].get("null_class", True):
            chosen_labels = chosen_labels.masked_fill(torch.arange(n) % UNLABELLED_EVERY == 0, NO_LABEL)
    return NetworkInputs((c_in[:, None, None, None] * x).float(), c_noise.float(), chosen_labels)
