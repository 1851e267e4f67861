"""Preconditioning: how a raw network becomes a denoiser D(x, sigma), an estimate of x_0 from x = x_0 + sigma·noise.

All parametrizations are one formula, D = c_skip·x + c_out·F(c_in·x, c_noise) (Karras et al. 2022, eq. 7):

- `score`, the report's NCSN: F / sigma is the score, so c_skip = c_in = 1, c_out = sigma, c_noise = t; sigma is the
  marginal standard deviation at a uniform t. Its denoising score matching loss is ‖F + noise‖².
- `edm`: Karras et al. 2022, table 1, last column; ln sigma is normal.
- `epsilon`, the report's DDPM: F is the noise (Ho et al. 2020), told x_t and the step t.
- `v`: F is sqrt(alpha_bar)·noise - sqrt(1 - alpha_bar)·x_0 (Salimans and Ho 2022).

In all of them the loss is a plain regression of F on (x_0 - c_skip·x) / c_out. White is 1 in the process and black is a
setting: the report's NCSN has 0, its DDPM -1. Where the background is black 0 is better, since then it costs nothing at
the borders, with padding or without (docs/decisions.md). EDM's constants, which are for data of standard deviation 0.5,
are scaled with sigma_data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff.diffusion.ve import TIME_MIN, VESDE
from slimdiff.diffusion.vp import TIMESTEPS, VP
from slimdiff.errors import UserError
from slimdiff.io.settings import build

PRECONDITIONINGS = ("score", "edm", "epsilon", "v")

# Karras et al. 2022, table 1, in units of the data's standard deviation (theirs is 0.5)
EDM_LOG_SIGMA_MEAN = -1.2 - math.log(0.5)
EDM_LOG_SIGMA_STD = 1.2
EDM_SIGMA_MIN, EDM_SIGMA_MAX = 0.002 / 0.5, 80.0 / 0.5

WHITE = 1.0  # in the process
NO_LABEL = -1  # in labels: an image of no class in particular
# A DDPM's embedding is made for steps up to 1000: EDM's c_noise, about -1.4 to 1.3, is stretched to that.
EDM_NOISE_SCALE = {"ncsn": 1.0, "ddpm": 250.0}


@dataclass(frozen=True)
class PreconditioningSettings:
    """Which preconditioning, and its constants."""

    name: str
    sigma: float = 25.0  # base of the VE SDE
    sigma_data: float = 0.33  # edm: root mean square of the process's pixels; 0.33 for MNIST in [0, 1]
    noise_schedule: str = "linear"  # epsilon, v, and the samplers that step through it
    min_snr_gamma: float | None = None  # epsilon, v: clamp of the loss's weight (Hang et al. 2023); None: weight 1
    black: float = 0.0  # in the process, where white is 1
    noise_scale: float = 1.0  # edm: of c_noise


class Denoiser:
    """A network with its preconditioning.

    Calls take x (N, C, S, S) in the process's pixels, sigma (N,) and for a conditional network labels (N,), -1 for
    none, and return the estimate of x_0.
    """

    def __init__(self, network: nn.Module, settings: PreconditioningSettings) -> None:
        if settings.name not in PRECONDITIONINGS:
            raise UserError(f"training.preconditioning is {settings.name!r}; allowed: {', '.join(PRECONDITIONINGS)}")
        self.network = network
        self.settings = settings
        self.sde = VESDE(settings.sigma)
        self.vp = VP(settings.noise_schedule)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        return _column(c_skip) * x + _column(c_out) * self._raw(_column(c_in) * x, c_noise, labels)

    def coefficients(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """c_skip, c_out, c_in, c_noise for sigma (N,), each (N,)."""
        one = torch.ones_like(sigma)
        if self.settings.name == "score":
            return one, sigma, one, self.sde.time(sigma)
        if self.settings.name == "edm":
            data = self.settings.sigma_data
            total = torch.sqrt(sigma**2 + data**2)
            c_noise = (sigma / (2.0 * data)).log() / 4.0 * self.settings.noise_scale
            return data**2 / total**2, sigma * data / total, 1.0 / total, c_noise
        total = torch.sqrt(sigma**2 + 1.0)  # 1 / sqrt(alpha_bar)
        if self.settings.name == "epsilon":
            return one, -sigma, 1.0 / total, self.vp.time(sigma)
        return 1.0 / total**2, -sigma / total, 1.0 / total, self.vp.time(sigma)

    def loss(
        self, x_0: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Weighted denoising loss per image (N,): the squared error of F, summed over pixels."""
        return self.regression(x_0 + _column(sigma) * noise, sigma, x_0, labels)

    def regression(
        self, x: torch.Tensor, sigma: torch.Tensor, estimate: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Weighted loss per image (N,) of D(x, sigma) against the estimate (N, C, S, S) that it should make.

        It is the squared error of F, summed over pixels: that of D divided by c_out², Karras et al. 2022, eq. 8.
        """
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        target = (estimate - _column(c_skip) * x) / _column(c_out)
        raw = self._raw(_column(c_in) * x, c_noise, labels)
        return self._weight(sigma) * (raw - target).square().flatten(1).sum(1)

    def training_sigmas(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """n noise levels as training draws them, on the CPU."""
        if self.settings.name == "score":
            t = torch.rand(n, generator=generator) * (1.0 - TIME_MIN) + TIME_MIN
            return self.sde.marginal_std(t)
        if self.settings.name == "edm":
            normal = torch.randn(n, generator=generator)
            return (normal * EDM_LOG_SIGMA_STD + EDM_LOG_SIGMA_MEAN).exp() * self.settings.sigma_data
        return self.vp.sigmas[torch.randint(TIMESTEPS, (n,), generator=generator)].float()

    def sigma_range(self) -> tuple[float, float]:
        """Smallest and largest noise level that sampling starts and ends at where the sampler names none.

        `score`: the SDE at t = 1e-3 (where the tutorial's samplers stop) and t = 1. `edm`: Karras et al. 2022, table 1.
        `epsilon`, `v`: the first and the last step.
        """
        if self.settings.name == "score":
            low, high = self.sde.marginal_std(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist()
            return low, high
        if self.settings.name == "edm":
            return EDM_SIGMA_MIN * self.settings.sigma_data, EDM_SIGMA_MAX * self.settings.sigma_data
        return float(self.vp.sigmas[0]), float(self.vp.sigmas[-1])

    def from_images(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [-1, 1] → the process's pixels."""
        black = self.settings.black
        return (images + 1.0) / 2.0 * (WHITE - black) + black

    def to_images(self, x: torch.Tensor) -> torch.Tensor:
        """The way back of `from_images`."""
        black = self.settings.black
        return (x - black) / (WHITE - black) * 2.0 - 1.0

    def _raw(self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """F in the precision of x, whatever the network computes in."""
        raw: torch.Tensor = self.network(x, c_noise) if labels is None else self.network(x, c_noise, labels)
        return raw.to(x.dtype)

    def _weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """Weight of the loss at sigma (N,): 1, or min-SNR's, which is stated for F = noise and F = v."""
        gamma = self.settings.min_snr_gamma
        if gamma is None:
            return torch.ones_like(sigma)
        snr = sigma**-2
        return snr.clamp_max(gamma) / (snr if self.settings.name == "epsilon" else snr + 1.0)


def build_denoiser(network: nn.Module, model: Mapping[str, Any], training: Mapping[str, Any]) -> Denoiser:
    """The denoiser that the options `training` make of a network of `model` (an entry of `models:`)."""
    settings = {
        "name": training["preconditioning"],
        "sigma_data": training["sigma_data"],
        "black": training["black"],
        "noise_scale": EDM_NOISE_SCALE[model["family"]],
    }
    settings |= {key: training[key] for key in ("noise_schedule", "min_snr_gamma") if key in training}
    settings |= {key: model["network"][key] for key in ("sigma",) if key in model["network"]}
    return Denoiser(network, build(PreconditioningSettings, settings, "training"))


def _column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]
