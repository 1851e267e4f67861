"""The variance-preserving process of DDPM: x_t = sqrt(alpha_bar_t)·x_0 + sqrt(1 - alpha_bar_t)·noise, t = 0 … 999.

Divided by sqrt(alpha_bar_t) it is x_0 plus noise of standard deviation sigma_t, the form that the rest of the package
works in: one denoiser and one family of samplers then serve every parametrization.
"""

import math

import torch

from slimdiff.errors import UserError

TIMESTEPS = 1000


def _linear() -> torch.Tensor:
    return torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)


def _cosine() -> torch.Tensor:
    t = torch.arange(TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999)


SCHEDULES = {
    "linear": _linear,  # Ho et al. 2020
    "cosine": _cosine,  # Nichol and Dhariwal 2021, eq. 17
}


def betas(schedule: str) -> torch.Tensor:
    """The variances of the forward steps, float64 (1000,)."""
    if schedule not in SCHEDULES:
        raise UserError(f"training.noise_schedule is {schedule!r}; allowed: {', '.join(SCHEDULES)}")
    return SCHEDULES[schedule]()


class VP:
    """The process under a noise schedule, in terms of sigma."""

    def __init__(self, schedule: str) -> None:
        self.betas = betas(schedule)
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)
        self.sigmas = torch.sqrt((1.0 - self.alphas_cumprod) / self.alphas_cumprod)  # rising, float64
        self._log_sigmas = self.sigmas.log()  # moves to the device that asks, so that it is copied there once

    def time(self, sigma: torch.Tensor) -> torch.Tensor:
        """The step t at which the noise has this standard deviation, (N,) → (N,): linear in ln sigma between steps,
        and the first or last step's beyond them."""
        self._log_sigmas = log_sigmas = self._log_sigmas.to(sigma.device)
        log_sigma = sigma.double().log().clamp(log_sigmas[0], log_sigmas[-1])
        above = torch.searchsorted(log_sigmas, log_sigma).clamp(1, TIMESTEPS - 1)
        low, high = log_sigmas[above - 1], log_sigmas[above]
        return (above - 1 + (log_sigma - low) / (high - low)).to(sigma.dtype)
