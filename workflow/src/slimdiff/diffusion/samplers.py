"""Samplers by name: each takes a guided denoiser, the images' own noise and settings.

Every step uses an image's own noise and nothing of its neighbours (the tutorial's predictor-corrector takes a mean over
the batch, and its ODE solver one step size for all), so an image does not depend on the batch it was made in.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.dopri5 import solve
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.schedulers import SCHEDULERS, Shape, run_scheduler
from slimdiff.diffusion.ve import TIME_MIN
from slimdiff.errors import UserError

SDE_TIME_END = 1e-3  # where the tutorial's stochastic samplers stop


@dataclass(frozen=True)
class SamplerSettings:
    """Which sampler and its constants; those that a method does not use are ignored."""

    method: str
    steps: int = 10  # all but ode
    sigma_min: float | None = None  # heun, euler; None: what the training covered
    sigma_max: float | None = None
    rho: float = 7.0  # heun, euler: how the noise levels crowd towards sigma_min
    grid: int | None = None  # euler: a multiple of steps, of so many steps' levels it takes some; None: as many
    snr: float = 0.16  # predictor-corrector: signal-to-noise ratio of the corrector's step
    tolerance: float = 1e-5  # ode: absolute and relative
    guidance: float = 1.0  # scale of classifier-free guidance: 0 ignores the labels, 1 is plainly conditional
    clip: bool = False  # keep every estimate of x_0 within black and white
    reuse: int = 1  # evaluations of a U-Net that share the features of one (slimdiff.inference.deepcache); 1: none do
    precision: str = "float32"  # of the network: float32, bfloat16 or auto


@dataclass(frozen=True)
class SamplerResult:
    """Where sampling ended."""

    x: torch.Tensor  # (N, C, S, S) in the process's pixel range
    evaluations: torch.Tensor  # (N,) calls of the denoiser spent on each image


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> torch.Tensor:
    """Noise levels from sigma_max down to sigma_min and a final 0: (steps + 1,), Karras et al. 2022, eq. 5."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def thinned_sigmas(steps: int, grid: int | None, sigma_min: float, sigma_max: float, rho: float) -> torch.Tensor:
    """Every (grid / steps)-th of the noise levels that `grid` steps have, and the final 0: (steps + 1,).

    The levels are equidistant in sigma^(1 / rho), and so is this choice of them; but its last step begins higher than
    sigma_min, where a step to 0 still changes something. None: as many levels as steps.
    """
    grid = steps if grid is None else grid
    if grid % steps:
        raise UserError(f"sampler.grid is {grid}; allowed with sampler.steps {steps}: a multiple of it, or null")
    return karras_sigmas(grid, sigma_min, sigma_max, rho)[:: grid // steps]


def sigma_limits(denoiser: Denoiser | Guided, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """The least and the greatest noise level that were asked for; None: the one that the training covered."""
    low, high = denoiser.sigma_range()
    return low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max


def heun(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1): 2·steps - 1 evaluations."""
    low, high = sigma_limits(denoiser, settings.sigma_min, settings.sigma_max)
    sigmas = karras_sigmas(settings.steps, low, high, settings.rho).tolist()
    x = noise.normal(shape) * sigmas[0]
    n = x.shape[0]
    for sigma, sigma_next in itertools.pairwise(sigmas):
        slope = (x - denoiser(x, x.new_full((n,), sigma))) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - denoiser(x_next, x.new_full((n,), sigma_next))) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    return SamplerResult(x, torch.full((n,), 2 * settings.steps - 1))


def euler(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """Euler's method on the probability-flow ODE: `steps` evaluations.

    It is Karras et al. 2022, algorithm 1, without its correction, and DDIM (Song et al. 2021, equation 13) in
    variables of exploding variance.
    """
    low, high = sigma_limits(denoiser, settings.sigma_min, settings.sigma_max)
    sigmas = thinned_sigmas(settings.steps, settings.grid, low, high, settings.rho).tolist()
    x = noise.normal(shape) * sigmas[0]
    n = x.shape[0]
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = x + (sigma_next - sigma) * (x - denoiser(x, x.new_full((n,), sigma))) / sigma
    return SamplerResult(x, torch.full((n,), settings.steps))


def euler_maruyama(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """The reverse SDE in `steps` equal steps of t, from 1 to 1e-3; the last step's noise is left out."""
    x = _prior(denoiser, noise, shape)
    times, dt = _times(settings.steps, x)
    mean = x
    for t in times:
        mean = x + _drift(denoiser, x, t) * dt
        x = mean + dt.sqrt() * denoiser.sde.diffusion(t) * noise.normal(shape)
    return SamplerResult(mean, torch.full((x.shape[0],), settings.steps))


def predictor_corrector(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """One Langevin step, then one reverse-SDE step, at each time (Song et al. 2021, algorithms 2 and 4)."""
    x = _prior(denoiser, noise, shape)
    times, dt = _times(settings.steps, x)
    mean = x
    for t in times:
        # corrector: a step length that gives the noise `snr` times the score's norm, per image
        score = _score(denoiser, x, t)
        draw = noise.normal(shape)
        ratio = settings.snr * draw.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
        step = (2 * ratio.square())[:, None, None, None]
        x = x + step * score + (2 * step).sqrt() * draw
        # predictor
        mean = x + _drift(denoiser, x, t) * dt
        x = mean + dt.sqrt() * denoiser.sde.diffusion(t) * noise.normal(shape)
    return SamplerResult(mean, torch.full((x.shape[0],), 2 * settings.steps))


def ode(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """The probability-flow ODE from t = 1 to 1e-5 by an adaptive Runge-Kutta method, each image at its own pace."""
    start = _prior(denoiser, noise, shape)

    def slope(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        sigma = denoiser.sde.marginal_std(t)
        x_0 = denoiser(x.float(), sigma.float()).double()
        gain = denoiser.sde.diffusion(t).square() / (2 * sigma.square())
        return gain[:, None, None, None] * (x - x_0)

    end, evaluations = solve(slope, start.double(), 1.0, TIME_MIN, settings.tolerance)
    return SamplerResult(end.float(), evaluations)


def scheduled(
    denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings, method: str
) -> SamplerResult:
    """One of diffusers' schedulers."""
    x, calls = run_scheduler(method, denoiser, noise, shape, settings.steps)
    return SamplerResult(x, torch.full((x.shape[0],), calls))


Sampler = Callable[[Guided, ImageNoise, Shape, SamplerSettings], SamplerResult]
SAMPLERS: dict[str, Sampler] = {
    "heun": heun,
    "euler": euler,
    "euler-maruyama": euler_maruyama,
    "predictor-corrector": predictor_corrector,
    "ode": ode,
    **{method: functools.partial(scheduled, method=method) for method in SCHEDULERS},
}


def expected_calls(settings: SamplerSettings) -> int | None:
    """How often the sampler calls its denoiser for a batch; None where that shows only while it runs."""
    if settings.method == "ode":
        return None
    if settings.method == "heun":
        return 2 * settings.steps - 1
    return 2 * settings.steps if settings.method == "predictor-corrector" else settings.steps


def find_sampler(method: str) -> Sampler:
    """The sampler of this name."""
    if method not in SAMPLERS:
        raise UserError(f"sampler.method is {method!r}; allowed: {', '.join(SAMPLERS)}")
    return SAMPLERS[method]


def _prior(denoiser: Guided, noise: ImageNoise, shape: Shape) -> torch.Tensor:
    draw = noise.normal(shape)
    return draw * denoiser.sde.marginal_std(draw.new_ones(()))


def _times(steps: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    times = torch.linspace(1.0, SDE_TIME_END, steps, device=like.device)
    return times, times[0] - times[1]


def _score(denoiser: Guided, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The score of p(x_t): (D(x) - x) / sigma², Karras et al. 2022, eq. 3."""
    sigma = denoiser.sde.marginal_std(t)
    return (denoiser(x, sigma.expand(x.shape[0])) - x) / sigma.square()


def _drift(denoiser: Guided, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """g(t)² times the score: what the reverse SDE adds per unit of time."""
    return denoiser.sde.diffusion(t).square() * _score(denoiser, x, t)
