"""Statistics over seeds: means, paired ratios, tests. The unit of replication is the training seed, never the image."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

Recipe = tuple[str, str, str]  # dataset, model, optimization
CONFIDENCE = 0.95
# Smallest ratio of two in-domain Fréchet distances that counts as a difference. Extractors disagree on the order of
# 40 % of the pairs with ratios from 1.1 to 1.25, and of 11 % up to 1.5 (docs/metrics.md).
RESOLUTION = 1.25
FRECHET = ("fid_indomain", "fid_indomain_pct", "fid_indomain_min", "fid_indomain_max")  # RESOLUTION applies to these
ROUNDING = 1e-12  # a standard deviation below this share of the mean is rounding


@dataclass(frozen=True)
class Summary:
    """Mean of `n` values with their standard deviation and the 95 % confidence interval of the mean.

    Without values all numbers are NaN; with one value `sd`, `low` and `high` are.
    """

    n: int = 0
    mean: float = math.nan
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Ratio:
    """Geometric mean of the ratios of `n` pairs with equal seeds, its 95 % interval, and the p-value of a ratio of 1.

    Without pairs all numbers are NaN; with one pair `low`, `high` and `p` are.
    """

    n: int = 0
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan  # two-sided, uncorrected


@dataclass(frozen=True)
class Difference:
    """A recipe against its baseline."""

    ratio: Ratio
    p_holm: float  # corrected over all tested recipes; NaN without a test
    finding: str  # one of FINDINGS
    why: str  # reason for a finding other than better and worse


# "baseline" marks the baseline itself; the last three give the reason for a missing comparison.
FINDINGS = ("better", "worse", "unresolved", "one seed", "baseline", "failed", "no baseline", "no value")


@dataclass(frozen=True)
class Outcome:
    """Number of seeds of a recipe, number of those that failed, and the reason of the first failure."""

    seeds: int = 0
    failed: int = 0
    reason: str = ""


def summarize(values: Sequence[float]) -> Summary:
    """Return mean, standard deviation (n - 1) and 95 % t-interval of `values`."""
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
    """Return `summarize` of `column` for each recipe over its seeds without a failure, in the order of the matrix."""
    return {recipe: summarize(list(values.values())) for recipe, values in by_seed(matrix, column).items()}


def paired(own: Mapping[int, float], base: Mapping[int, float]) -> Ratio:
    """Return the ratio of `own` to `base`, both seed → value: paired t-test and 95 % t-interval on the logarithms.

    Pairing helps because recipes of one seed share initial weights and noise. Log ratios of distances are closer to
    normal. Seeds that one side lacks, and values that are not above 0, do not count.
    """
    shared = [seed for seed in own if own[seed] > 0 and base.get(seed, 0) > 0]
    logs = [math.log(own[seed] / base[seed]) for seed in shared]
    summary = summarize(logs)
    mean, low, high = (float(np.exp(number)) for number in (summary.mean, summary.low, summary.high))
    return Ratio(summary.n, mean, low, high, _p_value(summary))


def ratios(matrix: pd.DataFrame, column: str, baseline: str) -> dict[Recipe, Ratio]:
    """Return `paired` of `column` for each recipe against the recipe `baseline` of the same data set and model."""
    values = by_seed(matrix, column)
    return {recipe: paired(own, values.get((*recipe[:2], baseline), {})) for recipe, own in values.items()}


def percent_change(ratio: float) -> float:
    """Return a ratio to the baseline as a change in percent."""
    return 100 * (ratio - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjustment of a family of p-values (Scandinavian Journal of Statistics 6, 1979).

    Rejecting adjusted values below alpha bounds the probability of any false rejection in the family by alpha, under
    any dependence of the tests. NaN stays NaN and does not count.
    """
    order = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda index: p_values[index])
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def differences(matrix: pd.DataFrame, column: str, baseline: str) -> dict[Recipe, Difference]:
    """Return the finding on each recipe against `baseline` for a `column` in which lower is better.

    Holm's correction runs over every recipe of the matrix with a p-value: all data sets, all models. A recipe is better
    or worse if its corrected p-value is below 0.05 and, for a Fréchet distance, its mean ratio is beyond RESOLUTION.
    """
    all_ratios = ratios(matrix, column, baseline)
    tested = [recipe for recipe in all_ratios if recipe[2] != baseline]
    corrected = dict(zip(tested, holm([all_ratios[recipe].p for recipe in tested]), strict=True))
    values, recipe_outcomes = by_seed(matrix, column), outcomes(matrix)
    resolution = RESOLUTION if column in FRECHET else 1.0
    result = {}
    for recipe, ratio in all_ratios.items():
        p, outcome = corrected.get(recipe, math.nan), recipe_outcomes[recipe]
        if recipe[2] == baseline:
            finding, why = "baseline", ""
        elif outcome.failed == outcome.seeds:
            finding, why = "failed", outcome.reason
        elif not values[recipe]:
            finding, why = "no value", f"{column} was not measured"
        elif not ratio.n:
            finding, why = "no baseline", f"no seed in common with {baseline}"
        elif ratio.n == 1:
            finding, why = "one seed", "no interval and no test"
        elif not p < 1 - CONFIDENCE:
            finding, why = "unresolved", f"p {p:.2f} after Holm's correction"
        elif 1 / resolution <= ratio.mean <= resolution:
            finding, why = "unresolved", f"ratio within the resolution of {resolution}"
        else:
            finding, why = "better" if ratio.mean < 1 else "worse", ""
        result[recipe] = Difference(ratio, p, finding, why)
    return result


def sampling_sd(matrix: pd.DataFrame, column: str = "fid_indomain_sampling_sd") -> dict[Recipe, float]:
    """Return the noise of image sampling: the root mean square of `column`, a standard deviation per seed.

    The standard deviation over seeds (`summarize`) contains this noise and that of training. NaN if not measured.
    """
    return {
        recipe: math.sqrt(math.fsum(sd * sd for sd in own.values()) / len(own)) if own else math.nan
        for recipe, own in by_seed(matrix, column).items()
    }


def outcomes(matrix: pd.DataFrame) -> dict[Recipe, Outcome]:
    """Return the outcome of each recipe, in the order of the matrix."""
    counts: dict[Recipe, Outcome] = {}
    for recipe, status, reason in zip(_recipes(matrix), matrix["status"], matrix["reason"], strict=True):
        old = counts.get(recipe, Outcome())
        failed = status == "failed"
        counts[recipe] = Outcome(old.seeds + 1, old.failed + failed, old.reason or (str(reason) if failed else ""))
    return counts


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which of `costs` (pairs, lower is better) are Pareto-optimal; of equal pairs all or none are."""
    best = math.inf  # second cost among smaller first costs
    front = dict.fromkeys(costs, False)
    for cost in sorted(front):
        front[cost] = cost[1] < best
        best = min(best, cost[1])
    return [front[cost] for cost in costs]


def by_seed(matrix: pd.DataFrame, column: str) -> dict[Recipe, dict[int, float]]:
    """Return seed → value of `column` for each recipe, of cells that did not fail and have a value."""
    values: dict[Recipe, dict[int, float]] = {}
    columns = (matrix[name].to_list() for name in ("status", "seed", column))  # lists iterate much faster
    for recipe, status, seed, value in zip(_recipes(matrix), *columns, strict=True):
        own = values.setdefault(recipe, {})
        if status == "ok" and not pd.isna(value):
            own[int(seed)] = float(value)
    return values


def _p_value(summary: Summary) -> float:
    """Return the two-sided p-value of Student's t-test that the mean is 0."""
    if summary.n < 2:
        return math.nan
    if summary.sd <= ROUNDING * abs(summary.mean) or summary.sd == 0:  # for example file sizes
        return 1.0 if summary.mean == 0 else 0.0
    t = summary.mean / (summary.sd / math.sqrt(summary.n))
    return float(2 * special.stdtr(summary.n - 1, -abs(t)))  # scipy.stats.ttest_1samp, 100 × faster


@functools.cache
def _t_quantile(degrees: int) -> float:
    return float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2))


def _recipes(matrix: pd.DataFrame) -> list[Recipe]:
    """Return the recipe of each row."""
    return list(zip(*(matrix[name].to_list() for name in ("dataset", "model", "optimization")), strict=True))
