"""Statistics over seeds: means, paired ratios, tests. The unit of replication is the training seed, never the image."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from slimdiff.analysis.columns import SCALES, Scale

Recipe = tuple[str, str, str]  # dataset, model, optimization
CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE  # of tests for a difference (two-sided) and for equivalence (each of two one-sided ones)
ROUNDING = 1e-12  # a standard deviation below this share of the mean is rounding
# Columns that a busy machine falsifies: rows that a profile marks `disturbed` have no value in them.
TIMES = (
    *("inference_ms_per_image", "inference_ms_per_image_iqr"),
    *("inference_ms_per_image_batch_1", "inference_ms_per_image_batch_1_iqr"),
    *("speedup", "speedup_low", "speedup_high", "speedup_batch_1", "speedup_batch_1_low", "speedup_batch_1_high"),
    *("compile_s", "load_s", "energy_j_per_image"),
)


@dataclass(frozen=True)
class Summary:
    """Mean of `n` values with their standard deviation and the 95 % confidence interval of the mean.

    On the scale "log" the mean is geometric. Without values all numbers are NaN; with one value `sd`, `low` and `high`
    are.
    """

    n: int = 0
    mean: float = math.nan
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Ratio:
    """Geometric mean of the ratios of `n` pairs with equal seeds, its 95 % interval, and the p-value of a ratio of 1.

    Without pairs all numbers are NaN; with one pair `low`, `high`, `p` and `sd` are.
    """

    n: int = 0
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan  # two-sided, uncorrected
    sd: float = math.nan  # of the logarithms, n - 1

    @property
    def inverse(self) -> "Ratio":
        """The ratio of the other side to this one."""
        return Ratio(self.n, 1 / self.mean, 1 / self.high, 1 / self.low, self.p, self.sd)


@dataclass(frozen=True)
class Outcome:
    """Numbers of seeds of a recipe."""

    seeds: int = 0  # of the matrix
    failed: int = 0
    reason: str = ""  # of the first failure
    disturbed: int = 0  # did not fail, and other processes disturbed their times
    unwatched: int = 0  # did not fail, and nothing recorded what other processes took


def summarize(values: Sequence[float], scale: Scale = "plain") -> Summary:
    """Return mean, standard deviation (n - 1) and 95 % t-interval of `values`.

    Args:
        scale: "log" takes the geometric mean and the interval of the logarithms, which is above 0; with a value of 0 or
            less the mean is arithmetic and has no interval. "share" cuts the interval to 0 to 1.
    """
    n = len(values)
    if scale == "log" and n:
        plain = summarize(values)
        if min(values) <= 0:
            return Summary(n, plain.mean, plain.sd)
        logs = summarize([math.log(value) for value in values])
        mean = values[0] if n == 1 else math.exp(logs.mean)
        return Summary(n, mean, plain.sd, math.exp(logs.low), math.exp(logs.high))
    if n == 0:
        return Summary()
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    reach = _t_quantile(n - 1) * sd / math.sqrt(n)
    low, high = mean - reach, mean + reach
    return Summary(n, mean, sd, max(low, 0.0), min(high, 1.0)) if scale == "share" else Summary(n, mean, sd, low, high)


def by_recipe(matrix: pd.DataFrame, column: str) -> dict[Recipe, Summary]:
    """Return `summarize` of `column` for each recipe over its seeds without a failure, in the order of the matrix.

    The scale is that of the column; derived columns are quantities above 0.
    """
    scale = SCALES.get(column, "log")
    return {recipe: summarize(list(values.values()), scale) for recipe, values in by_seed(matrix, column).items()}


def paired(own: Mapping[int, float], base: Mapping[int, float]) -> Ratio:
    """Return the ratio of `own` to `base`, both seed → value: paired t-test and 95 % t-interval on the logarithms.

    Pairing helps because recipes of one seed share initial weights and noise. Log ratios of distances are closer to
    normal. Seeds that one side lacks, and values that are not above 0, do not count.
    """
    shared = [seed for seed in own if own[seed] > 0 and base.get(seed, 0) > 0]
    logs = [math.log(own[seed] / base[seed]) for seed in shared]
    summary = summarize(logs)
    mean, low, high = (float(np.exp(number)) for number in (summary.mean, summary.low, summary.high))
    return Ratio(summary.n, mean, low, high, _p_value(summary), summary.sd)


def paired_difference(own: Mapping[int, float], base: Mapping[int, float]) -> Summary:
    """Return the mean of `own` - `base`, both seed → share, over the seeds of both, with its 95 % t-interval."""
    return summarize([own[seed] - base[seed] for seed in own if seed in base])


def log_sd(values: Sequence[float]) -> float:
    """Return the standard deviation (n - 1) of the logarithms of `values`, all above 0, two or more."""
    return summarize([math.log(value) for value in values]).sd


def equivalence_p(ratio: Ratio, margin: float) -> float:
    """Return the p-value of two one-sided t-tests that a ratio lies between 1/`margin` and `margin` (`margin` > 1).

    Schuirmann 1987, on logarithms: the larger of the two p-values. Below 0.05 if and only if the 90 % interval lies
    inside the margin. NaN with fewer than two pairs.
    """
    if ratio.n < 2:
        return math.nan
    room = math.log(margin) - abs(math.log(ratio.mean))
    if ratio.sd <= ROUNDING:
        return 0.0 if room > 0 else 1.0
    return float(special.stdtr(ratio.n - 1, -room / (ratio.sd / math.sqrt(ratio.n))))


def ratios(matrix: pd.DataFrame, column: str, references: str | Mapping[Recipe, str | None]) -> dict[Recipe, Ratio]:
    """Return `paired` of `column` for each recipe against its reference of the same data set and model.

    Args:
        references: recipe → the recipe to compare it with, or one for all.
    """
    values = by_seed(matrix, column)
    result = {}
    for recipe, own in values.items():
        reference = references if isinstance(references, str) else references.get(recipe)
        result[recipe] = paired(own, values.get((*recipe[:2], reference), {}) if reference else {})
    return result


def share_differences(
    matrix: pd.DataFrame, column: str, references: Mapping[Recipe, str | None]
) -> dict[Recipe, Summary]:
    """Return `paired_difference` of `column`, a share, for each recipe and its reference."""
    values = by_seed(matrix, column)
    sides = {recipe: values.get((*recipe[:2], reference or ""), {}) for recipe, reference in references.items()}
    return {recipe: paired_difference(own, sides.get(recipe, {})) for recipe, own in values.items()}


def percent_change(ratio: float) -> float:
    """Return a ratio to the baseline as a change in percent."""
    return 100 * (ratio - 1)


def holm(p_values: Sequence[float], untested: int = 0) -> list[float]:
    """Return Holm's step-down adjustment of a family of p-values (Scandinavian Journal of Statistics 6, 1979).

    Rejecting adjusted values below alpha bounds the probability of any false rejection in the family by alpha, under
    any dependence of the tests. NaN stays NaN and counts, as do `untested` further members: a cell that fails makes the
    family no smaller.
    """
    family = len(p_values) + untested
    order = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda index: p_values[index])
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (family - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float], untested: int = 0) -> list[float]:
    """Return the step-up adjustment of Benjamini and Hochberg (JRSS B 57, 1995) of a family of p-values.

    Rejecting adjusted values below alpha keeps the expected share of false rejections among all rejections below alpha,
    for independent and for positively dependent tests (Benjamini and Yekutieli 2001). NaN and `untested` count as in
    `holm`.
    """
    family = len(p_values) + untested
    order = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda index: p_values[index])
    adjusted = [math.nan] * len(p_values)
    smallest = 1.0
    for rank, index in reversed(list(enumerate(order, start=1))):
        smallest = min(smallest, p_values[index] * family / rank)
        adjusted[index] = smallest
    return adjusted


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
    columns = (matrix[name].to_list() for name in ("status", "reason", "disturbed"))
    for recipe, status, reason, disturbed in zip(_recipes(matrix), *columns, strict=True):
        old = counts.get(recipe, Outcome())
        failed, unknown = status == "failed", pd.isna(disturbed)
        counts[recipe] = Outcome(
            old.seeds + 1,
            old.failed + failed,
            old.reason or (str(reason) if failed else ""),
            old.disturbed + (not failed and not unknown and disturbed),
            old.unwatched + (not failed and unknown),
        )
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
    """Return seed → value of `column` for each recipe, of cells that did not fail and have a value.

    Cells whose profile was disturbed have no value in TIMES.
    """
    values: dict[Recipe, dict[int, float]] = {}
    columns = (matrix[name].to_list() for name in ("status", "seed", column))  # lists iterate much faster
    unusable = disturbed_rows(matrix).to_list() if column in TIMES else [False] * len(matrix)
    for recipe, status, seed, value, disturbed in zip(_recipes(matrix), *columns, unusable, strict=True):
        own = values.setdefault(recipe, {})
        if status == "ok" and not disturbed and not pd.isna(value):
            own[int(seed)] = float(value)
    return values


def disturbed_rows(matrix: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows have disturbed times. Those with a null have times to show, but none that decide anything."""
    return matrix["disturbed"].astype("boolean").fillna(False).astype(bool)


def without_disturbed_times(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return `matrix` with nulls for the TIMES of disturbed rows."""
    rows = disturbed_rows(matrix)
    return matrix.assign(**{name: matrix[name].mask(rows) for name in TIMES})


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
