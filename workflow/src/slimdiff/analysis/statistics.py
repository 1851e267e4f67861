"""What the seeds say together. The unit of replication is the training seed, never the image."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

Recipe = tuple[str, str, str]  # dataset, model, optimization
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean of `n` values with their standard deviation and the confidence interval of the mean.

    NaN stands for what the values cannot tell: everything without a value, spread and interval with a single one.
    """

    n: int = 0
    mean: float = math.nan
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Outcome:
    """How many seeds a recipe has, how many of them failed, and why the first did."""

    seeds: int = 0
    failed: int = 0
    reason: str = ""


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard deviation (n - 1) and 95 % t-interval of `values`."""
    n = len(values)
    if n == 0:
        return Summary()
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    reach = _t_quantile(n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - reach, mean + reach)


def by_recipe(matrix: pd.DataFrame, column: str) -> dict[Recipe, Summary]:
    """`summarize` of `column` over the seeds of each recipe that did not fail, in the order of the matrix."""
    return {recipe: summarize(list(values.values())) for recipe, values in _by_seed(matrix, column).items()}


def change(matrix: pd.DataFrame, column: str, reference: str) -> dict[Recipe, Summary]:
    """Change of `column` in percent of the recipe `reference` of the same data set and model, paired by seed.

    The mean is the geometric mean of the ratios of equal seeds, the interval a t-interval of their logarithms:
    a seed shares its start and its noise with every recipe, and ratios of distances are nearer normal in the log.
    The standard deviation is left out.
    """
    values = _by_seed(matrix, column)
    changes = {}
    for recipe, own in values.items():
        base = values.get((recipe[0], recipe[1], reference), {})
        shared = [seed for seed in own if own[seed] > 0 and base.get(seed, 0) > 0]
        log = summarize([math.log(own[seed] / base[seed]) for seed in shared])
        mean, low, high = (100 * float(np.expm1(number)) for number in (log.mean, log.low, log.high))
        changes[recipe] = Summary(log.n, mean, math.nan, low, high)
    return changes


def outcomes(matrix: pd.DataFrame) -> dict[Recipe, Outcome]:
    """The outcome of each recipe, in the order of the matrix."""
    found: dict[Recipe, Outcome] = {}
    for recipe, status, reason in zip(_recipes(matrix), matrix["status"], matrix["reason"], strict=True):
        old = found.get(recipe, Outcome())
        failed = status == "failed"
        found[recipe] = Outcome(old.seeds + 1, old.failed + failed, old.reason or (str(reason) if failed else ""))
    return found


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of `costs` (pairs, lower is better) no other beats: as good in both and better in one."""
    best = math.inf  # of the second cost, among those with a smaller first cost
    front = dict.fromkeys(costs, False)
    for cost in sorted(front):
        front[cost] = cost[1] < best
        best = min(best, cost[1])
    return [front[cost] for cost in costs]


@functools.cache
def _t_quantile(degrees: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def _recipes(matrix: pd.DataFrame) -> list[Recipe]:
    """The recipe of each row."""
    return list(zip(matrix["dataset"], matrix["model"], matrix["optimization"], strict=True))


def _by_seed(matrix: pd.DataFrame, column: str) -> dict[Recipe, dict[int, float]]:
    """For each recipe the values of `column` by seed, of cells that did not fail and have one."""
    values: dict[Recipe, dict[int, float]] = {}
    columns = zip(_recipes(matrix), matrix["status"], matrix["seed"], matrix[column], strict=True)
    for recipe, status, seed, value in columns:
        own = values.setdefault(recipe, {})
        if status == "ok" and not pd.isna(value):
            own[int(seed)] = float(value)
    return values
