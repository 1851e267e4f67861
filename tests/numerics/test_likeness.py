"""PSNR and SSIM against torchmetrics, loops over the equations and cases by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from slimdiff.metrics import likeness as module
from slimdiff.metrics.likeness import likeness, psnr, ssim


def pairs(n: int = 7, channels: int = 1, height: int = 28, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth images with some black, and the same with noise that grows from image to image."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic") * 400 - 100
    noise = torch.randn(images.shape, generator=generator) * torch.arange(1, n + 1).view(-1, 1, 1, 1) * 8
    return images.clamp(0, 255).to(torch.uint8), (images + noise).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_both_are_those_of_torchmetrics(channels: int) -> None:
    images, others = pairs(channels=channels)
    x, y = images.double(), others.double()
    ratios = peak_signal_noise_ratio(x, y, data_range=255.0, dim=(1, 2, 3), reduction="none")
    full = structural_similarity_index_measure(x, y, data_range=255.0, reduction="none", return_full_image=True)[1]
    similarities = full[..., 5:-5, 5:-5].flatten(1).mean(1)  # without windows over the mirrored edge
    torch.testing.assert_close(psnr(images, others), ratios, rtol=1e-6, atol=0)
    torch.testing.assert_close(ssim(images, others), similarities, rtol=1e-6, atol=0)
    found = likeness(images, others)
    assert found.psnr == pytest.approx(float(ratios.mean()), rel=1e-6)
    assert found.ssim == pytest.approx(float(similarities.mean()), rel=1e-6)


def test_ssim_is_that_of_the_equations() -> None:
    """Wang et al. 2004, eqs. 13 to 17, window by window."""
    images, others = pairs(n=1, height=13, width=12)
    x, y = (pair[0, 0].double().numpy() for pair in (images, others))
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(line, line) / np.outer(line, line).sum()
    c1, c2 = 2.55**2, 7.65**2
    found = []
    for i in range(3):
        for j in range(2):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            over = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
            found.append(over / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    assert float(ssim(images, others)) == pytest.approx(np.mean(found), rel=1e-12)


def test_flat_images_by_hand() -> None:
    images, others = (torch.full((2, 1, 12, 12), level, dtype=torch.uint8) for level in (100, 110))
    assert likeness(images, others).psnr == pytest.approx(20 * math.log10(25.5))
    assert likeness(images, others).ssim == pytest.approx((2 * 100 * 110 + 2.55**2) / (100**2 + 110**2 + 2.55**2))


def test_identical_images_count_as_one_level_in_one_pixel() -> None:
    images, _ = pairs(height=28, width=28)
    one = images.clone()
    one[:, 0, 3, 4] += torch.where(one[:, 0, 3, 4] < 255, 1, -1).to(torch.uint8)
    highest = 10 * math.log10(255**2 * 28 * 28)
    assert highest == pytest.approx(77.07, abs=0.005)
    assert psnr(images, images).tolist() == psnr(images, one).tolist() == pytest.approx([highest] * 7, rel=1e-12)
    assert ssim(images, images).tolist() == [1.0] * 7
    assert float(ssim(images, one).max()) < 1


def test_batches_and_sides_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    images, others = pairs()
    whole = ssim(images, others)
    monkeypatch.setattr(module, "BATCH_SIZE", 3)
    torch.testing.assert_close(ssim(images, others), whole, rtol=1e-12, atol=0)
    assert likeness(others, images).psnr == likeness(images, others).psnr
    torch.testing.assert_close(ssim(others, images), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sides", [(10, 28), (28, 8)])
def test_images_smaller_than_a_window_have_no_ssim(sides: tuple[int, int]) -> None:
    images, others = pairs(height=sides[0], width=sides[1])
    assert likeness(images, others).ssim is None
    assert likeness(images, others).psnr > 0
