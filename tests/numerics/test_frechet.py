"""The Fréchet distance against closed forms, scipy's matrix square root, and the invariants of a distance."""

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from slimdiff.errors import UserError
from slimdiff.metrics.frechet import Statistics, factor, frechet_distance, statistics


def gaussian(seed: int, d: int, rank: int | None = None) -> Statistics:
    """Return a random Gaussian with a covariance of the given rank and a spectrum over three decades."""
    generator = torch.Generator().manual_seed(seed)
    r = d if rank is None else rank
    scales = torch.logspace(1, -2, r, dtype=torch.float64)
    root = torch.randn(d, r, dtype=torch.float64, generator=generator) * scales
    return Statistics(torch.randn(d, dtype=torch.float64, generator=generator), root @ root.T, 10 * d)


def by_matrix_root(a: Statistics, b: Statistics) -> float:
    """Heusel et al. 2017, eq. 6, literally."""
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    squared = (a.mean - b.mean).square().sum().item()
    return squared + a.covariance.trace().item() + b.covariance.trace().item() - 2 * float(np.trace(root))


def draws(seed: int, n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", [1, 2, 16, 64])
def test_scipy_agrees_at_full_rank(d: int) -> None:
    a, b = gaussian(1, d), gaussian(2, d)
    assert frechet_distance(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-9)


@pytest.mark.parametrize(("rank_a", "rank_b"), [(64, 20), (20, 64), (45, 50), (1, 1)])
@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_scipy_agrees_below_full_rank(rank_a: int, rank_b: int) -> None:
    """To fewer digits, since scipy's root of a singular matrix is less accurate."""
    a, b = gaussian(1, 64, rank_a), gaussian(2, 64, rank_b)
    assert frechet_distance(a, b) == pytest.approx(by_matrix_root(a, b), rel=1e-6)


@pytest.mark.parametrize("dead", [0, 1, 30, 63])
def test_dead_features_change_nothing(dead: int) -> None:
    """Features that are always zero do not change the distance."""
    live = 64 - dead
    a, b = statistics(draws(1, 500, live)), statistics(2 * draws(2, 500, live) + 1)
    first, second = (Statistics(F.pad(x.mean, (0, dead)), F.pad(x.covariance, (0, dead) * 2), x.n) for x in (a, b))
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(a, b), rel=1e-12)


# Products must not underflow: two variances of 1e-192 have a cross term of 0 in double precision.
TINIEST = 1e-100
VARIANCES = st.just(0.0) | st.floats(TINIEST, 100)
SHIFTS = st.just(0.0) | st.floats(TINIEST, 10) | st.floats(-10, -TINIEST)


@given(
    st.lists(st.tuples(VARIANCES, VARIANCES, SHIFTS), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_the_closed_form_for_commuting_covariances(axes: list[tuple[float, float, float]], seed: int) -> None:
    """(√a - √b)² + Δ² per axis, for any rotation of the axes."""
    a, b, shift = torch.tensor(axes, dtype=torch.float64).unbind(1)
    turn = torch.linalg.qr(draws(seed, len(axes), len(axes)))[0]
    first = Statistics(torch.zeros_like(a), turn @ a.diag() @ turn.T, 100)
    second = Statistics(turn @ shift, turn @ b.diag() @ turn.T, 100)
    expected = ((a.sqrt() - b.sqrt()).square() + shift.square()).sum().item()
    scale = (a.sum() + b.sum() + shift.square().sum()).item()
    assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-6 * scale)


@pytest.mark.parametrize("rank", [64, 40, 1])
def test_the_distance_is_zero_to_itself_and_symmetric(rank: int) -> None:
    a, b = gaussian(3, 64, rank), gaussian(4, 64)
    scale = a.covariance.trace().item()
    assert 0 <= frechet_distance(a, a) < 1e-7 * scale
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-8)
    assert frechet_distance(a, b) > 0


def test_directions_missing_in_both_cost_no_digits() -> None:
    """Such as dead features. Summing the roots of their rounding errors once gave 1e-5 of a distance at the floor."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.logspace(2, -1, 64, dtype=torch.float64) * (torch.arange(64) < 46) * size for size in (1.0, 1.02))
    turn = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64, generator=generator))[0]
    first, second = (Statistics(torch.zeros(64).double(), turn @ one.diag() @ turn.T, 1000) for one in (a, b))
    expected = (a.sqrt() - b.sqrt()).square().sum().item()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    root = factor(first.covariance)
    every = torch.linalg.eigvalsh(root.T @ second.covariance @ root).clamp(min=0).sqrt().sum()
    before = (first.covariance.trace() + second.covariance.trace() - 2 * every).item()
    assert before != pytest.approx(expected, rel=1e-6)


def test_rotation_changes_nothing_and_scaling_is_squared() -> None:
    x, y = draws(5, 400, 16), 1.5 * draws(6, 300, 16) + 0.3
    turn = torch.linalg.qr(draws(7, 16, 16))[0]
    plain = frechet_distance(statistics(x), statistics(y))
    assert frechet_distance(statistics(x @ turn), statistics(y @ turn)) == pytest.approx(plain, rel=1e-10)
    assert frechet_distance(statistics(3 * x), statistics(3 * y)) == pytest.approx(9 * plain, rel=1e-10)


def test_a_precomputed_factor_gives_the_same_distance() -> None:
    a, b = gaussian(8, 64, 50), gaussian(9, 64)
    root = factor(a.covariance)
    assert torch.allclose(root @ root.T, a.covariance, rtol=0, atol=1e-11 * a.covariance.trace().item())
    assert frechet_distance(a, b, root) == frechet_distance(a, b)


def test_statistics_equal_numpys_and_ignore_the_order() -> None:
    x = draws(10, 1000, 64) * 3 + 100
    found = statistics(x)
    assert np.allclose(found.mean, np.mean(x.numpy(), axis=0), rtol=1e-13)
    assert np.allclose(found.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-10, atol=1e-12)
    shuffled = statistics(x[torch.randperm(1000, generator=torch.Generator().manual_seed(0))])
    assert torch.allclose(found.covariance, shuffled.covariance, rtol=0, atol=1e-12)
    assert found.n == 1000


def test_single_precision_loses_the_covariance() -> None:
    """Why statistics are in double precision: far from the origin, single precision loses the covariance."""
    x = draws(11, 5000, 8) + 3000
    single = x.float()
    naive = (single.T @ single) / len(x) - single.mean(0).outer(single.mean(0))
    assert (naive - torch.eye(8)).abs().max() > 0.2
    assert (statistics(x.float()).covariance - statistics(x).covariance).abs().max() < 1e-3


@pytest.mark.parametrize("n", [1, 10, 63])
def test_too_few_images_are_refused(n: int) -> None:
    with pytest.raises(UserError, match=rf"{n} images are too few .* 64 features: raise sampling\.n_samples to .* 64"):
        statistics(draws(0, n, 64))
    assert statistics(draws(0, 64, 64)).n == 64
