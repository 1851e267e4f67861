"""Noise levels and losses, against the denoisers' formulas."""

import math
from statistics import NormalDist

import pytest
import torch
from builders import MODELS, TRAININGS, striped_images

from slimdiff.diffusion.denoiser import NO_LABEL, build_denoiser
from slimdiff.models.registry import build_network
from slimdiff.training.losses import HELD_OUT_SEED, denoising_losses, draw_batch, equally_likely, level_losses

CPU = torch.device("cpu")


def denoiser_of(family, **options):
    model = MODELS[family]()
    return model, build_denoiser(build_network(model, seed=1).eval(), model, TRAININGS[family](**options))


@pytest.mark.parametrize(
    "options, mean, std", [({}, -1.2, 1.2), ({"log_sigma_mean": 0.3, "log_sigma_std": 0.7}, 0.3, 0.7)]
)
def test_levels_are_quantiles_of_the_training_distribution(options, mean, std):
    """For EDM, ln sigma is normal, by default as in Karras et al. 2022, so the quantiles are known."""
    _, denoiser = denoiser_of("ncsn", sigma_data=0.33, **options)
    losses = equally_likely(denoiser, 30, 0)
    expected = [mean + std * NormalDist().inv_cdf((index + 0.5) / 30) for index in range(30)]
    assert (losses * 0.5 / 0.33).log().tolist() == pytest.approx(expected, abs=0.2)
    assert losses.tolist() == sorted(losses.tolist())


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_a_loss_is_the_weighted_error_of_the_estimated_image(family):
    """Karras et al. 2022, eq. 2 and 8: the loss on F is (1 / c_out²) ‖D(x; sigma) - x_0‖²; with all labels."""
    model, denoiser = denoiser_of(family)
    images = striped_images()
    losses = denoising_losses(denoiser, images.test_images, images.test_labels, model, CPU, "float32", 5, 6, 4)
    sigmas = equally_likely(denoiser, 6, HELD_OUT_SEED)
    for level, sigma in enumerate(sigmas):
        batch = draw_batch(denoiser, images.test_images, images.test_labels, model, HELD_OUT_SEED, level, sigma, 4)
        assert (batch.labels is None) == (family == "ncsn")
        with torch.no_grad():
            x = batch.x_0 + sigma * batch.noise
            error = denoiser(x, batch.sigma, batch.labels) - batch.x_0
        data = denoiser.settings.sigma_data
        weight = (sigma**2 + data**2) / (sigma * data) ** 2
        assert losses[level] == pytest.approx(float(weight * error.square().sum() / 4), rel=1e-3)


def test_labels_are_withheld_only_in_training_losses():
    """Losses for fine-tuning withhold labels, held-out losses do not; their other draws are equal."""
    model, denoiser = denoiser_of("ddpm")
    images = striped_images()
    given = (denoiser, images.test_images, images.test_labels, model, 3, 2, torch.tensor(1.0), 500)
    labelled, dropped = draw_batch(*given), draw_batch(*given, label_dropout=0.1)
    assert labelled.labels.min() >= 0
    withheld = dropped.labels == NO_LABEL
    assert 20 < withheld.sum() < 90
    assert torch.equal(labelled.labels[~withheld], dropped.labels[~withheld])
    assert torch.equal(labelled.x_0, dropped.x_0)
    assert torch.equal(labelled.noise, dropped.noise)


def test_level_losses_equal_held_out_losses_for_the_same_draws():
    """Level losses are computed level by level, for gradients; held-out losses in batches over levels, for engines."""
    model, denoiser = denoiser_of("ddpm")
    images = striped_images()
    settings = {"model": model, "training": TRAININGS["ddpm"](label_dropout=0.0), "seed": HELD_OUT_SEED}
    given = (images.test_images, images.test_labels)
    by_level = level_losses(denoiser.network, *given, settings, CPU, 5, 8)
    batched = denoising_losses(denoiser, *given, model, CPU, "float32", 16, 5, 8)
    assert [float(at_level().detach()) for at_level in by_level] == pytest.approx(batched, rel=1e-4)
    assert all(math.isfinite(loss) for loss in batched)
