"""Consistency tuning of a trained denoiser, for sampling in one or two steps.

A consistency function f(x, t) is the end, at noise level 0, of the probability-flow ODE through x at noise level t.
Its boundary condition f(x, 0) = x holds for EDM preconditioning as it is. Tuning starts from a denoiser D and pulls
f(x_t, t) towards f(x_r, r) at a lower noise level r of the same trajectory. At r = 0 the target is x_r itself. The gaps
between t and r narrow in stages. What leads from x_t to x_r:

- `data`: x_r = x_0 + r noise (Geng et al. 2024, "Consistency Models Made Easy"; no EMA of the targets). A step towards
  x_0 is right on average alone, so gaps must be small, and training long. Guided, the step is towards
  x_0 + (scale - 1) (D(x_t, label) - D(x_t, no label)), by the frozen start.
- `euler`, `heun`: a step of that solver along the ODE of the frozen start, guided as in sampling: consistency
  distillation (Song et al. 2023, "Consistency Models", algorithm 2). Gaps can be as large as a sampler's steps.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from slimdiff.diffusion.denoiser import NO_LABEL, Denoiser, NoisyBatch
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.samplers import SOLVERS
from slimdiff.errors import UserError
from slimdiff.training.hooks import TrainingHooks

SIGMA_DATA = 0.5  # of the images for which Geng et al. state k, b and c


@dataclass(frozen=True)
class ConsistencySettings:
    """Settings of `distill` with method consistency; noise levels are in units of images with sigma_data 0.5."""

    method: str
    trajectory: str  # data | euler | heun: what leads from x_t to x_r
    q: float  # factor by which a stage narrows the relative gap (t - r) / t
    stages: int  # of equal length; the first gap is n(t) / q, the last one n(t) / q^stages
    k: float  # n(t) = 1 + k sigmoid(-b t): wider relative gaps at low noise levels
    b: float
    c: float  # of the pseudo-Huber distance sqrt(|x|² + c²) - c; 0: the Euclidean distance
    weighting: str  # gap: 1 / (t - r) | edm: 1 / t² + 1 / sigma_data², less on low noise levels
    guidance: float = 1.0  # guidance scale of the targets
    guidance_interval: Sequence[float] | None = None  # noise levels whose targets are guided; None: all


class ConsistencyTuning(TrainingHooks):
    """Tune a denoiser into a consistency function.

    Args:
        start: the denoiser's network, which is copied and frozen, for the targets.
    """

    def __init__(self, settings: ConsistencySettings, start: nn.Module) -> None:
        if settings.trajectory not in ("data", *SOLVERS):
            allowed = ", ".join(("data", *SOLVERS))
            raise UserError(f"distill.trajectory is {settings.trajectory!r}; allowed: {allowed}")
        self.settings = settings
        self.solver = SOLVERS.get(settings.trajectory)
        unused = self.solver is None and settings.guidance == 1.0
        self.start = None if unused else copy.deepcopy(start).eval().requires_grad_(False)

    def lower_sigmas(self, denoiser: Denoiser, sigma: torch.Tensor, progress: float) -> torch.Tensor:
        """Return r = t (1 - n(t) / q^a) for t (N,), at least 0, in stage a from 1: the schedule of Geng et al.

        Args:
            progress: fraction of the training's steps that are done, below 1.
        """
        settings = self.settings
        t = sigma * (SIGMA_DATA / denoiser.settings.sigma_data)
        stage = int(progress * settings.stages) + 1
        gap = (1.0 + settings.k * torch.sigmoid(-settings.b * t)) / settings.q**stage
        return (sigma * (1.0 - gap)).clamp_min(0.0)

    def loss(self, denoiser: Denoiser, batch: NoisyBatch, progress: float) -> torch.Tensor:
        """Return the weighted distance of f(x_t, t) from f(x_r, r), per image (N,)."""
        x, sigma, labels = batch.x, batch.sigma, batch.labels
        lower = self.lower_sigmas(denoiser, sigma, progress)
        with torch.no_grad():
            x_r = self.step(denoiser, batch, lower)
            # c_noise of 0 is infinite; there x_r is the target
            end = denoiser(x_r, torch.where(lower > 0, lower, sigma), labels)
            end = torch.where((lower > 0)[:, None, None, None], end, x_r)
        distance = (denoiser(x, sigma, labels) - end).flatten(1).square().sum(1)
        # at a distance of 0 the gradient of a plain root would be NaN
        c = max(self.settings.c * denoiser.settings.sigma_data / SIGMA_DATA, torch.finfo(torch.float32).tiny ** 0.5)
        return self.weight(denoiser, sigma, lower) * ((distance + c**2).sqrt() - c)

    def weight(self, denoiser: Denoiser, sigma: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
        """Return the weight of the distance between the functions at noise levels `sigma` and `lower`, each (N,)."""
        if self.settings.weighting == "gap":
            return 1.0 / (sigma - lower)
        return sigma**-2 + denoiser.settings.sigma_data**-2

    def step(self, denoiser: Denoiser, batch: NoisyBatch, lower: torch.Tensor) -> torch.Tensor:
        """Return x_r (N, C, S, S) of noise level `lower` (N,) on the trajectory through the noisy images."""
        x, sigma, labels = batch.x, batch.sigma, batch.labels
        frozen = denoiser if self.start is None else Denoiser(self.start.to(x.device), denoiser.settings)
        scale, interval = self.settings.guidance, self.settings.guidance_interval
        if self.solver is not None:
            return self.solver(Guided(frozen, labels, scale, interval=interval), x, sigma, lower)
        estimate = batch.x_0
        low, high = interval or (0.0, float("inf"))
        chosen = ((low <= sigma) & (sigma <= high)).nonzero().squeeze(1)
        if self.start is not None and labels is not None and len(chosen):
            both = torch.cat([labels[chosen], torch.full_like(labels[chosen], NO_LABEL)])
            ends = frozen(torch.cat([x[chosen], x[chosen]]), torch.cat([sigma[chosen], sigma[chosen]]), both)
            conditional, unconditional = ends.chunk(2)
            estimate = batch.x_0.index_add(0, chosen, conditional - unconditional, alpha=scale - 1.0)
        return torch.lerp(estimate, x, (lower / sigma)[:, None, None, None])
