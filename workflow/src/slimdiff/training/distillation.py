"""Distillation: one Euler step of the student learns several steps of its frozen start, the teacher.

Progressive distillation (Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models",
algorithm 2), with the teacher's guidance folded into the student (Meng et al. 2023, "On Distillation of Guided
Diffusion Models"; their two stages in one, for a single scale). In variance-exploding variables, x = x_0 + sigma·noise,
an Euler step from sigma to s with the estimate D ends at

    x + (s - sigma) (x - D) / sigma = r x + (1 - r) D,    r = s / sigma.

The student ends where the teacher does, at y, if its estimate is D = (y - r x) / (1 - r). That is the target of their
algorithm 2 with alpha = 1. The last step has s = 0 and the target y.

The loss is the denoiser's own, weighted by 1 / c_out² = 1 / sigma² + 1 / sigma_data²: Salimans and Ho's "SNR + 1" in
units of the data's spread. Weighting by SNR alone would vanish at the largest noise levels, which matter most to a
student of few steps. The same weight at each level also keeps the initial gradients of a network trained with this loss
at their usual size.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from slimdiff.diffusion.denoiser import Denoiser, NoisyBatch
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.samplers import SOLVERS, sigma_limits, thinned_sigmas
from slimdiff.errors import UserError
from slimdiff.training.hooks import TrainingHooks


@dataclass(frozen=True)
class DistillSettings:
    """Settings of `distill` with method progressive."""

    steps: int  # Euler steps of the student
    teacher: str  # heun | euler: the teacher's sampler
    substeps: int  # teacher steps per step of the student
    grid: int  # length of the noise schedule to subsample: a multiple of steps · substeps
    sigma_min: float | None  # smallest noise level of the grid; None: that of training
    sigma_max: float | None  # largest noise level of the grid; None: that of training
    rho: float
    method: str = "progressive"
    guidance: float = 1.0  # guidance scale of the teacher, which the student learns
    guidance_interval: Sequence[float] | None = None  # noise levels at which it is guided; None: all


class Distill(TrainingHooks):
    """Train the student on its teacher's trajectory. The teacher is frozen and not part of a training's state.

    Args:
        start: the teacher's network, which is copied.
    """

    def __init__(self, settings: DistillSettings, start: nn.Module) -> None:
        if settings.teacher not in SOLVERS:
            raise UserError(f"distill.teacher is {settings.teacher!r}; allowed: {', '.join(SOLVERS)}")
        if settings.grid % (settings.steps * settings.substeps):
            raise UserError(
                f"distill.grid is {settings.grid}; allowed: multiples of steps · substeps, "
                f"{settings.steps * settings.substeps}"
            )
        self.settings = settings
        self.solver = SOLVERS[settings.teacher]
        self.teacher = copy.deepcopy(start).eval().requires_grad_(False)

    def levels(self, denoiser: Denoiser) -> torch.Tensor:
        """Return the teacher's noise levels and a final 0, (steps · substeps + 1,)."""
        settings = self.settings
        low, high = sigma_limits(denoiser, settings.sigma_min, settings.sigma_max)
        return thinned_sigmas(settings.steps * settings.substeps, settings.grid, low, high, settings.rho).float()

    def training_sigmas(self, denoiser: Denoiser, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw noise levels (n,) uniformly from the starts of the student's steps."""
        begins = self.levels(denoiser)[: -1 : self.settings.substeps]
        return begins[torch.randint(self.settings.steps, (n,), generator=generator)]

    def loss(self, denoiser: Denoiser, batch: NoisyBatch, progress: float) -> torch.Tensor:
        """Return the denoiser's loss against the teacher's target instead of x_0, per image (N,)."""
        x, sigma, labels = batch.x, batch.sigma, batch.labels
        return denoiser.regression(x, sigma, self.target(denoiser, x, sigma, labels), labels)

    @torch.no_grad()
    def target(
        self, denoiser: Denoiser, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the estimate whose Euler step ends where the teacher's steps do.

        Args:
            x: (N, C, S, S), noisy images.
            sigma: (N,), levels where steps of the student begin.
            labels: (N,), for student and teacher.
        """
        substeps, levels = self.settings.substeps, self.levels(denoiser).to(x)
        first = substeps * (sigma[:, None] - levels[:-1:substeps]).abs().argmin(dim=1)
        teacher = Denoiser(self.teacher.to(x.device), denoiser.settings)
        guided = Guided(teacher, labels, self.settings.guidance, interval=self.settings.guidance_interval)
        y = x
        for done in range(substeps):
            y = self.solver(guided, y, levels[first + done], levels[first + done + 1])
        r = (levels[first + substeps] / sigma)[:, None, None, None]
        return (y - r * x) / (1.0 - r)
