"""Consistency tuning: its function of Gaussian images in closed form, targets image by image, and its sampler.

Images from N(0, S²) have the denoiser D = x S² / (S² + sigma²). Their probability-flow ODE, dx / dsigma =
x sigma / (S² + sigma²), keeps x / sqrt(S² + sigma²), so the consistency function is f = x S / sqrt(S² + sigma²).
"""

import math
import re

import pytest
import torch
from builders import MODELS
from finetunings import CHANNELS, equal, run, settings_of, start_of
from killing import terminated_at_save

from slimdiff.diffusion.denoiser import NO_LABEL, Denoiser, NoisyBatch, PreconditioningSettings
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.errors import UserError
from slimdiff.io.settings import build
from slimdiff.training.consistency import ConsistencySettings, ConsistencyTuning

S = 0.7  # standard deviation of the Gaussian images
SETTINGS = {
    "method": "consistency",
    "trajectory": "data",
    "q": 4.0,
    "stages": 4,
    "k": 8.0,
    "b": 1.0,
    "c": 0.0,
    "weighting": "gap",
}


def tuning(network=None, **changes):
    return ConsistencyTuning(
        build(ConsistencySettings, {**SETTINGS, **changes}, "distill"), network or torch.nn.Module()
    )


class Curve(torch.nn.Module):
    """F = w(noise level) c_in x, with w a piecewise linear function of trained knots."""

    def __init__(self):
        super().__init__()
        self.knots = torch.nn.Parameter(torch.zeros(64, dtype=torch.float64))

    def forward(self, x, noise_level, labels=None):
        place = ((noise_level.double() + 2.0) / 4.0 * 63.0).clamp(0.0, 62.999)  # noise levels of ln(sigma / 2S) / 4
        low = place.floor().long()
        weight = torch.lerp(self.knots[low], self.knots[low + 1], place - low)
        return weight[:, None, None, None] * x


def factors(denoiser, sigmas):
    """Return f(1, sigma) for each sigma."""
    ones = torch.ones(len(sigmas), 1, 1, 1, dtype=torch.float64)
    return denoiser(ones, sigmas)[:, 0, 0, 0].detach()


# squared distances, unlike plain ones, have their minimum at a mean: a large c
@pytest.mark.parametrize(
    ("changes", "steps", "n"),
    [({"q": 2.0, "stages": 7}, 2000, 256), ({"trajectory": "heun", "q": 4.0, "stages": 1, "k": 0.0}, 500, 64)],
)
def test_tuning_reaches_the_consistency_function_of_gaussian_images(changes, steps, n):
    """Errors are in units of f itself; those of the denoiser that tuning starts from are 0.29 or more from S on."""
    generator = torch.Generator().manual_seed(0)
    sigmas = torch.tensor([0.05, 0.2, 0.7, 2.0, 8.0], dtype=torch.float64)
    network = Curve()
    levels = PreconditioningSettings("edm", sigma_data=S, log_sigma_mean=-0.5, log_sigma_std=1.6)
    denoiser = Denoiser(network, levels)
    wanted = S / (S**2 + sigmas**2).sqrt()
    estimate = S**2 / (S**2 + sigmas**2)  # of the denoiser, which is what zero knots give: F = 0
    assert torch.allclose(factors(denoiser, sigmas), estimate)
    assert float(((estimate - wanted).abs() / wanted)[2:].min()) > 0.29

    hooks = tuning(network, **changes, c=1e3)
    optimizer = torch.optim.Adam(network.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.03 * (1.0 - step / steps) ** 2
        sigma = hooks.training_sigmas(denoiser, n, generator).double()
        x_0, noise = (torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
        optimizer.zero_grad()
        hooks.loss(denoiser, NoisyBatch(S * x_0, sigma, noise, None), step / steps).mean().backward()
        optimizer.step()
    assert float(((factors(denoiser, sigmas) - wanted).abs() / wanted).max()) < 0.03


def drawn(denoiser, hooks, size=8):
    """Return images, noise levels, noise and labels: none, 0, 1."""
    generator = torch.Generator().manual_seed(3)
    sigma = hooks.training_sigmas(denoiser, 12, generator)
    x_0, noise = (torch.randn(12, 1, size, size, generator=generator) for _ in range(2))
    return x_0, sigma, noise, torch.arange(12) % 3 - 1


class Labelled(torch.nn.Module):
    """An arbitrary elementwise function of x, noise level and label."""

    def forward(self, x, noise_level, labels=None):
        labels = torch.full_like(noise_level, NO_LABEL) if labels is None else labels
        return torch.sin(2.0 * x + (0.3 * labels + 0.1 * noise_level)[:, None, None, None])


@pytest.mark.parametrize("progress", [0.0, 0.99])
@pytest.mark.parametrize(("c", "weighting"), [(0.0, "gap"), (0.2, "gap"), (0.0, "edm")])
@pytest.mark.parametrize("trajectory", ["data", "euler", "heun"])
@pytest.mark.parametrize(("guidance", "interval"), [(1.0, None), (2.5, None), (2.5, [0.1, 1.0]), (2.5, [900.0, 999.0])])
def test_the_loss_is_that_of_a_plain_loop(guidance, interval, trajectory, c, weighting, progress):
    """In Python floats and single images, with the noise levels of images with sigma_data 0.33."""
    denoiser = Denoiser(Labelled(), PreconditioningSettings("edm", sigma_data=0.33))
    own = {"trajectory": trajectory, "c": c, "weighting": weighting}
    hooks = tuning(denoiser.network, **own, guidance=guidance, guidance_interval=interval)

    def guiding(x, t, label):
        """Return what guidance adds to the estimate with this label."""
        level = torch.tensor([t], dtype=torch.float64)
        if interval is not None and not interval[0] <= t <= interval[1]:
            return 0.0
        return (guidance - 1.0) * (denoiser(x, level, label) - denoiser(x, level, torch.tensor([NO_LABEL])))

    def slope(x, t, label):
        level = torch.tensor([t], dtype=torch.float64)
        return (x - denoiser(x, level, label) - guiding(x, t, label)) / t

    x_0, sigma, noise, labels = (part.double() if part.is_floating_point() else part for part in drawn(denoiser, hooks))
    found = hooks.loss(denoiser, NoisyBatch(x_0, sigma, noise, labels), progress)
    stage, unit = int(progress * 4) + 1, 0.5 / 0.33
    ends = set()
    for index, t in enumerate(sigma.tolist()):
        gap = (1.0 + 8.0 / (1.0 + math.exp(t * unit))) / 4.0**stage
        r = max(t * (1.0 - gap), 0.0)
        one = slice(index, index + 1)
        level, label = sigma[one], labels[one]
        x, estimate = x_0[one] + t * noise[one], x_0[one]
        if trajectory == "data":
            estimate = estimate + guiding(x, t, label)
            x_r = estimate + r / t * (x - estimate)
        else:
            x_r = x + (r - t) * slope(x, t, label)
            if trajectory == "heun" and r > 0:
                x_r = x + (r - t) * (slope(x, t, label) + slope(x_r, r, label)) / 2.0
        end = denoiser(x_r, torch.tensor([r], dtype=torch.float64), label) if r > 0 else x_r
        distance = float((denoiser(x, level, label) - end).square().sum())
        scaled = c / unit
        weight = 1.0 / (t - r) if weighting == "gap" else 1.0 / t**2 + 1.0 / 0.33**2
        assert float(found[index]) == pytest.approx(weight * ((distance + scaled**2) ** 0.5 - scaled), rel=1e-9)
        ends.add(r > 0)
    assert (False in ends) == (progress == 0.0)  # (1 + 8 sigmoid(-t)) / 4 is above 1 at low noise levels


def test_an_unknown_trajectory_is_refused():
    with pytest.raises(UserError, match=r"distill.trajectory is 'rk4'; allowed: data, heun, euler"):
        tuning(trajectory="rk4")


def test_targets_have_no_gradients_and_a_perfect_network_has_finite_ones():
    network = Curve()
    denoiser = Denoiser(network, PreconditioningSettings("edm", sigma_data=S))
    x_0, sigma, noise, _ = drawn(denoiser, hooks := tuning(network))
    hooks.loss(denoiser, NoisyBatch(0.0 * x_0, sigma, 0.0 * noise, None), 0.9).sum().backward()
    assert bool(torch.isfinite(network.knots.grad).all())


@pytest.mark.parametrize("family", MODELS)
def test_a_resumed_tuning_equals_an_uninterrupted_one(tmp_path, family):
    """With a student narrower than the start, whose guidance is of the start as it was."""
    start = start_of(tmp_path / "start", family, epochs=1)
    guidance = 2.0 if MODELS[family]()["network"]["classes"] else 1.0
    settings = settings_of(start, steps=(CHANNELS,), epochs=2)
    own = {"trajectory": "heun", "guidance": guidance, "guidance_interval": [0.01, 5.0]}
    settings["hook"] = {"distill": {**SETTINGS, **own}}
    undisturbed = run(start, tmp_path / "a", settings=settings)
    with terminated_at_save(3):
        run(start, tmp_path / "b", 0.0, settings=settings)
    resumed = run(start, tmp_path / "b", settings=settings)
    assert resumed.record["interruptions"] == 1
    assert equal(undisturbed, resumed)
    plain = run(start, tmp_path / "c", settings={**settings, "hook": {}})
    assert not equal(undisturbed, plain)


class Exact:
    """The consistency function of Gaussian images as a denoiser; it records its noise levels."""

    def __init__(self):
        self.seen = []

    def sigma_range(self):
        return 0.002, 80.0

    def __call__(self, x, sigma, labels=None):
        self.seen.append(float(sigma[0]))
        return x * S / (S**2 + sigma**2).sqrt()[:, None, None, None]


@pytest.mark.parametrize("renoise", [[], [0.5], [3.0, 0.2]])
def test_the_sampler_draws_gaussian_images_with_one_evaluation_a_step(renoise):
    exact, steps = Exact(), len(renoise) + 1
    settings = SamplerSettings("consistency", steps, sigma_max=40.0, renoise=renoise)
    end = sample(Guided(exact), ImageNoise(0, range(400)), (1, 4, 4), settings)
    assert exact.seen == pytest.approx([40.0, *renoise])
    assert float(end.x.std()) == pytest.approx(S, rel=0.03)
    assert abs(float(end.x.mean())) < 0.03
    assert end.evaluations.tolist() == [steps] * 400


@pytest.mark.parametrize(("steps", "renoise"), [(3, [0.5]), (3, [0.2, 0.5]), (1, [0.5])])
def test_noise_levels_that_do_not_fit_the_steps_are_refused(steps, renoise):
    settings = SamplerSettings("consistency", steps, renoise=renoise)
    with pytest.raises(UserError, match=rf"sampler.renoise is {re.escape(str(renoise))}; allowed with {steps} steps: "):
        sample(Guided(Exact()), ImageNoise(0, range(2)), (1, 4, 4), settings)
