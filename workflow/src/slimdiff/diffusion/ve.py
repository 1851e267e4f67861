"""The variance-exploding SDE of Song et al. 2021 in the form of Song's tutorial: dx = sigma^t dw, t in [0, 1]."""

import math
from dataclasses import dataclass

import torch

TIME_MIN = 1e-5  # where training and the probability-flow ODE stop: at t = 0 the score is not defined


@dataclass(frozen=True)
class VESDE:
    """The SDE with base `sigma`; x_t = x_0 + marginal_std(t)·noise."""

    sigma: float = 25.0

    def marginal_std(self, t: torch.Tensor) -> torch.Tensor:
        """Standard deviation of p(x_t | x_0): sqrt((sigma^2t - 1) / (2 ln sigma))."""
        log_sigma = math.log(self.sigma)
        return torch.sqrt(torch.expm1(2.0 * log_sigma * t) / (2.0 * log_sigma))

    def time(self, std: torch.Tensor) -> torch.Tensor:
        """The t at which the marginal has this standard deviation: inverse of `marginal_std`."""
        log_sigma = math.log(self.sigma)
        return torch.log1p(2.0 * log_sigma * std**2) / (2.0 * log_sigma)

    def diffusion(self, t: torch.Tensor) -> torch.Tensor:
        """g(t) = sigma^t."""
        return torch.exp(math.log(self.sigma) * t)
