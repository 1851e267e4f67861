"""Distillation: a training whose student does in one step of Euler what its frozen start, the teacher, does in several.

Progressive distillation (Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models",
algorithm 2), with the teacher's guidance folded into the student (Meng et al. 2023, "On Distillation of Guided
Diffusion Models"; their two stages in one, for a single scale). In variables of exploding variance, where
x = x_0 + sigma·noise, one step of Euler from sigma to s with the estimate D ends at

    x + (s - sigma) (x - D) / sigma = r x + (1 - r) D,    r = s / sigma.

So the student ends where the teacher does, at y, when its estimate is D = (y - r x) / (1 - r), which is the target of
their algorithm 2 with alpha = 1. The last step has s = 0 and the target y.

The loss is the denoiser's own, weighted with 1 / c_out² = 1 / sigma² + 1 / sigma_data². That is Salimans and Ho's
"SNR + 1" in units of the data's spread: a weight of SNR alone would vanish at the largest noise, where a student of few
steps matters most, and this one does not. It also asks for the same error of the network at each level, so that a
network that was trained with it starts with gradients of the usual size.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.samplers import sigma_limits, thinned_sigmas
from slimdiff.errors import UserError
from slimdiff.training.hooks import TrainingHooks


@dataclass(frozen=True)
class DistillSettings:
    """Settings of `distill`."""

    steps: int  # of the student
    teacher: str  # heun | euler: the teacher's solver
    substeps: int  # of the teacher within one of the student
    grid: int  # all steps' noise levels are some of the levels of so many steps: a multiple of steps · substeps
    sigma_min: float | None  # of that grid; None: what the training covered
    sigma_max: float | None
    rho: float
    guidance: float = 1.0  # of the teacher, folded into the student


class Distill(TrainingHooks):
    """The student learns where its teacher gets to; the teacher never changes and is no part of a training's state.

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
        self.teacher = copy.deepcopy(start).eval().requires_grad_(False)

    def levels(self, denoiser: Denoiser) -> torch.Tensor:
        """The teacher's noise levels and a final 0, (steps · substeps + 1,); the student has every substeps-th."""
        settings = self.settings
        low, high = sigma_limits(denoiser, settings.sigma_min, settings.sigma_max)
        return thinned_sigmas(settings.steps * settings.substeps, settings.grid, low, high, settings.rho).float()

    def training_sigmas(self, denoiser: Denoiser, n: int, generator: torch.Generator) -> torch.Tensor:
        """Where the student's steps begin, each as likely as the others: (n,)."""
        begins = self.levels(denoiser)[: -1 : self.settings.substeps]
        return begins[torch.randint(self.settings.steps, (n,), generator=generator)]

    def loss(
        self,
        denoiser: Denoiser,
        x_0: torch.Tensor,
        sigma: torch.Tensor,
        noise: torch.Tensor,
        labels: torch.Tensor | None,
    ) -> torch.Tensor:
        """The denoiser's loss against what the teacher asks for instead of x_0, per image (N,)."""
        x = x_0 + sigma[:, None, None, None] * noise
        return denoiser.regression(x, sigma, self.target(denoiser, x, sigma, labels), labels)

    @torch.no_grad()
    def target(
        self, denoiser: Denoiser, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """The estimate whose step of Euler ends where the teacher's steps do.

        Args:
            x: (N, C, S, S), images with noise.
            sigma: (N,), levels where steps of the student begin.
            labels: (N,), what the student is told of its images; the teacher is guided to the same.
        """
        substeps, levels = self.settings.substeps, self.levels(denoiser).to(x)
        first = substeps * (sigma[:, None] - levels[:-1:substeps]).abs().argmin(dim=1)
        guided = Guided(Denoiser(self.teacher.to(x.device), denoiser.settings), labels, self.settings.guidance)
        y = x
        for done in range(substeps):
            y = SOLVERS[self.settings.teacher](guided, y, levels[first + done], levels[first + done + 1])
        r = (levels[first + substeps] / sigma)[:, None, None, None]
        return (y - r * x) / (1.0 - r)


def _euler_step(guided: Guided, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """One step of slimdiff.diffusion.samplers.euler, of each image between levels of its own, (N,)."""
    return x + (sigma_next - sigma)[:, None, None, None] * _slope(guided, x, sigma)


def _heun_step(guided: Guided, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """One step of slimdiff.diffusion.samplers.heun: without a correction where it ends at 0."""
    slope, step = _slope(guided, x, sigma), (sigma_next - sigma)[:, None, None, None]
    ahead, ends = x + step * slope, sigma_next > 0
    if not bool(ends.any()):
        return ahead
    slope_next = _slope(guided, ahead, torch.where(ends, sigma_next, sigma))
    return torch.where(ends[:, None, None, None], x + step * (slope + slope_next) / 2, ahead)


def _slope(guided: Guided, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """dx / dsigma of the probability-flow ODE, Karras et al. 2022, equation 3."""
    return (x - guided(x, sigma)) / sigma[:, None, None, None]


SOLVERS: dict[str, Callable[[Guided, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "heun": _heun_step,
    "euler": _euler_step,
}
