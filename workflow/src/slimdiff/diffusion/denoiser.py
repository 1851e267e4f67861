"""Preconditioning: a network F as a denoiser D(x, sigma), which estimates x_0 from x = x_0 + sigma·noise.

All parametrizations are one formula, D = c_skip·x + c_out·F(c_in·x, c_noise) (Karras et al. 2022, eq. 7):

- `score`, the paper's NCSN: F / sigma is the score, so c_skip = c_in = 1, c_out = sigma, c_noise = t. Sigma is the
  marginal standard deviation at a uniform t. The denoising score matching loss is ‖F + noise‖².
- `edm`: Karras et al. 2022, table 1, last column; ln sigma is normal, its mean and deviation are settings.
- `epsilon`, the paper's DDPM: F predicts the noise from x_t and the step t (Ho et al. 2020).
- `v`: F is sqrt(alpha_bar)·noise - sqrt(1 - alpha_bar)·x_0 (Salimans and Ho 2022).
- `sample`: F is x_0, diffusers' prediction type of that name.

The loss is always a plain regression of F on (x_0 - c_skip·x) / c_out. White is 1 in the process; black is a setting,
0 in the paper's NCSN and -1 in its DDPM. On black backgrounds 0 is better: borders then cost nothing, padded or not
(docs/decisions). EDM's constants, stated for data of standard deviation 0.5, are scaled by sigma_data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from slimdiff.catalog.families import NOISE_LEVELS, PRECONDITIONINGS
from slimdiff.diffusion.processes import TIME_MIN, VESDE, VP
from slimdiff.errors import UserError
from slimdiff.io.settings import build

EDM_SIGMA_DATA = 0.5  # standard deviation of the data for which Karras et al. 2022, table 1, state their constants
EDM_SIGMA_MIN, EDM_SIGMA_MAX = 0.002 / EDM_SIGMA_DATA, 80.0 / EDM_SIGMA_DATA  # in units of the data's

WHITE = 1.0  # in the process
NO_LABEL = -1  # in labels: unconditional
# A sinusoidal embedding expects steps up to 1000, so EDM's c_noise, about -1.4 to 1.3, is scaled up.
EDM_NOISE_SCALE = {"ncsn": 1.0, "ddpm": 250.0, "unet2d": 250.0}


@dataclass(frozen=True)
class PreconditioningSettings:
    """A preconditioning and its constants."""

    name: str
    sigma: float = 25.0  # base of the VE SDE
    sigma_data: float = 0.33  # edm: root mean square of the pixels; 0.33 for MNIST in [0, 1]
    log_sigma_mean: float = NOISE_LEVELS["log_sigma_mean"]  # edm: mean of ln sigma in training, at sigma_data 0.5
    log_sigma_std: float = NOISE_LEVELS["log_sigma_std"]  # edm: its standard deviation
    noise_schedule: str | Mapping[str, Any] = "linear"  # epsilon, v, sample, and samplers on a noise schedule
    min_snr_gamma: float | None = None  # of the same: clamp of the loss weight (Hang et al. 2023); None: weight 1
    black: float = 0.0  # in the process, where white is 1
    noise_scale: float = 1.0  # edm: factor on c_noise


class NoisyBatch(NamedTuple):
    """Images with noise, in the order of the arguments of `Denoiser.loss`."""

    x_0: torch.Tensor  # (N, C, S, S), in the process's pixels
    sigma: torch.Tensor  # (N,)
    noise: torch.Tensor  # like x_0, standard normal
    labels: torch.Tensor | None  # int64 (N,), -1: unlabelled; None: unconditional network

    @property
    def x(self) -> torch.Tensor:
        """The noisy images (N, C, S, S)."""
        return self.x_0 + _column(self.sigma) * self.noise

    def to(self, device: torch.device) -> "NoisyBatch":
        """Return the batch on `device`."""
        return NoisyBatch(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]


class Denoiser:
    """A network with its preconditioning.

    A call takes x (N, C, S, S) in the process's pixels, sigma (N,) and, if class-conditional, labels (N,) with -1 for
    none. It returns the estimate of x_0.
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
        """Return c_skip, c_out, c_in, c_noise for sigma (N,), each (N,)."""
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
        if self.settings.name == "sample":
            return torch.zeros_like(sigma), one, 1.0 / total, self.vp.time(sigma)
        return 1.0 / total**2, -sigma / total, 1.0 / total, self.vp.time(sigma)

    def loss(
        self, x_0: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weighted denoising loss per image (N,): the squared error of F, summed over pixels."""
        return self.regression(x_0 + _column(sigma) * noise, sigma, x_0, labels)

    def regression(
        self, x: torch.Tensor, sigma: torch.Tensor, estimate: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weighted loss per image (N,) of D(x, sigma) against `estimate` (N, C, S, S).

        It is the squared error of F, summed over pixels: that of D divided by c_out², Karras et al. 2022, eq. 8.
        """
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        target = (estimate - _column(c_skip) * x) / _column(c_out)
        raw = self._raw(_column(c_in) * x, c_noise, labels)
        return self._weight(sigma) * (raw - target).square().flatten(1).sum(1)

    def training_sigmas(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw n noise levels from the training distribution, on the CPU."""
        if self.settings.name == "score":
            t = torch.rand(n, generator=generator) * (1.0 - TIME_MIN) + TIME_MIN
            return self.sde.marginal_std(t)
        if self.settings.name == "edm":
            normal = torch.randn(n, generator=generator)
            mean = self.settings.log_sigma_mean - math.log(EDM_SIGMA_DATA)
            return (normal * self.settings.log_sigma_std + mean).exp() * self.settings.sigma_data
        return self.vp.sigmas[torch.randint(len(self.vp.sigmas), (n,), generator=generator)].float()

    def sigma_range(self) -> tuple[float, float]:
        """Return the smallest and the largest noise level of sampling, the defaults of sigma_min and sigma_max.

        `score`: the SDE at t = 1e-3 (where the tutorial's samplers stop) and t = 1. `edm`: Karras et al. 2022, table 1.
        `epsilon`, `v`, `sample`: the first and the last step.
        """
        if self.settings.name == "score":
            low, high = self.sde.marginal_std(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist()
            return low, high
        if self.settings.name == "edm":
            return EDM_SIGMA_MIN * self.settings.sigma_data, EDM_SIGMA_MAX * self.settings.sigma_data
        return float(self.vp.sigmas[0]), float(self.vp.sigmas[-1])

    def from_images(self, images: torch.Tensor) -> torch.Tensor:
        """Convert images in [-1, 1] to the process's pixels."""
        black = self.settings.black
        return (images + 1.0) / 2.0 * (WHITE - black) + black

    def to_images(self, x: torch.Tensor) -> torch.Tensor:
        """Invert `from_images`."""
        black = self.settings.black
        return (x - black) / (WHITE - black) * 2.0 - 1.0

    def _raw(self, x: torch.Tensor, c_noise: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Return F in the dtype of x, whatever the network's own precision."""
        raw: torch.Tensor = self.network(x, c_noise) if labels is None else self.network(x, c_noise, labels)
        return raw.to(x.dtype)

    def _weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the weight of the loss at sigma (N,): 1, or min-SNR's, by what F predicts (Hang et al. 2023)."""
        gamma = self.settings.min_snr_gamma
        if gamma is None:
            return torch.ones_like(sigma)
        snr = sigma**-2
        scale = {"epsilon": snr, "v": snr + 1.0, "sample": torch.ones_like(snr)}[self.settings.name]
        return snr.clamp_max(gamma) / scale


def build_denoiser(network: nn.Module, model: Mapping[str, Any], training: Mapping[str, Any]) -> Denoiser:
    """Return the denoiser of a network of `model` (an entry of `models:`), preconditioned as `training` says."""
    settings = {
        "name": training["preconditioning"],
        "sigma_data": training["sigma_data"],
        "black": training["black"],
        "noise_scale": EDM_NOISE_SCALE[model["family"]],
    }
    optional = ("noise_schedule", "min_snr_gamma", *NOISE_LEVELS)
    settings |= {key: training[key] for key in optional if key in training}
    settings |= {key: model["network"][key] for key in ("sigma",) if key in model["network"]}
    return Denoiser(network, build(PreconditioningSettings, settings, "training"))


def _column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]
