"""Precision, recall, density and coverage against their definitions, and their invariants."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from slimdiff.errors import UserError
from slimdiff.metrics.prdc import Prdc, compute_prdc, density_and_coverage, squared_distances
from slimdiff.metrics.reference import GRID, on_grid

Points = NDArray[np.float64]


def cloud(seed: int, n: int, d: int = 8, spread: float = 1.0, at: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return on_grid(at + spread * torch.randn(n, d, dtype=torch.float64, generator=generator), 1.0)


def radii(points: Points, k: int) -> Points:
    """Return the distance of each point to its k-th nearest neighbour."""
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, k - 1]


def by_definition(real: torch.Tensor, generated: torch.Tensor) -> tuple[float, float, float, float]:
    """Kynkäänniemi et al. 2019, eq. 1 and 2, and Naeem et al. 2020, eq. 3 and 4, all pairs at once."""
    x, y = real.numpy(), generated.numpy()
    between = cdist(x, y)
    precision = (between <= radii(x, 3)[:, None]).any(axis=0).mean()
    recall = (between <= radii(y, 3)[None, :]).any(axis=1).mean()
    inside = between < radii(x, 5)[:, None]
    return float(precision), float(recall), float(inside.sum(axis=0).mean() / 5), float(inside.any(axis=1).mean())


def values(found: Prdc) -> tuple[float, float, float, float]:
    return found.precision, found.recall, found.density, found.coverage


@pytest.mark.parametrize(
    ("spread", "at"), [(1.0, 0.0), (0.8, 0.0), (1.5, 0.0), (1.0, 0.6)], ids=["alike", "narrow", "wide", "shifted"]
)
def test_metrics_equal_their_definitions(spread: float, at: float) -> None:
    real, generated = cloud(1, 300), cloud(2, 300, spread=spread, at=at)
    found = compute_prdc(real, generated)
    assert values(found) == pytest.approx(by_definition(real, generated), rel=1e-12)
    assert found.m == 300
    # torch-fidelity up to 0.3 swapped the two sets; it computes fractions in single precision.
    theirs = prc_features_to_metric(generated, real, prc_neighborhood=3, prc_batch_size=64, verbose=False)
    keys = (KEY_METRIC_PRECISION, KEY_METRIC_RECALL)
    assert values(found)[:2] == pytest.approx([theirs[key] for key in keys], rel=1e-6)
    assert 0 < found.precision < 1  # otherwise the case is trivial
    assert 0 < found.recall < 1


def test_density_and_coverage_accept_any_set_and_block_size() -> None:
    real, generated = cloud(1, 203), cloud(2, 97, spread=0.8)
    x, y = real.numpy(), generated.numpy()
    inside = cdist(x, y) < radii(x, 4)[:, None]
    expected = inside.sum() / (4 * 97), inside.any(axis=1).mean()
    for rows in (1, 10, 202, 1000):
        assert density_and_coverage(real, generated, k=4, rows=rows) == pytest.approx(expected, rel=1e-12)


def test_a_narrow_model_has_precision_and_no_recall() -> None:
    """torch-fidelity before 0.4 swapped the two."""
    real, narrow = cloud(1, 300), cloud(2, 300, spread=0.2)
    found, turned = compute_prdc(real, narrow), compute_prdc(narrow, real)
    assert found.precision > 0.95
    assert found.recall < 0.1
    assert (turned.precision, turned.recall) == (found.recall, found.precision)


def test_distant_samples_score_zero() -> None:
    assert values(compute_prdc(cloud(1, 50), cloud(2, 50, at=100.0))) == (0, 0, 0, 0)


def test_a_set_against_itself_is_perfect() -> None:
    real = cloud(1, 400)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    assert values(compute_prdc(real, real[order])) == (1, 1, 1, 1)


def test_samples_in_the_middle_are_denser_than_the_real_images() -> None:
    found = compute_prdc(cloud(1, 300), cloud(2, 300, spread=0.01))
    assert found.density > 2
    assert found.coverage < 0.9


def test_a_repeated_image_has_low_coverage() -> None:
    real = cloud(1, 400)
    repeated = real[:20].repeat(20, 1)
    found = compute_prdc(real, repeated)
    assert found.precision == 1
    assert found.coverage < 0.4
    # Balls of radius zero around repeated samples contain only their originals.
    assert found.recall == pytest.approx(20 / 400)


def test_ties_do_not_depend_on_the_order() -> None:
    """Copies of real images lie on the surface of balls. Without the grid, rounding would decide their side."""
    real = cloud(1, 300)
    generated = torch.cat([real[:40].repeat(5, 1), cloud(2, 100)])
    found = compute_prdc(real, generated)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(300, generator=generator) for _ in range(2)]
        assert compute_prdc(real[orders[0]], generated[orders[1]]) == found
    assert values(found) == pytest.approx(by_definition(real, generated), rel=1e-12)


def test_equally_many_images_of_each_set_are_compared() -> None:
    real, generated = cloud(1, 80), cloud(2, 60)
    assert compute_prdc(real, generated) == compute_prdc(real[:60], generated)
    assert compute_prdc(generated, real).m == 60


def test_distances_on_the_grid_are_exact() -> None:
    a, b = cloud(1, 50, 64, spread=3.0), cloud(2, 40, 64, spread=3.0)
    x, y = (torch.round(one / GRID).to(torch.int64) for one in (a, b))
    exact = (x[:, None] - y[None, :]).square().sum(2)  # whole numbers
    assert torch.equal(squared_distances(a, b), exact.double() * GRID**2)
    assert squared_distances(a, a).diagonal().count_nonzero() == 0


def test_too_few_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"300 real images and 5 samples .* 6 or more .*sampling\.labels"):
        compute_prdc(cloud(1, 300), cloud(2, 5))
