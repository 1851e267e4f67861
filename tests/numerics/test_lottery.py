"""The benchmark of seeds that a difference needs: its counts are those of simulated t-tests and of plain loops."""

import importlib
import math
import sys
from types import ModuleType

import numpy as np
import pytest
from presets import ROOT
from scipy import stats


@pytest.fixture(scope="module")
def lottery() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks" / "scores"))
    return importlib.import_module("lottery")


@pytest.mark.parametrize(("sd", "ratio"), [(0.02, 1.1), (0.05, 1.1), (0.1, 1.1), (0.25, 1.25)])
def test_seeds_needed_have_the_power_of_simulated_tests(lottery: ModuleType, sd: float, ratio: float) -> None:
    n, random = lottery.seeds_needed(sd, ratio), np.random.default_rng(0)

    def power(count: int) -> float:
        draws = random.normal(math.log(ratio), sd, (20_000, count))
        return float((stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean())

    assert power(n) > lottery.POWER - 0.01
    assert n == 2 or power(n - 1) < lottery.POWER + 0.01


def test_a_tiny_spread_needs_two_seeds(lottery: ModuleType) -> None:
    assert [lottery.seeds_needed(0.005, ratio) for ratio in (1.1, 1.25, 2.0)] == [2, 2, 2]


def test_wrong_rankings_are_those_of_a_plain_loop(lottery: ModuleType) -> None:
    random = np.random.default_rng(1)
    recipes = [("mnist", "ncsn", name) for name in "abc"]
    values = {recipe: dict(enumerate(np.exp(random.normal(0.0, 0.1, 5)))) for recipe in recipes}
    found = {(row["one"], row["other"]): row["wrong"] for row in lottery.wrong_rankings(values, recipes)}
    for (one, other), wrong in found.items():
        own, base = values["mnist", "ncsn", one], values["mnist", "ncsn", other]
        expected = 0
        for seed in range(5):
            others = [math.log(own[s]) - math.log(base[s]) for s in range(5) if s != seed]
            expected += (own[seed] < base[seed]) != (sum(others) < 0)
        assert wrong == expected
    assert len(found) == 3
