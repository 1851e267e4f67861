"""Samplers: the options of each and its number of network evaluations. Free of torch, as the rules must be.

slimdiff.diffusion.samplers holds the algorithms, under the same names.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimdiff.catalog.families import divisors

TIMESTEPS = 1000  # of DDPM's noise schedule, unless a model's own has others
SAMPLER_ALWAYS = ("precision",)  # options of every sampler of every family
SAMPLER_OPTIONAL = ("guide",)  # the same, which a cell's settings hold if they are given


@dataclass(frozen=True, slots=True)
class SamplerFacts:
    """What a sampler uses and costs."""

    options: tuple[str, ...]  # a cell's settings leave out all others, so editing those reruns nothing
    evaluations: Callable[[int], int] | None = lambda steps: steps  # of the denoiser; None: known only afterwards
    scheduled: bool = False  # steps through a noise schedule of TIMESTEPS
    stochastic: bool = False  # draws noise at every step, not only for its start
    optional: tuple[str, ...] = ()  # options that a cell's settings hold if they are given
    min_steps: int = 1  # with fewer it has no step, or its only one is at the smallest noise level
    corrects: bool = False  # evaluates the end of a step, then the same noise level again for the corrected image

    @property
    def takes_steps(self) -> bool:
        """Whether `steps` sets the number of steps; if not, the sampler controls its own."""
        return "steps" in self.options


SAMPLER_FACTS = {
    "heun": SamplerFacts(("steps", "sigma_min", "sigma_max", "rho"), lambda steps: 2 * steps - 1, corrects=True),
    "euler": SamplerFacts(("steps", "sigma_min", "sigma_max", "rho", "grid")),
    "euler-maruyama": SamplerFacts(("steps",), stochastic=True, min_steps=2),
    "predictor-corrector": SamplerFacts(("steps", "snr"), lambda steps: 2 * steps, stochastic=True, min_steps=2),
    "consistency": SamplerFacts(("steps", "sigma_max"), stochastic=True, optional=("renoise",)),
    "ode": SamplerFacts(("tolerance",), None),
    "ddpm": SamplerFacts(("steps",), scheduled=True, stochastic=True, optional=("scheduler",), min_steps=2),
    "ddim": SamplerFacts(("steps",), scheduled=True, optional=("scheduler",)),
    "dpm-solver++": SamplerFacts(("steps",), scheduled=True, optional=("scheduler",)),
    "unipc": SamplerFacts(("steps",), scheduled=True, optional=("scheduler",)),
}


def steps_problem(method: str, steps: int, timesteps: int = TIMESTEPS) -> str | None:
    """Return what is wrong with the `steps` of a sampler, as in "is 15; allowed …"; None if nothing is.

    Args:
        timesteps: of the model's noise schedule.
    """
    if method == "ddim" and timesteps % steps:  # ddim's steps must be of equal length
        return f"is {steps}; allowed for {method}: {divisors(timesteps)}"
    if steps < SAMPLER_FACTS[method].min_steps:
        return f"is {steps}; allowed for {method}: {SAMPLER_FACTS[method].min_steps} or more"
    if SAMPLER_FACTS[method].scheduled and steps > timesteps:
        return f"is {steps}; allowed for {method}: up to {timesteps}"
    return None


def renoise_problem(renoise: Sequence[float], steps: int) -> str | None:
    """Return what is wrong with the `renoise` of sampler consistency, as `steps_problem` does."""
    if len(renoise) != steps - 1 or any(after >= before for before, after in itertools.pairwise(renoise)):
        count = f"{steps - 1} noise levels, one for each step but the first, the largest first"
        return f"is {list(renoise)}; allowed with {steps} steps: {count}"
    return None
