"""Samplers on DDPM's noise schedule: diffusers' schedulers, driven by an estimate of x_0.

A scheduler keeps x_t; the denoiser works on x_t / sqrt(alpha_bar_t). With `prediction_type="sample"` the scheduler
takes x_0 itself, so nothing is converted twice. Noise comes from each image's own generator.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from slimdiff.catalog.samplers import steps_problem
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.errors import UserError

Shape = tuple[int, int, int]


def _ddpm(common: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    # Ho et al. 2020, section 3.2; of the two variances beta_t, as in the paper's code
    return DDPMScheduler(**common, variance_type="fixed_large", clip_sample=False)


def _ddim(common: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    # trailing: few steps start at the noisiest one (Lin et al. 2024), which steps that do not divide 1,000 would miss
    return DDIMScheduler(**common, clip_sample=False, timestep_spacing="trailing")


def _dpm_solver(common: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++", solver_order=2)


def _unipc(common: Mapping[str, Any]) -> Any:
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

    return UniPCMultistepScheduler(**common, solver_order=2)


# Imported on use: diffusers takes four seconds to load (docs/decisions).
SCHEDULERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "ddpm": _ddpm,  # ancestral sampling, Ho et al. 2020
    "ddim": _ddim,  # Song et al. 2021
    "dpm-solver++": _dpm_solver,  # Lu et al. 2022, second order, multistep
    "unipc": _unipc,  # Zhao et al. 2023
}


def run_scheduler(
    method: str, denoiser: Guided, noise: ImageNoise, shape: Shape, steps: int
) -> tuple[torch.Tensor, int]:
    """Return images (N, C, S, S) after `steps` steps of the scheduler, and the number of denoiser calls.

    Raises:
        UserError: `steps` exceeds the schedule's length, or does not divide it for ddim.
    """
    problem = steps_problem(method, steps)
    if problem:
        raise UserError(f"sampler.steps {problem}")
    vp = denoiser.vp
    scheduler = SCHEDULERS[method](
        {"num_train_timesteps": len(vp.betas), "trained_betas": vp.betas.tolist(), "prediction_type": "sample"}
    )
    scheduler.set_timesteps(steps)
    draws = {"generator": noise.generators} if method == "ddpm" else {}
    x = noise.normal(shape)
    for t in scheduler.timesteps.tolist():
        signal = vp.alphas_cumprod[t].sqrt().item()
        sigma = x.new_full((x.shape[0],), vp.sigmas[t].item())
        x = scheduler.step(denoiser(x / signal, sigma), t, x, **draws).prev_sample
    return x, len(scheduler.timesteps)
