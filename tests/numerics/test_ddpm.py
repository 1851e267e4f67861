"""DDPM's process, parametrizations and samplers against diffusers, published formulas and closed forms."""

import math

import numpy as np
import pytest
import torch
from builders import UNET_SAMPLER, small_unet_model, unet_training
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from slimdiff.catalog.samplers import TIMESTEPS
from slimdiff.diffusion.denoiser import Denoiser, PreconditioningSettings, build_denoiser
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.processes import NOISE_SCHEDULES, VP, betas
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.errors import UserError
from slimdiff.io.settings import build

THEIRS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}  # the schedules' names in diffusers
MEAN, STD = 0.3, 0.4  # of the pixels: independent Gaussians
SHAPE = (1, 12, 12)


def in_diffusers(schedule):
    return {
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": THEIRS[schedule],
        "prediction_type": "epsilon",
    }


def column(values):
    return values[:, None, None, None]


# --- the process


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_alphas_are_those_of_diffusers(schedule):
    theirs = DDPMScheduler(**in_diffusers(schedule)).alphas_cumprod.double()  # computed in float32
    vp = VP(schedule)
    assert vp.alphas_cumprod.dtype == torch.float64
    assert torch.allclose(vp.alphas_cumprod, theirs, rtol=2e-4, atol=0)


def test_the_linear_schedule_equals_ho_et_al():
    found = betas("linear").numpy()
    assert np.allclose(found, 1e-4 + (0.02 - 1e-4) * np.arange(1000) / 999, rtol=1e-12)
    assert float(VP("linear").alphas_cumprod[-1]) == pytest.approx(4.0358e-5, rel=1e-4)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UserError, match=r"training\.noise_schedule is 'sigmoid'; allowed: linear, cosine"):
        betas("sigmoid")


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_sigma_is_the_noise_over_the_signal(schedule):
    vp = VP(schedule)
    assert torch.allclose(vp.alphas_cumprod * (1 + vp.sigmas**2), torch.ones(TIMESTEPS, dtype=torch.float64))


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_time_inverts_every_sigma(schedule, dtype, tolerance):
    vp, steps = VP(schedule), torch.arange(TIMESTEPS, dtype=dtype)
    found = vp.time(vp.sigmas.to(dtype))
    assert found.dtype == dtype
    assert float((found - steps).abs().max()) < tolerance


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_time_rises_between_the_steps_and_stops_beyond_them(schedule):
    vp = VP(schedule)
    low, high = vp.sigmas[:-1], vp.sigmas[1:]
    between = torch.stack([low.lerp(high, share) for share in (0.2, 0.5, 0.8)], 1)
    times = vp.time(between.flatten()).reshape(-1, 3)
    steps = torch.arange(TIMESTEPS - 1, dtype=torch.float64)
    assert bool((times.diff(dim=1) > 0).all())
    assert bool((times > steps[:, None]).all())
    assert bool((times < steps[:, None] + 1).all())
    # the geometric mean of two sigmas is half way
    assert torch.allclose(vp.time((low * high).sqrt()), steps + 0.5, atol=1e-8)
    beyond = torch.tensor([1e-9, float(low[0]) / 2, float(high[-1]) * 2, 1e9], dtype=torch.float64)
    assert vp.time(beyond).tolist() == [0, 0, TIMESTEPS - 1, TIMESTEPS - 1]


# --- parametrizations


class Recorded(torch.nn.Module):
    """A network that outputs `target` and records its inputs."""

    def __init__(self, target=None):
        super().__init__()
        self.target = target

    def forward(self, x, noise_level):
        self.x, self.noise_level = x, noise_level
        return 0.3 * x - 1e-3 * column(noise_level) if self.target is None else self.target


def example(schedule, steps=(0, 1, 250, 600, 900, 999)):
    """Return clean and noisy images at some steps, in float64: x_0, noise, x_t, sqrt(alpha_bar), steps, sigmas."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.rand(len(steps), 1, 5, 5, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
    steps, vp = torch.tensor(steps), VP(schedule)
    signal, spread = column(vp.alphas_cumprod[steps].sqrt()), column((1 - vp.alphas_cumprod[steps]).sqrt())
    return x_0, noise, signal * x_0 + spread * noise, signal, spread, steps, vp.sigmas[steps]


def prediction(name, x_0, noise, signal, spread):
    """Return the output of a perfect network."""
    return noise if name == "epsilon" else signal * noise - spread * x_0


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_a_perfect_prediction_gives_x_0(name, schedule):
    x_0, noise, x_t, signal, spread, steps, sigma = example(schedule)
    network = Recorded(prediction(name, x_0, noise, signal, spread))
    denoiser = Denoiser(network, PreconditioningSettings(name, noise_schedule=schedule))
    # x_t / signal - sigma·noise cancels digits in proportion to sigma: 20,000 at the end of the cosine schedule
    assert torch.allclose(denoiser(x_t / signal, sigma), x_0, atol=1e-9)
    assert torch.allclose(network.x, x_t, rtol=1e-10, atol=1e-10)
    assert torch.allclose(network.noise_level, steps.double(), atol=1e-8)
    loss = denoiser.loss(x_0, sigma, noise)
    assert float(loss.max()) < 1e-12


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_the_loss_is_the_squared_error_of_the_prediction_summed_over_pixels(name, schedule):
    x_0, noise, x_t, signal, spread, steps, sigma = example(schedule)
    denoiser = Denoiser(Recorded(), PreconditioningSettings(name, noise_schedule=schedule))
    raw = Recorded()(x_t, steps.double())
    expected = (raw - prediction(name, x_0, noise, signal, spread)).square().sum((1, 2, 3))
    assert torch.allclose(denoiser.loss(x_0, sigma, noise), expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_coefficients_equal_their_definitions(name):
    *_, steps, sigma = example("linear")
    alpha_bar = VP("linear").alphas_cumprod[steps]
    c_skip, c_out, c_in, c_noise = Denoiser(Recorded(), PreconditioningSettings(name)).coefficients(sigma)
    # in terms of x = x_t / sqrt(alpha_bar)
    if name == "epsilon":  # Ho et al. 2020, eq. 15: x_0 = (x_t - sqrt(1 - alpha_bar)·noise) / sqrt(alpha_bar)
        expected = torch.ones(len(steps)).double(), -((1 - alpha_bar) / alpha_bar).sqrt()
    else:  # Salimans and Ho 2022, section 4: x_0 = sqrt(alpha_bar)·x_t - sqrt(1 - alpha_bar)·v
        expected = alpha_bar, -(1 - alpha_bar).sqrt()
    for found, wanted in zip(
        (c_skip, c_out, c_in, c_noise), (*expected, alpha_bar.sqrt(), steps.double()), strict=True
    ):
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("name", ["epsilon", "v"])
def test_min_snr_weighs_the_error_of_x_0_by_the_clamped_ratio(name, gamma):
    """Hang et al. 2023, section 3.4: min(SNR, gamma) for x_0, min(SNR, gamma) / SNR for noise, / (SNR + 1) for v."""
    x_0, noise, x_t, signal, _, _, sigma = example("linear")
    denoiser = Denoiser(Recorded(), PreconditioningSettings(name, min_snr_gamma=gamma))
    snr = 1 / sigma**2
    clamped = snr.clamp(max=gamma)
    loss = denoiser.loss(x_0, sigma, noise)
    of_x_0 = (denoiser(x_t / signal, sigma) - x_0).square().sum((1, 2, 3))
    assert torch.allclose(loss, clamped * of_x_0, rtol=1e-6)
    plain = Denoiser(Recorded(), PreconditioningSettings(name)).loss(x_0, sigma, noise)
    assert torch.allclose(loss, plain * clamped / (snr if name == "epsilon" else snr + 1), rtol=1e-9)


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_training_draws_steps_uniformly(schedule):
    denoiser = Denoiser(Recorded(), PreconditioningSettings("epsilon", noise_schedule=schedule))
    sigma = denoiser.training_sigmas(50_000, torch.Generator().manual_seed(0))
    times = denoiser.vp.time(sigma)
    assert torch.allclose(times, times.round(), atol=1e-3)
    counts = torch.bincount(times.round().long(), minlength=TIMESTEPS)
    assert counts.shape == (TIMESTEPS,)
    assert 0 < int(counts.min()) <= int(counts.max()) < 100  # 50 each, ± 7
    assert denoiser.sigma_range() == (float(denoiser.vp.sigmas[0]), float(denoiser.vp.sigmas[-1]))


def test_a_familys_process_comes_from_its_settings():
    options = unet_training(preconditioning="v", noise_schedule="cosine", min_snr_gamma=5.0)
    denoiser = build_denoiser(Recorded(), small_unet_model(), options)
    assert denoiser.settings.black == -1.0
    assert denoiser.settings.min_snr_gamma == 5.0
    assert torch.equal(denoiser.vp.betas, betas("cosine"))
    edm = build_denoiser(Recorded(), small_unet_model(), unet_training(preconditioning="edm"))
    *_, c_noise = edm.coefficients(torch.tensor([0.002, 80.0]) * 0.6 / 0.5)
    # Karras et al. 2022, table 1: ln(sigma) / 4, of data with a standard deviation of 0.5; stretched to DDPM's steps
    assert torch.allclose(c_noise, torch.tensor([0.002, 80.0]).log() / 4 * 250, rtol=1e-5)


# --- samplers


class GaussianDenoiser(Denoiser):
    """The exact denoiser of Gaussian pixels: E[x_0 | x] = mean + std² / (std² + sigma²) · (x - mean)."""

    def __init__(self, schedule="linear"):
        super().__init__(torch.nn.Identity(), PreconditioningSettings("v", noise_schedule=schedule, black=-1.0))

    def __call__(self, x, sigma, labels=None):
        return MEAN + STD**2 / (STD**2 + column(sigma) ** 2) * (x - MEAN)


def draw(denoiser, method, n, **changes):
    settings = build(SamplerSettings, {**UNET_SAMPLER, "method": method, **changes}, "sampler")
    return sample(denoiser, ImageNoise(0, range(n)), SHAPE, settings)


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize(
    ("method", "steps", "evaluations"),
    [("heun", 60, 119), ("ddpm", 1000, 1000), ("ddim", 100, 100), ("dpm-solver++", 25, 25), ("unipc", 25, 25)],
)
def test_samplers_find_the_distribution(method, steps, evaluations, schedule):
    n = 60
    end = draw(Guided(GaussianDenoiser(schedule)), method, n, steps=steps)
    assert float(end.x.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(end.x.std()) == pytest.approx(STD, rel=0.06)
    assert end.evaluations.tolist() == [evaluations] * n


@pytest.mark.parametrize(("method", "steps"), [("ddim", 15), ("ddim", 300), ("unipc", 1001), ("ddpm", 2000)])
def test_invalid_steps_of_a_scheduler_are_refused(method, steps):
    with pytest.raises(UserError, match=f"steps is {steps}; allowed for {method}"):
        draw(Guided(GaussianDenoiser("linear")), method, 1, steps=steps)


class NoisePrediction(torch.nn.Module):
    """Nearly the exact noise of Gaussian pixels, with a small convolution without a closed form; takes x_t and t."""

    def __init__(self, alphas_cumprod):
        super().__init__()
        self.alphas_cumprod = alphas_cumprod
        kernel = torch.randn(1, 1, 3, 3, generator=torch.Generator().manual_seed(0))
        self.register_buffer("kernel", kernel)

    def forward(self, x_t, t):
        low = t.floor().long()
        high = (low + 1).clamp_max(999)
        values = self.alphas_cumprod.to(x_t)
        alpha_bar = column(torch.lerp(values[low], values[high], (t - low).to(x_t)))
        exact = (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * MEAN) / (alpha_bar * STD**2 + 1 - alpha_bar)
        return exact + 0.05 * torch.tanh(torch.nn.functional.conv2d(x_t, self.kernel.to(x_t), padding=1))


def noise_predictor(schedule):
    """Return the network and its guided denoiser."""
    network = NoisePrediction(VP(schedule).alphas_cumprod)
    denoiser = Denoiser(network, PreconditioningSettings("epsilon", noise_schedule=schedule, black=-1.0))
    return network, Guided(denoiser)


def test_ancestral_sampling_equals_algorithm_2_of_ho_et_al():
    """Ho et al. 2020, in the noise parametrization, sigma_t² = beta_t, in float64 with the same noise.

    The scheduler keeps alpha_bar in float32, where a beta of 1e-4 has three digits: hence the tolerance.
    """
    network, guided = noise_predictor("linear")
    ours = draw(guided, "ddpm", 3, steps=1000)
    assert ours.evaluations.tolist() == [1000] * 3

    noise, beta = ImageNoise(0, range(3)), np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - beta)
    x = noise.normal(SHAPE).double()
    for t in reversed(range(1000)):
        eps = network(x, torch.full((3,), float(t)))
        x = (x - beta[t] / math.sqrt(1 - alpha_bar[t]) * eps) / math.sqrt(1 - beta[t])
        if t > 0:
            x = x + math.sqrt(beta[t]) * noise.normal(SHAPE).double()
    assert float(x.std()) == pytest.approx(STD, rel=0.2)
    assert float((ours.x - x).abs().max()) < 2e-3


def ddpm_of_diffusers(schedule):
    return DDPMScheduler(**in_diffusers(schedule), variance_type="fixed_large", clip_sample=False)


def ddim_of_diffusers(schedule):
    return DDIMScheduler(**in_diffusers(schedule), clip_sample=False, timestep_spacing="trailing")


def dpm_solver_of_diffusers(schedule):
    return DPMSolverMultistepScheduler(**in_diffusers(schedule), algorithm_type="dpmsolver++", solver_order=2)


def unipc_of_diffusers(schedule):
    return UniPCMultistepScheduler(**in_diffusers(schedule), solver_order=2)


OF_DIFFUSERS = {
    "ddpm": ddpm_of_diffusers,
    "ddim": ddim_of_diffusers,
    "dpm-solver++": dpm_solver_of_diffusers,
    "unipc": unipc_of_diffusers,
}


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("method", OF_DIFFUSERS)
def test_schedulers_equal_diffusers_for_noise_predictions(method, schedule):
    """diffusers is used as in its pipelines: x_t and t go to the network, the predicted noise to the scheduler."""
    network, guided = noise_predictor(schedule)
    ours = draw(guided, method, 4, steps=20).x
    noise, scheduler = ImageNoise(0, range(4)), OF_DIFFUSERS[method](schedule)
    scheduler.set_timesteps(20)
    x = noise.normal(SHAPE)
    draws = {"generator": noise.generators} if method == "ddpm" else {}
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(network(x, torch.full((4,), float(t))), t, x, **draws).prev_sample
    assert float((ours - x).abs().max()) < 2e-3
    assert float(x.std()) > 0.2


@pytest.mark.parametrize("method", OF_DIFFUSERS)
def test_schedulers_give_the_same_images_on_every_device(method, device):
    guided = Guided(GaussianDenoiser())
    settings = build(SamplerSettings, {**UNET_SAMPLER, "method": method, "steps": 10}, "sampler")
    here, there = (sample(guided, ImageNoise(0, range(3), where), SHAPE, settings).x for where in ("cpu", device))
    assert there.device.type == device.type
    assert torch.allclose(here, there.cpu(), atol=1e-3)


class TooLittle(torch.nn.Module):
    """A network that predicts nine tenths of the noise."""

    def __init__(self):
        super().__init__()
        self.exact = NoisePrediction(VP("linear").alphas_cumprod)

    def forward(self, x_t, t):
        return 0.9 * self.exact(x_t, t)


def test_clipping_bounds_the_error_of_noise_predictors_with_few_steps():
    """The error of the first estimate of x_0 is sigma = 157 times that of the noise; ten steps do not correct it."""
    denoiser = Denoiser(TooLittle(), PreconditioningSettings("epsilon", black=-1.0))
    free, clipped = (draw(Guided(denoiser, clip=clip), "ddim", 20, steps=10).x for clip in (False, True))
    assert float(free.std()) > 1.6 * STD
    assert float(free.abs().max()) > 2
    assert float(clipped.abs().max()) <= 1
    assert float(clipped.std()) == pytest.approx(STD, rel=0.2)


@pytest.mark.parametrize("method", OF_DIFFUSERS)
def test_an_image_does_not_depend_on_its_batch(method):
    guided = Guided(GaussianDenoiser())
    many, few = (draw(guided, method, n, steps=10).x for n in (5, 2))
    assert torch.allclose(many[:2], few, atol=1e-6)
    assert not torch.allclose(many[0], many[1], atol=1e-2)
