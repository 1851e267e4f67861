"""What seeds say together, against scipy and by hand."""

import math

import numpy as np
import pytest
import synthetic
from scipy import stats

from slimdiff.analysis import statistics
from slimdiff.analysis.statistics import Outcome

BASELINE = ("mnist", "ncsn", "baseline")
PRUNED = ("mnist", "ncsn", "l1-30")


def test_the_interval_is_the_t_interval() -> None:
    values = [3.1, 2.9, 3.6, 3.2, 2.7]
    summary = statistics.summarize(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (summary.n, summary.mean) == (5, pytest.approx(np.mean(values)))
    assert summary.sd == pytest.approx(np.std(values, ddof=1))
    assert (summary.low, summary.high) == (pytest.approx(low), pytest.approx(high))


def test_three_seeds_reach_2_48_standard_deviations() -> None:
    summary = statistics.summarize([1.0, 2.0, 3.0])
    assert (summary.high - summary.mean) / summary.sd == pytest.approx(2.484, abs=1e-3)


def test_one_seed_has_no_interval_and_none_has_nothing() -> None:
    one = statistics.summarize([2.0])
    assert (one.n, one.mean) == (1, 2.0)
    assert all(math.isnan(value) for value in (one.sd, one.low, one.high))
    assert math.isnan(statistics.summarize([]).mean)


def test_failed_seeds_do_not_count() -> None:
    rows = [synthetic.row(seed=0, fid=10.0), synthetic.row(seed=1, fid=20.0), synthetic.row(seed=2, status="failed")]
    matrix = synthetic.matrix([*rows, synthetic.row("l1-30", status="failed")])
    found = statistics.by_recipe(matrix, "fid")
    assert (found[BASELINE].n, found[BASELINE].mean) == (2, 15.0)
    assert found[PRUNED].n == 0
    assert statistics.outcomes(matrix)[BASELINE] == Outcome(3, 1, "train: loss is NaN at step 12")
    assert statistics.outcomes(matrix)[PRUNED] == Outcome(1, 1, "train: loss is NaN at step 12")


def test_changes_are_paired_by_seed() -> None:
    """Every seed doubles, though the recipe lacks the seed at which the baseline is worst."""
    rows = [synthetic.row(seed=seed, fid=fid) for seed, fid in enumerate((10.0, 20.0, 1000.0))]
    rows += [synthetic.row("l1-30", seed, fid=fid) for seed, fid in enumerate((20.0, 40.0))]
    found = statistics.change(synthetic.matrix(rows), "fid", "baseline")
    assert (found[PRUNED].n, found[PRUNED].mean) == (2, pytest.approx(100.0))
    assert found[PRUNED].low == pytest.approx(found[PRUNED].high) == pytest.approx(100.0)
    assert found[BASELINE].mean == pytest.approx(0.0)


def test_a_change_needs_the_reference_of_the_same_data_set_and_model() -> None:
    matrix = synthetic.matrix([synthetic.row(dataset="digits"), synthetic.row("l1-30")])
    assert math.isnan(statistics.change(matrix, "fid", "baseline")[PRUNED].mean)


def test_halving_and_doubling_are_opposite_changes() -> None:
    rows = [synthetic.row(seed=seed, fid=10.0) for seed in (0, 1)]
    rows += [synthetic.row("l1-30", seed, fid=fid) for seed, fid in enumerate((5.0, 20.0))]
    assert statistics.change(synthetic.matrix(rows), "fid", "baseline")[PRUNED].mean == pytest.approx(0.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_front_holds_what_no_other_beats(seed: int) -> None:
    generator = np.random.default_rng(seed)
    costs = [(float(x), float(y)) for x, y in generator.integers(0, 6, (30, 2))]  # with ties and twins

    def beaten(one: tuple[float, float]) -> bool:
        return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in costs)

    assert statistics.pareto_front(costs) == [not beaten(cost) for cost in costs]
