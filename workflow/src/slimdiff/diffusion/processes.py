"""Forward processes: the variance-exploding SDE of the NCSN and the variance-preserving process of DDPM.

The package works on x = x_0 + sigma·noise. The VE SDE has that form; DDPM's x_t = sqrt(alpha_bar_t)·x_0 +
sqrt(1 - alpha_bar_t)·noise takes it when divided by sqrt(alpha_bar_t). One denoiser and one family of
samplers then serve every parametrization.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.catalog.samplers import TIMESTEPS
from slimdiff.catalog.schedules import schedule_faults
from slimdiff.errors import UserError, refuse

TIME_MIN = 1e-5  # where training and the probability-flow ODE stop: at t = 0 the score is undefined


@dataclass(frozen=True)
class VESDE:
    """dx = sigma^t dw, t in [0, 1] (Song et al. 2021, as in Song's tutorial); x_t = x_0 + marginal_std(t)·noise."""

    sigma: float = 25.0  # base

    def marginal_std(self, t: torch.Tensor) -> torch.Tensor:
        """Return the standard deviation of p(x_t | x_0): sqrt((sigma^2t - 1) / (2 ln sigma))."""
        log_sigma = math.log(self.sigma)
        return torch.sqrt(torch.expm1(2.0 * log_sigma * t) / (2.0 * log_sigma))

    def time(self, std: torch.Tensor) -> torch.Tensor:
        """Return the t with this marginal standard deviation: the inverse of `marginal_std`."""
        log_sigma = math.log(self.sigma)
        return torch.log1p(2.0 * log_sigma * std**2) / (2.0 * log_sigma)

    def diffusion(self, t: torch.Tensor) -> torch.Tensor:
        """Return g(t) = sigma^t."""
        return torch.exp(math.log(self.sigma) * t)


def _linear() -> torch.Tensor:
    return torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)


def _cosine() -> torch.Tensor:
    t = torch.arange(TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999)


NOISE_SCHEDULES = {
    "linear": _linear,  # Ho et al. 2020
    "cosine": _cosine,  # Nichol and Dhariwal 2021, eq. 17
}


def betas(schedule: str) -> torch.Tensor:
    """Return the variances of the forward steps, float64 (1000,); raise UserError for an unknown schedule."""
    if schedule not in NOISE_SCHEDULES:
        raise UserError(f"training.noise_schedule is {schedule!r}; allowed: {', '.join(NOISE_SCHEDULES)}")
    return NOISE_SCHEDULES[schedule]()


def _of_diffusers(schedule: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the variances of the steps and their alpha_bar, float64 (T,), with the values of diffusers' float32.

    Raises:
        UserError: an option is unknown or out of range, or the noise does not grow from step to step.
    """
    refuse(schedule_faults(schedule), "training", "noise_schedule")
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler(**schedule)
    alphas_cumprod = scheduler.alphas_cumprod.double()
    if not (alphas_cumprod.diff() < 0).all() or not 0 < alphas_cumprod[-1] < alphas_cumprod[0] < 1:
        raise UserError(
            "training.noise_schedule ends without any signal, or has a step without noise; allowed: alpha_bar that "
            "falls with each step and stays above 0"
        )
    return scheduler.betas.double(), alphas_cumprod


class VP:
    """DDPM's process under a noise schedule, in terms of sigma.

    Args:
        schedule: a name in NOISE_SCHEDULES, or options of diffusers' schedulers (slimdiff.catalog.schedules.SCHEDULE).
    """

    def __init__(self, schedule: str | Mapping[str, Any]) -> None:
        if isinstance(schedule, str):
            self.betas = betas(schedule)
            self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)
        else:
            self.betas, self.alphas_cumprod = _of_diffusers(schedule)
        self.sigmas = torch.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod)  # ascending, float64
        self._log_sigmas = self.sigmas.log()  # kept on the device of the last call, so that it is copied there once

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the step t with this noise level, (N,) → (N,): linear in ln sigma between steps, clamped beyond."""
        self._log_sigmas = log_sigmas = self._log_sigmas.to(sigma.device)
        log_sigma = sigma.double().log().clamp(log_sigmas[0], log_sigmas[-1])
        above = torch.searchsorted(log_sigmas, log_sigma).clamp(1, len(log_sigmas) - 1)
        low, high = log_sigmas[above - 1], log_sigmas[above]
        return (above - 1 + (log_sigma - low) / (high - low)).to(sigma.dtype)
