"""Classifier-free guidance: the meaning of scales, both passes in one batch, and clipping; autoguidance."""

import pytest
import torch
from builders import small_unet_model, unet_training

from slimdiff.diffusion.denoiser import Denoiser, PreconditioningSettings, build_denoiser
from slimdiff.diffusion.guidance import Guided, labels_in_turn
from slimdiff.models.registry import build_network

PREDICTIONS = ["epsilon", "v", "edm"]
LABELS = torch.tensor([0, 1, 2, 1, 0])


class Conditional(torch.nn.Module):
    """An arbitrary elementwise function of x, noise level and label, so that batches do not matter."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, noise_level, labels=None):
        self.calls.append(len(x))
        labels = torch.full_like(noise_level, -1) if labels is None else labels
        shift = torch.where(labels < 0, 0.0, 0.3 * labels + 0.4)[:, None, None, None]
        return torch.tanh(0.5 * x - shift) + 1e-3 * noise_level[:, None, None, None] * (1 + shift)


def denoiser(name="epsilon", network=None):
    return Denoiser(network or Conditional(), PreconditioningSettings(name, sigma_data=0.6, black=-1.0))


def noisy(device="cpu", size=6):
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor([0.02, 0.4, 1.0, 7.0, 100.0])
    x = sigma[:, None, None, None] * torch.randn(5, 1, size, size, generator=generator)
    return x.to(device), sigma.to(device)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_scale_0_is_unconditional_and_1_conditional(name, device):
    (x, sigma), labels, plain = noisy(device), LABELS.to(device), denoiser(name)
    assert torch.equal(Guided(plain, labels, 0.0)(x, sigma), plain(x, sigma))
    assert torch.equal(Guided(plain, labels, 1.0)(x, sigma), plain(x, sigma, labels))
    assert torch.equal(Guided(plain, None, 3.0)(x, sigma), plain(x, sigma))
    assert not torch.allclose(plain(x, sigma), plain(x, sigma, labels), atol=1e-2)


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("scale", [0.5, 1.5, 3.0])
def test_other_scales_extrapolate_from_unconditional_to_conditional(name, scale, device):
    (x, sigma), labels, plain = noisy(device), LABELS.to(device), denoiser(name)
    unconditional, conditional = plain(x, sigma), plain(x, sigma, labels)
    expected = unconditional + scale * (conditional - unconditional)
    assert torch.allclose(Guided(plain, labels, scale)(x, sigma), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_guidance_equals_the_published_mixture_of_noise_predictions(scale):
    """eps = lerp(eps(x_t, nothing), eps(x_t, label), scale), and x_0 from eps (Ho et al. 2020, eq. 15)."""
    plain, steps, n = denoiser("epsilon"), torch.tensor([0, 250, 500, 999]), 4
    alpha_bar = plain.vp.alphas_cumprod[steps][:, None, None, None]
    x_t = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    without, conditional = Conditional()(x_t, steps.double()), Conditional()(x_t, steps.double(), LABELS[:n])
    noise = torch.lerp(without, conditional, scale)
    expected = (x_t - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
    found = Guided(plain, LABELS[:n], scale)(x_t / alpha_bar.sqrt(), plain.vp.sigmas[steps])
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-8)


@torch.inference_mode()
@pytest.mark.parametrize("name", PREDICTIONS)
def test_one_batch_of_both_passes_equals_two_passes(name, device):
    """Up to rounding: the order of sums in convolutions depends on the batch size."""
    model = small_unet_model()
    network = build_network(model, seed=1).eval().to(device, torch.float64)
    plain = build_denoiser(network, model, unet_training(preconditioning=name))
    x, sigma = (values.double() for values in noisy(device, size=16))
    labels = (LABELS % 2).to(device)
    unconditional, conditional = plain(x, sigma), plain(x, sigma, labels)
    expected = 3 * conditional - 2 * unconditional
    assert torch.allclose(Guided(plain, labels, 3.0)(x, sigma), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("labels", "scale", "passes"),
    [(None, 1.0, 1), (None, 3.0, 1), (LABELS, 0.0, 1), (LABELS, 1.0, 1), (LABELS, 1.5, 2), (LABELS, 0.5, 2)],
)
def test_passes_are_the_networks_evaluations(labels, scale, passes):
    network = Conditional()
    guided = Guided(denoiser(network=network), labels, scale)
    x, sigma = noisy()
    guided(x, sigma)
    assert guided.passes == (passes,)
    assert guided.evaluations == sum(network.calls) == passes * len(x)
    assert len(network.calls) == 1


def test_noise_levels_outside_the_interval_are_conditional_and_cost_one_evaluation():
    network = Conditional()
    x, sigma = noisy()
    low, high = sorted(sigma.tolist())[1:3]
    within = ((low <= sigma) & (sigma <= high))[:, None, None, None]
    assert 0 < int(within.sum()) < len(x)
    everywhere, conditional = (Guided(denoiser(network=network), LABELS, scale)(x, sigma) for scale in (3.0, 1.0))
    network.calls.clear()
    guided = Guided(denoiser(network=network), LABELS, 3.0, interval=(low, high))
    assert torch.equal(guided(x, sigma), torch.where(within, everywhere, conditional))
    assert guided.passes == (1, 2)
    assert guided.evaluations == sum(network.calls) == len(x) + int(within.sum())
    assert not torch.equal(everywhere, conditional)


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("interval", [None, (0.3, 3.0), (200.0, 300.0)])
def test_autoguidance_extrapolates_from_the_worse_network_within_the_interval(labels, interval):
    """D = D_worse + scale (D - D_worse), of the same labels; other noise levels are those of the network alone."""
    network, worse = Conditional(), Conditional()
    worse.register_forward_hook(lambda module, arguments, out: 0.5 * out)
    x, sigma = noisy()
    better, bad = (denoiser(network=each)(x, sigma, labels) for each in (network, worse))
    within = torch.ones(5, dtype=torch.bool) if interval is None else (interval[0] <= sigma) & (sigma <= interval[1])
    network.calls.clear(), worse.calls.clear()
    guided = Guided(denoiser(network=network), labels, 2.5, guide=denoiser(network=worse), interval=interval)
    expected = torch.where(within[:, None, None, None], bad + 2.5 * (better - bad), better)
    assert torch.allclose(guided(x, sigma), expected, rtol=1e-5, atol=1e-5)
    assert (sum(network.calls), sum(worse.calls)) == (5, int(within.sum()))
    assert (guided.evaluations, guided.guide_evaluations) == (5 + int(within.sum()), int(within.sum()))
    assert guided.passes == (1,)
    assert not torch.allclose(better, bad, atol=1e-2)


@pytest.mark.parametrize("interval", [None, (0.0, 1e9)])
def test_an_interval_of_all_noise_levels_is_guidance_without_one(interval):
    x, sigma = noisy()
    guided = Guided(denoiser(), LABELS, 3.0, interval=interval)
    both = torch.cat([LABELS, torch.full_like(LABELS, -1)])
    conditional, unconditional = denoiser()(x.repeat(2, 1, 1, 1), sigma.repeat(2), both).chunk(2)
    assert torch.equal(guided(x, sigma), unconditional.lerp(conditional, 3.0))
    assert guided.evaluations == 2 * len(x)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("black", [-1.0, 0.0])
def test_clipping_keeps_the_mixture_between_black_and_white(scale, black):
    plain = Denoiser(Conditional(), PreconditioningSettings("epsilon", black=black))
    x, sigma = noisy()
    free, clipped = Guided(plain, LABELS, scale)(x, sigma), Guided(plain, LABELS, scale, clip=True)(x, sigma)
    assert float(free.abs().max()) > 10
    assert torch.equal(clipped, free.clamp(black, 1.0))


def test_guidance_has_the_denoisers_process():
    plain = denoiser("v")
    guided = Guided(plain)
    assert (guided.vp, guided.sde, guided.sigma_range()) == (plain.vp, plain.sde, plain.sigma_range())


@pytest.mark.parametrize(
    ("n", "classes", "expected"),
    [
        (7, 3, [0, 1, 2, 0, 1, 2, 0]),
        (2, 10, [0, 1]),
        (5, [7, 2], [7, 2, 7, 2, 7]),
        (3, (4,), [4, 4, 4]),
        (0, 3, []),
    ],
)
def test_labels_cycle_through_the_classes(n, classes, expected):
    labels = labels_in_turn(n, classes)
    assert labels.dtype == torch.int64
    assert labels.tolist() == expected
