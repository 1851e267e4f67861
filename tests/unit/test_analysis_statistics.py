"""Statistics over seeds: against scipy, by hand, and in simulations with a known truth."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
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


def test_one_seed_has_no_interval_and_no_seeds_have_no_mean() -> None:
    one = statistics.summarize([2.0])
    assert (one.n, one.mean) == (1, 2.0)
    assert all(math.isnan(value) for value in (one.sd, one.low, one.high))
    assert math.isnan(statistics.summarize([]).mean)


def test_failed_seeds_do_not_count() -> None:
    rows = [
        synthetic.row(seed=0, fid_indomain=10.0),
        synthetic.row(seed=1, fid_indomain=20.0),
        synthetic.row(seed=2, status="failed"),
    ]
    matrix = synthetic.frame([*rows, synthetic.row("l1-30", status="failed")])
    found = statistics.by_recipe(matrix, "fid_indomain")
    assert (found[BASELINE].n, found[BASELINE].mean) == (2, pytest.approx(math.sqrt(200)))
    assert found[PRUNED].n == 0
    assert statistics.outcomes(matrix)[BASELINE] == Outcome(3, 1, "train: loss is NaN at step 12")
    assert statistics.outcomes(matrix)[PRUNED] == Outcome(1, 1, "train: loss is NaN at step 12")


def test_ratios_are_paired_by_seed() -> None:
    """Every seed doubles, although the recipe lacks the baseline's worst seed."""
    rows = [synthetic.row(seed=seed, fid_indomain=fid) for seed, fid in enumerate((10.0, 20.0, 1000.0))]
    rows += [synthetic.row("l1-30", seed, fid_indomain=fid) for seed, fid in enumerate((20.0, 40.0))]
    ratios = statistics.ratios(synthetic.frame(rows), "fid_indomain", "baseline")
    assert (ratios[PRUNED].n, ratios[PRUNED].mean) == (2, pytest.approx(2.0))
    assert ratios[PRUNED].low == pytest.approx(ratios[PRUNED].high) == pytest.approx(2.0)
    assert ratios[BASELINE].mean == pytest.approx(1.0)
    assert statistics.percent_change(2.0) == 100.0


def test_a_ratio_needs_the_baseline_of_the_same_data_set_and_model() -> None:
    matrix = synthetic.frame([synthetic.row(dataset="digits"), synthetic.row("l1-30")])
    assert math.isnan(statistics.ratios(matrix, "fid_indomain", "baseline")[PRUNED].mean)


def test_halving_and_doubling_are_opposite_changes() -> None:
    rows = [synthetic.row(seed=seed, fid_indomain=10.0) for seed in (0, 1)]
    rows += [synthetic.row("l1-30", seed, fid_indomain=fid) for seed, fid in enumerate((5.0, 20.0))]
    assert statistics.ratios(synthetic.frame(rows), "fid_indomain", "baseline")[PRUNED].mean == pytest.approx(1.0)


def test_positive_quantities_have_positive_intervals() -> None:
    """The published 2 groups of three seeds once had an interval of [-364, 1413]."""
    values = [100.0, 300.0, 1200.0]
    logs = np.log(values)
    low, high = np.exp(stats.t.interval(0.95, 2, loc=logs.mean(), scale=stats.sem(logs)))
    found = statistics.summarize(values, "log")
    assert found.mean == pytest.approx(stats.gmean(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.low > 0 > statistics.summarize(values).low
    assert statistics.summarize([7.0], "log").mean == 7.0
    with_zero = statistics.summarize([0.0, 1.0], "log")
    assert (with_zero.mean, math.isnan(with_zero.low)) == (0.5, True)


def test_intervals_of_shares_stay_between_0_and_1() -> None:
    found = statistics.summarize([0.9, 0.99, 1.0], "share")
    assert (found.high, found.mean) == (1.0, pytest.approx(0.9633333))
    assert found.low == statistics.summarize([0.9, 0.99, 1.0]).low


def test_shares_are_compared_in_points() -> None:
    found = statistics.paired_difference({0: 0.8, 1: 0.7, 5: 0.1}, {0: 0.9, 1: 0.85, 2: 0.0})
    assert (found.n, found.mean) == (2, pytest.approx(-0.125))


def test_equivalence_is_two_one_sided_tests() -> None:
    """Schuirmann 1987, by scipy's one-sided tests; below 0.05 if and only if the 90 % interval is inside."""
    margin, base = math.log(1.25), np.ones(4)
    for own in ([1.02, 1.05, 0.99, 1.03], [1.1, 1.3, 1.2, 1.15], [0.7, 1.4, 1.0, 1.1], [0.9, 0.88, 0.91, 0.95]):
        found = statistics.paired(dict(enumerate(own)), dict(enumerate(base)))
        above = stats.ttest_1samp(np.log(own), -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(np.log(own), margin, alternative="less").pvalue
        p = statistics.equivalence_p(found, 1.25)
        assert p == pytest.approx(max(above, below))
        low, high = stats.t.interval(0.90, 3, loc=np.log(own).mean(), scale=stats.sem(np.log(own)))
        assert (p < 0.05) == (-margin < low and high < margin)
    assert math.isnan(statistics.equivalence_p(statistics.paired({0: 1.0}, {0: 1.0}), 1.25))
    same = statistics.paired({0: 2.0, 1: 3.0}, {0: 2.0, 1: 3.0})
    assert statistics.equivalence_p(same, 1.25) == 0.0


def test_a_disturbed_row_has_no_times_and_keeps_the_rest() -> None:
    rows = [synthetic.row(seed=seed, speedup=2.0, fid_indomain=9.0) for seed in range(3)]
    frame = synthetic.frame(rows).assign(disturbed=pd.array([None, True, False], dtype="boolean"))
    assert statistics.by_seed(frame, "speedup") == {BASELINE: {0: 2.0, 2: 2.0}}
    assert statistics.by_seed(frame, "inference_ms_per_image")[BASELINE].keys() == {0, 2}
    assert statistics.by_seed(frame, "fid_indomain")[BASELINE].keys() == {0, 1, 2}
    assert statistics.outcomes(frame)[BASELINE] == Outcome(3, 0, "", disturbed=1, unwatched=1)
    shown = statistics.without_disturbed_times(frame)
    assert [name for name in frame if shown[name].isna().sum() > frame[name].isna().sum()] == [
        "inference_ms_per_image",
        "speedup",
    ]
    assert shown["speedup"].isna().to_list() == [False, True, False]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_holds_the_points_that_no_other_dominates(seed: int) -> None:
    generator = np.random.default_rng(seed)
    costs = [(float(x), float(y)) for x, y in generator.integers(0, 6, (30, 2))]  # with ties and twins

    def beaten(one: tuple[float, float]) -> bool:
        return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in costs)

    assert statistics.pareto_front(costs) == [not beaten(cost) for cost in costs]


def test_the_paired_test_equals_scipys_on_logarithms() -> None:
    base, own = [40.0, 52.0, 31.0, 47.0], [30.0, 41.0, 27.0, 33.0]
    found = statistics.paired(dict(enumerate(own)), dict(enumerate(base)))
    test = stats.ttest_rel(np.log(own), np.log(base))
    low, high = np.exp(test.confidence_interval(0.95))
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.mean == pytest.approx(np.exp(np.mean(np.log(own) - np.log(base))))


def test_pairs_have_equal_seeds_and_positive_values() -> None:
    found = statistics.paired({0: 2.0, 1: 4.0, 2: 9.0, 3: -1.0, 4: 1.0}, {0: 1.0, 1: 1.0, 3: 1.0, 4: 0.0})
    assert (found.n, found.mean) == (2, pytest.approx(math.sqrt(8)))


def test_one_pair_has_neither_interval_nor_p() -> None:
    found = statistics.paired({0: 2.0}, {0: 1.0})
    assert (found.n, found.mean) == (1, 2.0)
    assert all(math.isnan(number) for number in (found.low, found.high, found.p))


def test_deterministic_values_need_no_spread() -> None:
    smaller = statistics.paired({0: 50.0, 1: 50.0}, {0: 100.0, 1: 100.0})
    assert (smaller.mean, smaller.low, smaller.high, smaller.p) == (pytest.approx(0.5),) * 3 + (0.0,)
    assert statistics.paired({0: 3.0, 1: 3.0}, {0: 3.0, 1: 3.0}).p == 1.0


def test_holm_on_a_printed_example() -> None:
    """Wikipedia, Holm-Bonferroni method, example: of these four only the first and the last are rejected at 0.05."""
    adjusted = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [p < 0.05 for p in adjusted] == [True, False, False, True]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_bonferroni_on_every_subset(p_values: list[float]) -> None:
    """Its other definition, by closed testing (Marcus, Peritz and Gabriel 1976)."""
    indices = range(len(p_values))
    subsets = [set(s) for size in range(1, len(p_values) + 1) for s in itertools.combinations(indices, size)]
    bonferroni = [min(1.0, len(subset) * min(p_values[index] for index in subset)) for subset in subsets]
    worst = [max(p for subset, p in zip(subsets, bonferroni, strict=True) if index in subset) for index in indices]
    assert statistics.holm(p_values) == pytest.approx(worst)


def test_cells_without_a_test_count_in_holms_family() -> None:
    adjusted = statistics.holm([0.01, math.nan, 0.02])
    assert math.isnan(adjusted[1])
    assert [adjusted[0], adjusted[2]] == pytest.approx([0.03, 0.04])
    assert statistics.holm([0.01, 0.02], untested=1) == pytest.approx([0.03, 0.04])
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_benjamini_hochberg_equals_scipys(p_values: list[float], untested: int) -> None:
    expected = stats.false_discovery_control([*p_values, *[1.0] * untested])[: len(p_values)]
    assert statistics.benjamini_hochberg(p_values, untested) == pytest.approx(expected)


def test_cells_without_a_test_count_in_benjamini_and_hochbergs_family() -> None:
    adjusted = statistics.benjamini_hochberg([0.01, math.nan, 0.02])
    assert math.isnan(adjusted[1])
    assert [adjusted[0], adjusted[2]] == pytest.approx([0.03, 0.03])
    assert statistics.benjamini_hochberg([]) == []


def test_sampling_noise_is_separate_from_the_spread_over_seeds() -> None:
    rows = [
        synthetic.row(seed=seed, fid_indomain=10.0 + seed, fid_indomain_sampling_sd=sd)
        for seed, sd in enumerate((3.0, 4.0))
    ]
    matrix = synthetic.frame([*rows, synthetic.row("l1-30")])
    assert statistics.sampling_sd(matrix)[BASELINE] == pytest.approx(math.sqrt((9 + 16) / 2))
    assert math.isnan(statistics.sampling_sd(matrix)[PRUNED])
    assert statistics.by_recipe(matrix, "fid_indomain")[BASELINE].sd == pytest.approx(math.sqrt(0.5))


TRIALS = 3000  # simulations: a fraction of 0.05 then has a standard deviation of 0.004


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_the_truth_in_95_of_100_cases(seeds: int) -> None:
    """Each seed scales recipe and baseline by a common factor, as in a real matrix."""
    generator = np.random.default_rng(3)
    ratio = 1.4
    held = narrow = 0
    for _ in range(TRIALS):
        common = generator.normal(0, 0.5, seeds)
        base = np.exp(common + generator.normal(0, 0.1, seeds))
        own = ratio * np.exp(common + generator.normal(0, 0.1, seeds))
        found = statistics.paired(dict(enumerate(own)), dict(enumerate(base)))
        held += found.low <= ratio <= found.high
        logs = np.log(own / base)
        narrow += abs(logs.mean() - math.log(ratio)) <= 1.96 * logs.std(ddof=1) / math.sqrt(seeds)
    assert held / TRIALS == pytest.approx(0.95, abs=0.016)
    assert narrow / TRIALS < 0.90, "with so few seeds 1.96 standard errors are too few"


def test_the_paired_test_has_5_percent_false_positives() -> None:
    generator = np.random.default_rng(4)
    false = 0
    for _ in range(TRIALS):
        common = generator.normal(0, 0.5, 3)
        base, own = (np.exp(common + generator.normal(0, 0.1, 3)) for _ in range(2))
        false += statistics.paired(dict(enumerate(own)), dict(enumerate(base))).p < 0.05
    assert false / TRIALS == pytest.approx(0.05, abs=0.016)
