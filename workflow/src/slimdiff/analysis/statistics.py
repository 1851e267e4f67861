"""What the seeds say together. The unit of replication is the training seed, never the image."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

Recipe = tuple[str, str, str]  # dataset, model, optimization
CONFIDENCE = 0.95
# In-domain Fréchet distances nearer to each other than this ratio are ordered differently by different extractors: 40 %
# of the pairs between 1.1 and 1.25, 11 % up to 1.5 (docs/metrics.md). So no such difference is taken for a result.
RESOLUTION = 1.25
ROUNDING = 1e-12  # a spread that small beside the mean is rounding
FRECHET = (
    "fid_indomain",
    "fid_indomain_pct",
    "fid_indomain_min",
    "fid_indomain_max",
)  # the columns that it is the resolution of


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
class Ratio:
    """Geometric mean of the ratios of `n` pairs of equal seeds, its interval, and the p-value of a ratio of 1.

    NaN as in Summary: a single pair has neither an interval nor a p-value.
    """

    n: int = 0
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan  # two-sided, uncorrected


@dataclass(frozen=True)
class Difference:
    """How a recipe differs from the recipe of reference, and what may be said about it."""

    ratio: Ratio
    p_holm: float  # corrected for every recipe that was tested; NaN where there is no test
    finding: str  # a word of FINDINGS
    why: str  # what keeps it from being more than that; empty where nothing does


# reference: the recipe that others are held against; the last three say why there is no comparison at all.
FINDINGS = ("better", "worse", "unresolved", "one seed", "reference", "failed", "no reference", "no value")


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
    return {recipe: summarize(list(values.values())) for recipe, values in by_seed(matrix, column).items()}


def paired(own: Mapping[int, float], base: Mapping[int, float]) -> Ratio:
    """The ratio of `own` to `base`, both by seed: paired t-test and 95 % t-interval on the logarithms.

    Seeds that one side lacks, or whose value is not above 0 on either, do not count. A seed shares its start and its
    noise with every recipe, and ratios of distances are nearer normal in the log.
    """
    shared = [seed for seed in own if own[seed] > 0 and base.get(seed, 0) > 0]
    logs = [math.log(own[seed] / base[seed]) for seed in shared]
    summary = summarize(logs)
    mean, low, high = (float(np.exp(number)) for number in (summary.mean, summary.low, summary.high))
    return Ratio(summary.n, mean, low, high, _p_value(summary))


def ratios(matrix: pd.DataFrame, column: str, reference: str) -> dict[Recipe, Ratio]:
    """`paired` of `column` for each recipe against the recipe `reference` of the same data set and model."""
    values = by_seed(matrix, column)
    return {recipe: paired(own, values.get((*recipe[:2], reference), {})) for recipe, own in values.items()}


def change(matrix: pd.DataFrame, column: str, reference: str) -> dict[Recipe, Summary]:
    """Change of `column` in percent of the recipe `reference` of the same data set and model, paired by seed.

    Mean and interval are those of `paired`; the standard deviation is left out.
    """
    changes = {}
    for recipe, ratio in ratios(matrix, column, reference).items():
        mean, low, high = (100 * (number - 1) for number in (ratio.mean, ratio.low, ratio.high))
        changes[recipe] = Summary(ratio.n, mean, math.nan, low, high)
    return changes


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics 6, 1979) of a family of p-values.

    To call a result significant where its adjusted value is below alpha keeps the chance of any false one in the family
    below alpha, however the tests depend on each other. NaN stays NaN and belongs to no family.
    """
    order = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda index: p_values[index])
    adjusted = [math.nan] * len(p_values)
    least = 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def differences(matrix: pd.DataFrame, column: str, reference: str) -> dict[Recipe, Difference]:
    """What may be said of each recipe against `reference`, for a `column` in which less is better.

    The family of Holm's correction is every recipe of the matrix that has a p-value: all data sets, all models. A
    recipe is better or worse where its corrected p-value is below 0.05 and, for a Fréchet distance, its mean ratio lies
    outside of RESOLUTION.
    """
    found = ratios(matrix, column, reference)
    tested = [recipe for recipe in found if recipe[2] != reference]
    corrected = dict(zip(tested, holm([found[recipe].p for recipe in tested]), strict=True))
    values, ended = by_seed(matrix, column), outcomes(matrix)
    resolution = RESOLUTION if column in FRECHET else 1.0
    result = {}
    for recipe, ratio in found.items():
        p = corrected.get(recipe, math.nan)
        if recipe[2] == reference:
            finding, why = "reference", ""
        elif ended[recipe].failed == ended[recipe].seeds:
            finding, why = "failed", ended[recipe].reason
        elif not values[recipe]:
            finding, why = "no value", f"{column} was not measured"
        elif not ratio.n:
            finding, why = "no reference", f"no seed that {reference} has as well"
        elif ratio.n == 1:
            finding, why = "one seed", "no interval and no test"
        elif not p < 1 - CONFIDENCE:
            finding, why = "unresolved", f"p {p:.2f} after Holm's correction"
        elif 1 / resolution <= ratio.mean <= resolution:
            finding, why = "unresolved", f"within the resolution, a ratio of {resolution}"
        else:
            finding, why = "better" if ratio.mean < 1 else "worse", ""
        result[recipe] = Difference(ratio, p, finding, why)
    return result


def sampling_sd(matrix: pd.DataFrame, column: str = "fid_indomain_sampling_sd") -> dict[Recipe, float]:
    """Noise from the draw of images alone: root mean square over seeds of their standard deviations in `column`.

    The standard deviation over seeds (`summarize`) holds this noise and that of training; NaN where none was measured.
    """
    return {
        recipe: math.sqrt(math.fsum(sd * sd for sd in own.values()) / len(own)) if own else math.nan
        for recipe, own in by_seed(matrix, column).items()
    }


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


def by_seed(matrix: pd.DataFrame, column: str) -> dict[Recipe, dict[int, float]]:
    """For each recipe the values of `column` by seed, of cells that did not fail and have one."""
    values: dict[Recipe, dict[int, float]] = {}
    columns = (matrix[name].to_list() for name in ("status", "seed", column))  # a list is much faster to walk
    for recipe, status, seed, value in zip(_recipes(matrix), *columns, strict=True):
        own = values.setdefault(recipe, {})
        if status == "ok" and not pd.isna(value):
            own[int(seed)] = float(value)
    return values


def _p_value(summary: Summary) -> float:
    """Two-sided p-value of Student's test that the mean of what `summary` sums up is 0."""
    if summary.n < 2:
        return math.nan
    if summary.sd <= ROUNDING * abs(summary.mean) or summary.sd == 0:  # as of sizes, which no seed moves
        return 1.0 if summary.mean == 0 else 0.0
    t = summary.mean / (summary.sd / math.sqrt(summary.n))
    return float(2 * special.stdtr(summary.n - 1, -abs(t)))  # as scipy.stats.ttest_1samp, in a hundredth of its time


@functools.cache
def _t_quantile(degrees: int) -> float:
    return float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2))


def _recipes(matrix: pd.DataFrame) -> list[Recipe]:
    """The recipe of each row."""
    return list(zip(*(matrix[name].to_list() for name in ("dataset", "model", "optimization")), strict=True))
