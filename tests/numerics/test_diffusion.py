"""Samplers and preconditionings against closed forms and independent solvers, on data with a known score."""

import itertools
import math

import numpy as np
import pytest
import torch
from builders import SAMPLER
from scipy.integrate import solve_ivp

from slimdiff.diffusion.denoiser import Denoiser, PreconditioningSettings
from slimdiff.diffusion.dopri5 import solve
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.processes import TIME_MIN, VESDE
from slimdiff.diffusion.samplers import SamplerSettings, karras_sigmas, sample
from slimdiff.errors import UserError
from slimdiff.io.settings import build

MEAN, STD = 0.3, 0.4  # of the pixels: independent Gaussians
SHAPE = (1, 12, 12)  # the corrector's step size needs norms over many pixels


class GaussianDenoiser(Denoiser):
    """The exact denoiser of Gaussian pixels: E[x_0 | x] = mean + std² / (std² + sigma²) · (x - mean)."""

    def __init__(self, name="score"):
        super().__init__(torch.nn.Identity(), PreconditioningSettings(name))

    def __call__(self, x, sigma):
        gain = STD**2 / (STD**2 + sigma[:, None, None, None] ** 2)
        return MEAN + gain * (x - MEAN)


def draw(method, n=300, **changes):
    settings = build(SamplerSettings, {**SAMPLER, "method": method, **changes}, "sampler")
    return sample(Guided(GaussianDenoiser()), ImageNoise(0, range(n)), SHAPE, settings)


@pytest.mark.parametrize(
    ("method", "changes", "evaluations"),
    [
        ("heun", {"steps": 30}, 59),
        ("euler", {"steps": 100}, 100),
        ("euler-maruyama", {"steps": 500}, 500),
        ("predictor-corrector", {"steps": 300}, 600),
        ("ode", {"tolerance": 1e-5}, None),
    ],
)
def test_samplers_find_the_distribution(method, changes, evaluations):
    end = draw(method, **changes)
    assert float(end.x.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(end.x.std()) == pytest.approx(STD, rel=0.06)
    if evaluations:
        assert end.evaluations.tolist() == [evaluations] * 300


@pytest.mark.parametrize(("method", "smallest", "largest"), [("heun", 10, 20), ("euler", 3.4, 4.6)])
def test_heun_converges_at_second_and_euler_at_first_order_to_the_exact_flow(method, smallest, largest):
    """For Gaussian data the flow is known: x - mean is proportional to sqrt(std² + sigma²)."""
    noise = ImageNoise(0, range(4)).normal(SHAPE).double()
    errors, limits = [], {"sigma_min": 1e-4, "sigma_max": 5.0}
    for steps in (20, 40, 80):
        settings = build(SamplerSettings, {**SAMPLER, "method": method, "steps": steps, **limits}, "sampler")

        class Fixed(ImageNoise):
            def normal(self, shape):
                return noise

        end = sample(Guided(GaussianDenoiser()), Fixed(0, range(4)), SHAPE, settings).x
        exact = MEAN + (noise * 5.0 - MEAN) * STD / math.sqrt(STD**2 + 25.0)
        errors.append(float((end - exact).abs().max()))
    assert errors[0] > errors[1] > errors[2]
    assert smallest < errors[0] / errors[2] < largest  # 16 for second order, 4 for first


@pytest.mark.parametrize("grid", [None, 4, 12])
def test_euler_equals_a_plain_loop(grid):
    """At every level of 4 steps, or at every third level of 12, whose last step starts higher."""
    end = draw("euler", n=3, steps=4, grid=grid, sigma_min=0.01, sigma_max=5.0)
    levels = karras_sigmas(grid or 4, 0.01, 5.0, 7.0).tolist()
    levels = [levels[index] for index in ((0, 3, 6, 9, 12) if grid == 12 else range(5))]
    x = ImageNoise(0, range(3)).normal(SHAPE) * 5.0
    for now, following in itertools.pairwise(levels):
        x_0 = GaussianDenoiser()(x, torch.full((3,), now))
        x = x_0 + following / now * (x - x_0)
    assert torch.allclose(end.x, x, atol=1e-5)
    assert end.evaluations.tolist() == [4, 4, 4]


def test_a_grid_that_is_not_a_multiple_of_steps_is_refused():
    with pytest.raises(
        UserError, match=r"sampler\.grid is 6; allowed with sampler\.steps 4: a multiple of it, or null"
    ):
        draw("euler", steps=4, grid=6)


def test_karras_sigmas_equal_the_papers_formula():
    sigmas = karras_sigmas(18, 0.002, 80.0, 7.0)
    assert len(sigmas) == 19
    assert sigmas[0] == pytest.approx(80.0)
    assert sigmas[-2] == pytest.approx(0.002)
    assert sigmas[-1] == 0
    i = 5
    assert float(sigmas[i]) == pytest.approx((80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)


def test_the_ode_solver_agrees_with_scipy_and_the_closed_form():
    denoiser, sde = GaussianDenoiser(), VESDE()
    start = (ImageNoise(0, range(3)).normal(SHAPE) * sde.marginal_std(torch.tensor(1.0))).double()

    def slope(t, x):
        sigma = sde.marginal_std(t)
        gain = sde.diffusion(t) ** 2 / (2 * sigma**2)
        return gain[:, None, None, None] * (x - denoiser(x, sigma))

    ours, evaluations = solve(slope, start, 1.0, TIME_MIN, 1e-8)
    low, high = sde.marginal_std(torch.tensor([TIME_MIN, 1.0], dtype=torch.float64))
    exact = MEAN + (start - MEAN) * torch.sqrt((STD**2 + low**2) / (STD**2 + high**2))
    assert torch.allclose(ours, exact, atol=1e-6)

    for index in range(3):

        def flat(t, x):
            out = slope(torch.tensor([t], dtype=torch.float64), torch.from_numpy(x).reshape(1, *SHAPE))
            return out.numpy().ravel()

        theirs = solve_ivp(flat, (1.0, TIME_MIN), start[index].numpy().ravel(), method="RK45", rtol=1e-8, atol=1e-8)
        assert np.allclose(ours[index].numpy().ravel(), theirs.y[:, -1], atol=1e-6)
        assert int(evaluations[index]) == pytest.approx(theirs.nfev, rel=0.02)


def test_an_image_takes_its_own_steps_in_any_batch():
    def stiff(t, x):
        return -x * x.abs().flatten(1).amax(1)[:, None]

    start = torch.tensor([[1.0], [50.0]], dtype=torch.float64)
    both, evaluations = solve(stiff, start, 0.0, 1.0, 1e-6)
    alone, few = solve(stiff, start[:1], 0.0, 1.0, 1e-6)
    assert torch.equal(both[:1], alone)
    assert int(evaluations[0]) == int(few[0]) < int(evaluations[1])
    assert torch.allclose(both, start / (1 + start), rtol=1e-5)


def test_the_ve_sde_equals_the_tutorials():
    sde = VESDE(25.0)
    t = torch.linspace(TIME_MIN, 1, 50, dtype=torch.float64)
    expected = torch.sqrt((25.0 ** (2 * t) - 1) / (2 * math.log(25.0)))
    assert torch.allclose(sde.marginal_std(t), expected, rtol=1e-9)
    assert torch.allclose(sde.time(sde.marginal_std(t)), t, rtol=1e-9)
    # d(marginal_std²)/dt = g²
    step = 1e-6
    slope = (sde.marginal_std(t + step) ** 2 - sde.marginal_std(t - step) ** 2) / (2 * step)
    assert torch.allclose(slope, sde.diffusion(t) ** 2, rtol=1e-6)


class Linear(torch.nn.Module):
    """An arbitrary function of x and the noise level."""

    def forward(self, x, noise_level):
        return 0.3 * x + noise_level[:, None, None, None] - 0.1


def test_score_preconditioning_equals_the_tutorials_loss_and_score():
    denoiser = Denoiser(Linear(), PreconditioningSettings("score"))
    x_0, noise, t = torch.rand(5, 1, 4, 4), torch.randn(5, 1, 4, 4), torch.rand(5) * 0.9 + 0.05
    std = denoiser.sde.marginal_std(t)
    x = x_0 + std[:, None, None, None] * noise
    score = Linear()(x, t) / std[:, None, None, None]
    tutorial = ((score * std[:, None, None, None] + noise) ** 2).sum((1, 2, 3))
    assert torch.allclose(denoiser.loss(x_0, std, noise), tutorial, rtol=1e-4)
    assert torch.allclose((denoiser(x, std) - x) / std[:, None, None, None] ** 2, score, rtol=1e-3, atol=1e-3)


def test_edm_loss_is_the_weighted_error_of_the_denoiser():
    settings = PreconditioningSettings("edm", sigma_data=0.5)
    denoiser = Denoiser(Linear(), settings)
    x_0, noise = torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    sigma = torch.tensor([0.01, 0.1, 0.5, 2.0, 20.0])
    x = x_0 + sigma[:, None, None, None] * noise
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    expected = weight * (denoiser(x, sigma) - x_0).square().sum((1, 2, 3))
    assert torch.allclose(denoiser.loss(x_0, sigma, noise), expected, rtol=1e-3)


@pytest.mark.parametrize("black", [0.0, -1.0])
def test_pixel_scaling_is_inverted(black):
    denoiser = Denoiser(Linear(), PreconditioningSettings("edm", black=black))
    images = torch.rand(2, 1, 4, 4) * 2 - 1
    assert torch.allclose(denoiser.to_images(denoiser.from_images(images)), images, atol=1e-6)
    assert denoiser.from_images(torch.tensor([-1.0, 1.0])).tolist() == [black, 1.0]


def test_training_noise_levels():
    generator = torch.Generator().manual_seed(0)
    score = Denoiser(Linear(), PreconditioningSettings("score")).training_sigmas(20_000, generator)
    t = VESDE().time(score.double())
    assert float(t.mean()) == pytest.approx(0.5, abs=0.01)
    settings = PreconditioningSettings("edm", sigma_data=0.5)  # the paper's own
    edm = Denoiser(Linear(), settings).training_sigmas(20_000, generator).log()
    assert float(edm.mean()) == pytest.approx(-1.2, abs=0.03)
    assert Denoiser(Linear(), settings).sigma_range() == (0.002, 80.0)
    assert float(edm.std()) == pytest.approx(1.2, abs=0.03)
