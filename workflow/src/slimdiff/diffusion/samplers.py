"""Samplers by name. `sample` runs one on a guided denoiser, with noise that belongs to each image.

A step uses an image's own noise and nothing of the other images, so an image does not depend on its batch. The
tutorial's samplers differ: its predictor-corrector averages over the batch, and its ODE solver has one step size for
all. Options and numbers of evaluations are in slimdiff.catalog.samplers.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.catalog.samplers import SAMPLER_FACTS, renoise_problem
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.dopri5 import solve
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.processes import TIME_MIN
from slimdiff.diffusion.schedulers import SCHEDULERS, Shape, run_scheduler
from slimdiff.errors import UserError

SDE_TIME_END = 1e-3  # where the tutorial's stochastic samplers stop


@dataclass(frozen=True)
class SamplerSettings:
    """A sampler and its options; options of other samplers are ignored."""

    method: str
    steps: int = 10  # all but ode
    sigma_min: float | None = None  # heun, euler; None: the smallest noise level of training
    sigma_max: float | None = None  # heun, euler; None: the largest
    rho: float = 7.0  # heun, euler: how densely the noise levels crowd towards sigma_min
    grid: int | None = None  # euler: length of the noise schedule to subsample, a multiple of steps; None: steps
    renoise: Sequence[float] = ()  # consistency: noise levels after the first step, one for each further step
    snr: float = 0.16  # predictor-corrector: signal-to-noise ratio of the corrector's step
    tolerance: float = 1e-5  # ode: absolute and relative
    guidance: float = 1.0  # scale of classifier-free guidance; 0: unconditional, 1: conditional
    guidance_interval: Sequence[float] | None = None  # smallest and largest guided noise level; None: all
    guide: Mapping[str, Any] | None = None  # autoguidance: the `optimization` of the worse network, `scale`; None: off
    clip: bool = False  # clamp every estimate of x_0 to [black, white]
    scheduler: Mapping[str, Any] | None = None  # ddpm to unipc: options of diffusers' scheduler; None: ours
    cache_interval: int = 1  # DeepCache: evaluations that share one set of deep features; 1: off
    precision: str = "float32"  # of the network: float32, bfloat16 or auto


@dataclass(frozen=True)
class SamplerResult:
    """Where sampling ended."""

    x: torch.Tensor  # (N, C, S, S) in the process's pixel range
    evaluations: torch.Tensor  # (N,) calls of the denoiser per image


Level = float | torch.Tensor  # a noise level of the whole batch, or (N,), one for each image


def sample(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """Draw one image for each generator of `noise`.

    Args:
        shape: (C, S, S) of an image.

    Raises:
        UserError: the method is unknown, or does not allow these steps.
        FloatingPointError: `ode` met a NaN, an infinity or too many steps.
    """
    if settings.method not in SAMPLERS:
        raise UserError(f"sampler.method is {settings.method!r}; allowed: {', '.join(SAMPLERS)}")
    return SAMPLERS[settings.method].run(denoiser, noise, shape, settings)


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> torch.Tensor:
    """Return noise levels from sigma_max down to sigma_min and a final 0: (steps + 1,), Karras et al. 2022, eq. 5."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def thinned_sigmas(steps: int, grid: int | None, sigma_min: float, sigma_max: float, rho: float) -> torch.Tensor:
    """Return every (grid / steps)-th of the noise levels of `grid` steps, and the final 0: (steps + 1,).

    Both are equidistant in sigma^(1 / rho). The last step of the thinned levels starts above sigma_min, where a step to
    0 still changes the image. A `grid` of None subsamples nothing.

    Raises:
        UserError: `grid` is no multiple of `steps`.
    """
    grid = steps if grid is None else grid
    if grid % steps:
        raise UserError(f"sampler.grid is {grid}; allowed with sampler.steps {steps}: a multiple of it, or null")
    return karras_sigmas(grid, sigma_min, sigma_max, rho)[:: grid // steps]


def sigma_limits(denoiser: Denoiser | Guided, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """Return the smallest and the largest noise level: the given ones, or those of training for None."""
    low, high = denoiser.sigma_range()
    return low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max


def euler_step(denoiser: Guided, x: torch.Tensor, sigma: Level, sigma_next: Level) -> torch.Tensor:
    """Take one step of Euler's method on the probability-flow ODE."""
    return x + _column(sigma_next - sigma) * _slope(denoiser, x, sigma)


def heun_step(denoiser: Guided, x: torch.Tensor, sigma: Level, sigma_next: Level) -> torch.Tensor:
    """Take one step of Heun's method on the probability-flow ODE: Euler's, corrected unless it ends at 0."""
    slope, step = _slope(denoiser, x, sigma), _column(sigma_next - sigma)
    ahead = x + step * slope
    last = sigma_next == 0
    if last if isinstance(last, bool) else bool(last.all()):
        return ahead
    slope_next = _slope(denoiser, ahead, sigma_next + last * sigma)  # at 0 the slope is undefined, and not used
    corrected = x + step * (slope + slope_next) / 2
    return corrected if isinstance(last, bool) else torch.where(last.reshape(-1, 1, 1, 1), ahead, corrected)


def heun(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1)."""
    low, high = sigma_limits(denoiser, settings.sigma_min, settings.sigma_max)
    sigmas = karras_sigmas(settings.steps, low, high, settings.rho).tolist()
    x = noise.normal(shape) * sigmas[0]
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = heun_step(denoiser, x, sigma, sigma_next)
    return _result(x, settings)


def euler(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """Euler's method on the probability-flow ODE.

    It is Karras et al. 2022, algorithm 1, without its correction, and DDIM (Song et al. 2021, equation 13) in
    variance-exploding variables.
    """
    low, high = sigma_limits(denoiser, settings.sigma_min, settings.sigma_max)
    sigmas = thinned_sigmas(settings.steps, settings.grid, low, high, settings.rho).tolist()
    x = noise.normal(shape) * sigmas[0]
    for sigma, sigma_next in itertools.pairwise(sigmas):
        # euler_step divides first: the last bit of published samples would differ
        x = x + (sigma_next - sigma) * (x - denoiser(x, _levels(x, sigma))) / sigma
    return _result(x, settings)


def consistency(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """Estimate x_0, and again from it with noise of each level of `renoise` (Song et al. 2023, algorithm 1)."""
    if problem := renoise_problem(settings.renoise, settings.steps):
        raise UserError(f"sampler.renoise {problem}")
    _, high = sigma_limits(denoiser, None, settings.sigma_max)
    x = torch.zeros(len(noise.generators), *shape, device=noise.device)
    for sigma in (high, *settings.renoise):
        x = x + sigma * noise.normal(shape)
        x = denoiser(x, _levels(x, sigma))
    return _result(x, settings)


def euler_maruyama(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """The reverse SDE in `steps` equal steps of t, from 1 to 1e-3; the last step adds no noise."""
    x = _prior(denoiser, noise, shape)
    times, dt = _times(settings.steps, x)
    mean = x
    for t in times:
        mean = x + _drift(denoiser, x, t) * dt
        x = mean + dt.sqrt() * denoiser.sde.diffusion(t) * noise.normal(shape)
    return _result(mean, settings)


def predictor_corrector(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """One Langevin step, then one reverse-SDE step, at each time (Song et al. 2021, algorithms 2 and 4)."""
    x = _prior(denoiser, noise, shape)
    times, dt = _times(settings.steps, x)
    mean = x
    for t in times:
        # corrector: the step length makes the noise `snr` times the score's norm, per image
        score = _score(denoiser, x, t)
        draw = noise.normal(shape)
        ratio = settings.snr * draw.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
        step = (2 * ratio.square())[:, None, None, None]
        x = x + step * score + (2 * step).sqrt() * draw
        # predictor
        mean = x + _drift(denoiser, x, t) * dt
        x = mean + dt.sqrt() * denoiser.sde.diffusion(t) * noise.normal(shape)
    return _result(mean, settings)


def ode(denoiser: Guided, noise: ImageNoise, shape: Shape, settings: SamplerSettings) -> SamplerResult:
    """The probability-flow ODE from t = 1 to 1e-5 by an adaptive Runge-Kutta method, with a step size per image."""
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
    x, calls = run_scheduler(method, denoiser, noise, shape, settings.steps, settings.scheduler)
    return SamplerResult(x, torch.full((x.shape[0],), calls))


@dataclass(frozen=True)
class Sampler:
    """The algorithm of a sampler."""

    run: Callable[[Guided, ImageNoise, Shape, SamplerSettings], SamplerResult]
    step: Callable[[Guided, torch.Tensor, Level, Level], torch.Tensor] | None = None  # between any two noise levels


SAMPLERS: dict[str, Sampler] = {
    "heun": Sampler(heun, heun_step),
    "euler": Sampler(euler, euler_step),
    "euler-maruyama": Sampler(euler_maruyama),
    "predictor-corrector": Sampler(predictor_corrector),
    "consistency": Sampler(consistency),
    "ode": Sampler(ode),
    **{method: Sampler(functools.partial(scheduled, method=method)) for method in SCHEDULERS},
}
SOLVERS = {name: sampler.step for name, sampler in SAMPLERS.items() if sampler.step is not None}


def expected_calls(settings: SamplerSettings) -> int | None:
    """Return how often the sampler calls its denoiser for a batch; None: known only afterwards."""
    evaluations = SAMPLER_FACTS[settings.method].evaluations
    return None if evaluations is None else evaluations(settings.steps)


def _result(x: torch.Tensor, settings: SamplerSettings) -> SamplerResult:
    calls = expected_calls(settings)
    assert calls is not None
    return SamplerResult(x, torch.full((x.shape[0],), calls))


def _slope(denoiser: Guided, x: torch.Tensor, sigma: Level) -> torch.Tensor:
    """Return dx / dsigma of the probability-flow ODE, Karras et al. 2022, eq. 3."""
    return (x - denoiser(x, _levels(x, sigma))) / _column(sigma)


def _levels(x: torch.Tensor, sigma: Level) -> torch.Tensor:
    """Return the noise level of each image, (N,)."""
    return x.new_full((x.shape[0],), sigma) if isinstance(sigma, float) else sigma


def _column(level: Level) -> Level:
    return level if isinstance(level, float) else level[:, None, None, None]


def _prior(denoiser: Guided, noise: ImageNoise, shape: Shape) -> torch.Tensor:
    draw = noise.normal(shape)
    return draw * denoiser.sde.marginal_std(draw.new_ones(()))


def _times(steps: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    times = torch.linspace(1.0, SDE_TIME_END, steps, device=like.device)
    return times, times[0] - times[1]


def _score(denoiser: Guided, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return the score of p(x_t): (D(x) - x) / sigma², Karras et al. 2022, eq. 3."""
    sigma = denoiser.sde.marginal_std(t)
    return (denoiser(x, sigma.expand(x.shape[0])) - x) / sigma.square()


def _drift(denoiser: Guided, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return g(t)² times the score: what the reverse SDE adds per unit of time."""
    return denoiser.sde.diffusion(t).square() * _score(denoiser, x, t)
