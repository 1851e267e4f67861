"""KID against loops, torchmetrics and a case by hand; and the scale of its features."""

import itertools

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from slimdiff.metrics import kid
from slimdiff.metrics.frechet import statistics
from slimdiff.metrics.kid import kernel_distance
from slimdiff.metrics.reference import GRID, on_grid, scale


def draws(seed: int, n: int, d: int = 5, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, dtype=torch.float64, generator=generator) + shift


def by_loops(real: torch.Tensor, generated: torch.Tensor) -> float:
    """Bińkowski et al. 2018, eq. 4 with their cubic kernel, term by term."""
    x, y = real.tolist(), generated.tolist()
    d, m = len(x[0]), len(x)

    def k(a: list[float], b: list[float]) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / d + 1) ** 3

    within = sum(k(s[i], s[j]) for s in (x, y) for i, j in itertools.permutations(range(m), 2)) / (m * (m - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / m**2


def test_a_case_by_hand() -> None:
    """k(0, 1) = k(0, 2) = k(0, 0) = 1 and k(1, 2) = 27, so 1 + 1 - 2 · 30 / 4."""
    real, generated = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0], [2.0]]).double()
    assert kernel_distance(real, generated) == -13.0


def test_kid_is_the_unbiased_estimate() -> None:
    real, generated = draws(1, 20), draws(2, 20, shift=0.3)
    found = kernel_distance(real, generated)
    assert found == pytest.approx(by_loops(real, generated), rel=1e-12)
    assert found == pytest.approx(poly_mmd(real, generated).item(), rel=1e-12)
    # torch-fidelity's, with all images in one subset
    theirs = kid_features_to_metric(real, generated, kid_subsets=1, kid_subset_size=20, verbose=False)
    assert found == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-12)


def test_many_images_are_processed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kid, "BLOCK", 8)
    real, generated = draws(1, 20), draws(2, 20, shift=0.3)
    blocks = [(slice(0, 7), 7), (slice(7, 14), 7), (slice(14, 20), 6)]
    expected = sum(by_loops(real[part], generated[part]) for part, _ in blocks) / 3
    assert kernel_distance(real, generated) == pytest.approx(expected, rel=1e-12)


def test_equally_many_images_of_each_set_are_compared() -> None:
    real, generated = draws(1, 30), draws(2, 20, shift=0.3)
    assert kernel_distance(real, generated) == kernel_distance(real[:20], generated)
    assert kernel_distance(generated, real) == kernel_distance(generated, real[:20])


def test_images_of_one_distribution_have_distance_zero_at_any_number() -> None:
    """Unbiased, unlike the estimate that counts each image as its own neighbour."""
    for n in (5, 50):
        values = np.array([kernel_distance(draws(2 * i, n), draws(2 * i + 1, n)) for i in range(200)])
        error = values.std(ddof=1) / len(values) ** 0.5
        assert abs(values.mean()) < 3 * error
        assert (values < 0).mean() > 0.2
        assert kernel_distance(draws(0, n), draws(1, n, shift=0.5)) > 10 * error


def test_scaled_features_have_a_mean_squared_norm_of_their_number() -> None:
    features = 7.0 * draws(1, 200, 12) ** 3
    factor = scale(statistics(features))
    assert (features * factor).square().sum(1).mean().item() == pytest.approx(12)
    assert scale(statistics(features / 50)) == pytest.approx(50 * factor)
    assert scale(statistics(torch.zeros(20, 12).double())) == 1.0


def test_the_distance_is_invariant_to_the_scale_of_the_features() -> None:
    """On raw features the cubic term dominates: features a thousand times larger give a distance 10^15 times larger."""
    real, generated = draws(1, 200), draws(2, 200, shift=0.2)

    def scaled(size: float) -> float:
        factor = scale(statistics(real * size))
        return kernel_distance(real * size * factor, generated * size * factor)

    assert scaled(1000.0) == pytest.approx(scaled(1.0), rel=1e-9)
    assert kernel_distance(real * 1000, generated * 1000) > 1e9 * kernel_distance(real, generated)


def test_the_grid_is_fine_and_hides_the_noise_of_batches() -> None:
    features = 30 * draws(1, 500, 64)
    factor = scale(statistics(features))
    found = on_grid(features, factor)
    assert (found - features * factor).abs().max() <= GRID
    assert torch.equal(torch.round(found / GRID), found / GRID)
    noise = 1e-13 * torch.randn(features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(on_grid(features + noise, factor), found)
    assert torch.equal(on_grid(features.float(), factor), found), "the reference keeps features in single precision"
