"""Preconditioning: how a raw network becomes a denoiser D(x, sigma), an estimate of x_0 from x = x_0 + sigma·noise.

Both parametrizations are one formula, D = c_skip·x + c_out·F(c_in·x, c_noise) (Karras et al. 2022, eq. 7):

- `score`, the report's: F / sigma is the score, so c_skip = c_in = 1, c_out = sigma, c_noise = t; sigma is the marginal
  standard deviation at a uniform t. Its denoising score matching loss is ‖F + noise‖².
- `edm`: Karras et al. 2022, table 1, last column; ln sigma is normal.

In both the loss with its published weight is a plain regression of F on (x_0 - c_skip·x) / c_out, and the process runs
on pixels in [0, 1], as the report's does: its network has no padding, so that a background of 0 costs nothing at the
border. EDM's constants, which are for data of standard deviation 0.5, are scaled with sigma_data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff.diffusion.ve import TIME_MIN, VESDE
from slimdiff.errors import UserError
from slimdiff.settings import build

PRECONDITIONINGS = ("score", "edm")

# Karras et al. 2022, table 1, in units of the data's standard deviation (theirs is 0.5)
EDM_LOG_SIGMA_MEAN = -1.2 - math.log(0.5)
EDM_LOG_SIGMA_STD = 1.2
EDM_SIGMA_MIN, EDM_SIGMA_MAX = 0.002 / 0.5, 80.0 / 0.5


@dataclass(frozen=True)
class PreconditioningSettings:
    """Which preconditioning, and its constants."""

    name: str
    sigma: float = 25.0  # base of the VE SDE
    sigma_data: float = 0.33  # edm: root mean square of the pixels in [0, 1]; 0.33 for MNIST


class Denoiser:
    """A network with its preconditioning.

    Calls take x (N, C, S, S) in the process's pixels and sigma (N,), and return the estimate of x_0.
    """

    def __init__(self, network: nn.Module, settings: PreconditioningSettings) -> None:
        if settings.name not in PRECONDITIONINGS:
            raise UserError(f"training.preconditioning is {settings.name!r}; allowed: {', '.join(PRECONDITIONINGS)}")
        self.network = network
        self.settings = settings
        self.sde = VESDE(settings.sigma)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        raw = self.network(_column(c_in) * x, c_noise)
        return _column(c_skip) * x + _column(c_out) * raw

    def coefficients(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """c_skip, c_out, c_in, c_noise for sigma (N,), each (N,)."""
        if self.settings.name == "score":
            one = torch.ones_like(sigma)
            return one, sigma, one, self.sde.time(sigma)
        data = self.settings.sigma_data
        total = torch.sqrt(sigma**2 + data**2)
        return data**2 / total**2, sigma * data / total, 1.0 / total, (sigma / (2.0 * data)).log() / 4.0

    def loss(self, x_0: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Weighted denoising loss per image (N,): the squared error of F, summed over pixels."""
        x = x_0 + _column(sigma) * noise
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        target = (x_0 - _column(c_skip) * x) / _column(c_out)
        raw = self.network(_column(c_in) * x, c_noise)
        return (raw - target).square().flatten(1).sum(1)

    def training_sigmas(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """n noise levels as training draws them, on the CPU."""
        if self.settings.name == "score":
            t = torch.rand(n, generator=generator) * (1.0 - TIME_MIN) + TIME_MIN
            return self.sde.marginal_std(t)
        normal = torch.randn(n, generator=generator)
        return (normal * EDM_LOG_SIGMA_STD + EDM_LOG_SIGMA_MEAN).exp() * self.settings.sigma_data

    def sigma_range(self) -> tuple[float, float]:
        """Smallest and largest noise level that sampling starts and ends at where the sampler names none.

        `score`: the SDE at t = 1e-3 (where the tutorial's samplers stop) and t = 1. `edm`: Karras et al. 2022, table 1.
        """
        if self.settings.name == "score":
            low, high = self.sde.marginal_std(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist()
            return low, high
        return EDM_SIGMA_MIN * self.settings.sigma_data, EDM_SIGMA_MAX * self.settings.sigma_data


def build_denoiser(network: nn.Module, model: Mapping[str, Any], training: Mapping[str, Any]) -> Denoiser:
    """The denoiser that the options `training` make of a network of `model` (an entry of `models:`)."""
    settings = {
        "name": training["preconditioning"],
        "sigma": model["network"]["sigma"],
        "sigma_data": training["sigma_data"],
    }
    return Denoiser(network, build(PreconditioningSettings, settings, "training"))


def from_images(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] → the process's pixels in [0, 1]."""
    return (images + 1.0) / 2.0


def to_images(x: torch.Tensor) -> torch.Tensor:
    """The way back of `from_images`."""
    return x * 2.0 - 1.0


def _column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]
