"""Consistency tuning of a trained denoiser (Geng et al. 2024, "Consistency Models Made Easy").

A consistency function f(x, t) is the end, at noise level 0, of the probability-flow ODE through x at noise level t, so
one evaluation draws an image. Its boundary condition f(x, 0) = x holds for EDM preconditioning as it is. Tuning starts
from a denoiser D and pulls f(x_t, t) towards f(x_r, r), of the same image and noise at a lower noise level r. The gaps
between t and r narrow in stages. At r = 0 the target is the image itself, as in the denoiser's own loss.

Targets can have classifier-free guidance, by the frozen start: x_r lies on the line from x_t to the estimate
x_0 + (scale - 1) (D(x_t, label) - D(x_t, no label)). Without guidance that is x_0, and x_r is x_0 + r noise.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from slimdiff.diffusion.denoiser import NO_LABEL, Denoiser
from slimdiff.training.hooks import TrainingHooks

SIGMA_DATA = 0.5  # of the images for which Geng et al. state k, b, c and the distribution of noise levels


@dataclass(frozen=True)
class ConsistencySettings:
    """Settings of `distill` with method consistency; noise levels are in units of images with sigma_data 0.5."""

    method: str
    q: float  # factor by which a stage narrows the relative gap (t - r) / t
    stages: int  # of equal length; the first gap is n(t) / q, the last one n(t) / q^stages
    k: float  # n(t) = 1 + k sigmoid(-b t): wider relative gaps at low noise levels
    b: float
    c: float  # of the pseudo-Huber distance sqrt(|x|² + c²) - c; 0: the Euclidean distance
    log_sigma_mean: float  # of the normal distribution of ln t
    log_sigma_std: float
    guidance: float = 1.0  # guidance scale of the targets
    guidance_interval: Sequence[float] | None = None  # noise levels whose targets are guided; None: all


class ConsistencyTuning(TrainingHooks):
    """Tune a denoiser into a consistency function.

    Args:
        start: the denoiser's network, which is copied: it guides the targets and is not trained.
    """

    def __init__(self, settings: ConsistencySettings, start: nn.Module) -> None:
        self.settings = settings
        self.guide = None if settings.guidance == 1.0 else copy.deepcopy(start).eval().requires_grad_(False)

    def training_sigmas(self, denoiser: Denoiser, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw noise levels t (n,) from a log-normal distribution."""
        logarithms = torch.randn(n, generator=generator) * self.settings.log_sigma_std + self.settings.log_sigma_mean
        return logarithms.exp() * (denoiser.settings.sigma_data / SIGMA_DATA)

    def lower_sigmas(self, denoiser: Denoiser, sigma: torch.Tensor, progress: float) -> torch.Tensor:
        """Return r = t (1 - n(t) / q^a) for t (N,), at least 0, in stage a from 1: Geng et al., section 3.2.

        Args:
            progress: fraction of the training's steps that are done, below 1.
        """
        settings = self.settings
        t = sigma * (SIGMA_DATA / denoiser.settings.sigma_data)
        stage = int(progress * settings.stages) + 1
        gap = (1.0 + settings.k * torch.sigmoid(-settings.b * t)) / settings.q**stage
        return (sigma * (1.0 - gap)).clamp_min(0.0)

    def loss(
        self,
        denoiser: Denoiser,
        x_0: torch.Tensor,
        sigma: torch.Tensor,
        noise: torch.Tensor,
        labels: torch.Tensor | None,
        progress: float,
    ) -> torch.Tensor:
        """Return the distance of f(x_t, t) from f(x_r, r), divided by t - r, per image (N,)."""
        x = x_0 + sigma[:, None, None, None] * noise
        lower = self.lower_sigmas(denoiser, sigma, progress)
        with torch.no_grad():
            estimate = self.guided(denoiser, x_0, x, sigma, labels)
            x_r = torch.lerp(estimate, x, (lower / sigma)[:, None, None, None])
            # c_noise of 0 is infinite; there x_r is the target
            end = denoiser(x_r, torch.where(lower > 0, lower, sigma), labels)
            end = torch.where((lower > 0)[:, None, None, None], end, x_r)
        distance = (denoiser(x, sigma, labels) - end).flatten(1).square().sum(1)
        # at a distance of 0 the gradient of a plain root would be NaN
        c = max(self.settings.c * denoiser.settings.sigma_data / SIGMA_DATA, torch.finfo(torch.float32).tiny ** 0.5)
        return ((distance + c**2).sqrt() - c) / (sigma - lower)

    def guided(
        self,
        denoiser: Denoiser,
        x_0: torch.Tensor,
        x: torch.Tensor,
        sigma: torch.Tensor,
        labels: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the estimate of x_0 that the target's line goes to: x_0, moved by the start's guidance."""
        if self.guide is None or labels is None:
            return x_0
        low, high = self.settings.guidance_interval or (0.0, float("inf"))
        chosen = ((low <= sigma) & (sigma <= high)).nonzero().squeeze(1)
        if not len(chosen):
            return x_0
        x, sigma, labels = x[chosen], sigma[chosen], labels[chosen]
        both = torch.cat([labels, torch.full_like(labels, NO_LABEL)])
        start = Denoiser(self.guide.to(x.device), denoiser.settings)
        conditional, unconditional = start(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
        return x_0.index_add(0, chosen, conditional - unconditional, alpha=self.settings.guidance - 1.0)
