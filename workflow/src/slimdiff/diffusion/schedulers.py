"""Samplers on DDPM's noise schedule: diffusers' schedulers, driven by an estimate of x_0.

A scheduler keeps x_t; the denoiser works on x_t / sqrt(alpha_bar_t). With `prediction_type="sample"` the scheduler
takes x_0 itself, so nothing is converted twice. Noise comes from each image's own generator.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from slimdiff.catalog.samplers import steps_problem
from slimdiff.catalog.schedules import SAMPLING, option_faults
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.errors import UserError, refuse

Shape = tuple[int, int, int]


def _ddpm(options: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    # Ho et al. 2020, section 3.2; of the two variances beta_t, as in the paper's code
    return _build(DDPMScheduler, options, variance_type="fixed_large", clip_sample=False)


def _ddim(options: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    # trailing: few steps start at the noisiest one (Lin et al. 2024), which steps that do not divide 1,000 would miss
    return _build(DDIMScheduler, options, clip_sample=False, timestep_spacing="trailing")


def _dpm_solver(options: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return _build(DPMSolverMultistepScheduler, options, algorithm_type="dpmsolver++", solver_order=2)


def _unipc(options: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    return _build(UniPCMultistepScheduler, options, solver_order=2)


def _build(scheduler: Callable[..., Any], options: Mapping[str, Any], **defaults: Any) -> Any:
    """Return the scheduler with those of `options` that it has, as diffusers' from_config chooses them."""
    known = inspect.signature(scheduler).parameters
    return scheduler(**defaults | {key: value for key, value in options.items() if key in known})


# Imported on use: diffusers takes four seconds to load (docs/decisions).
SCHEDULERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "ddpm": _ddpm,  # ancestral sampling, Ho et al. 2020
    "ddim": _ddim,  # Song et al. 2021
    "dpm-solver++": _dpm_solver,  # Lu et al. 2022, second order, multistep
    "unipc": _unipc,  # Zhao et al. 2023
}
CLIPPING = ("ddpm", "ddim")  # those that clip by themselves


def run_scheduler(
    method: str,
    denoiser: Guided,
    noise: ImageNoise,
    shape: Shape,
    steps: int,
    options: Mapping[str, Any] | None = None,
) -> tuple[torch.Tensor, int]:
    """Return images (N, C, S, S) after `steps` steps of the scheduler, and the number of denoiser calls.

    Args:
        options: of diffusers' schedulers (slimdiff.catalog.schedules.SAMPLING). With them ddpm and ddim clip as
            diffusers does: the estimate of x_0, not the noise that ddim derives from it.

    Raises:
        UserError: `steps` exceeds the schedule's length, or does not divide it for ddim; an option is unknown or out of
            range.
    """
    vp = denoiser.vp
    problem = steps_problem(method, steps, len(vp.betas))
    if problem:
        raise UserError(f"sampler.steps {problem}")
    refuse(option_faults(options or {}, SAMPLING), "sampler", "scheduler")
    given = {"num_train_timesteps": len(vp.betas), "trained_betas": vp.betas.tolist(), "prediction_type": "sample"}
    estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = denoiser
    if options is not None and method in CLIPPING:
        given["clip_sample"], estimate = denoiser.clip, denoiser.unclipped
    scheduler = SCHEDULERS[method]({**(options or {}), **given})
    scheduler.set_timesteps(steps)
    if scheduler.timesteps.max() >= len(vp.betas):
        raise UserError(
            f"sampler.scheduler.steps_offset is {scheduler.config.steps_offset}; allowed with {steps} steps: 0"
        )
    draws = {"generator": noise.generators} if method == "ddpm" else {}
    x = noise.normal(shape)
    for t in scheduler.timesteps.tolist():
        signal = vp.alphas_cumprod[t].sqrt().item()
        sigma = x.new_full((x.shape[0],), vp.sigmas[t].item())
        x = scheduler.step(estimate(x / signal, sigma), t, x, **draws).prev_sample
    return x, len(scheduler.timesteps)
