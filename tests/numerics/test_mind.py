"""MIND against loops over its definition, and Gaussians with a known distance."""

import pytest
import torch

from slimdiff.metrics import mind as module
from slimdiff.metrics.mind import mind


def draws(seed: int, n: int, d: int) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_mean_over_directions_by_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Berthet et al. 2026: 3 d / (directions · n) times the sum of squared differences of sorted projections."""
    monkeypatch.setattr(module, "PROJECTIONS", 7)
    x, y = draws(1, 20, 3), draws(2, 20, 3) * 2 + 1
    directions = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(module.SEED)).T
    total = 0.0
    for direction in directions:
        unit = direction / direction.norm()
        ours, theirs = (sorted(float(row @ unit) for row in rows) for rows in (x, y))
        total += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True))
    assert mind(x, y) == pytest.approx(3 * 3 * total / (7 * 20), rel=1e-12)


def test_one_dimension_by_hand() -> None:
    """Sorted, 0, 1, 4 against 1, 1, 2: differences 1, 0, 2."""
    x, y = (torch.tensor(values, dtype=torch.float64)[:, None] for values in ([4.0, 0, 1], [1.0, 2, 1]))
    assert mind(x, y) == pytest.approx(3 * 5 / 3)


def test_shifts_and_spreads_of_gaussians() -> None:
    """A shift by v costs 3 |v|², a spread of s instead of 1 costs 3 d (1 - s)²."""
    x = draws(3, 4000, 8)
    shift = torch.arange(8.0, dtype=torch.float64) / 4
    assert mind(x, x + shift) == pytest.approx(3 * float(shift.square().sum()), rel=0.05)
    assert mind(x, draws(4, 4000, 8) * 1.5) == pytest.approx(3 * 8 * 0.25, rel=0.05)
    assert mind(x, draws(4, 4000, 8)) < 0.1
    assert mind(x, x.flip(0)) < 1e-28, "a product rounds by the place of its row on some processors"


def test_sets_of_other_sizes_use_their_first_features() -> None:
    x, y = draws(5, 30, 4), draws(6, 50, 4)
    assert mind(x, y) == mind(y, x) == mind(x, y[:30])
