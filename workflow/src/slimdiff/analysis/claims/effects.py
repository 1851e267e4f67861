"""Effects and decisions: the measured size of a comparison, and whether the seeds decide it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

from slimdiff.analysis import statistics
from slimdiff.analysis.claims.expressions import SIZES, Comparison
from slimdiff.analysis.columns import SCALES
from slimdiff.analysis.decisions import Margins
from slimdiff.analysis.measures import KID
from slimdiff.analysis.statistics import ALPHA, TIMES

REPLICATED, CONTRADICTED, UNRESOLVED, NOT_RUN = VERDICTS = ("replicated", "contradicted", "unresolved", "not run")
ONE_SEED = "one seed, no interval"
FRECHET = (
    *(f"fid_indomain{end}" for end in ("", "_pct", "_min", "_max")),
    *("fid_foreign", "fid_inception", "fid_paper"),
)
DISTANCES = (*FRECHET, KID.column, "mind")  # the margin of quality applies to these
SPEEDUPS = ("speedup", "speedup_batch_1")
COUNTS = ("params", "params_nonzero", "macs", "macs_per_image")  # seeds do not move them, or hardly
EXACT = (*COUNTS, *SIZES)  # one seed is enough; seeds move sizes by less than the margin
NOT_OF_IMAGES = (*EXACT, *SPEEDUPS, *TIMES)


@dataclass(frozen=True)
class Effect:
    """The measured effect of a comparison, over `n` of the seeds in `shared`."""

    shared: Sequence[int]
    n: int
    mean: float  # geometric mean of left / right; without a right the mean of the left, geometric if it is above 0
    low: float  # 95 % t-interval
    high: float
    error: float  # standard error, of the logarithm if `log`; 0 for an exact effect
    log: bool

    def p_above(self, threshold: float) -> float:
        """Return the one-sided p-value of an effect of at most `threshold`; NaN without a spread."""
        gap = math.log(self.mean / threshold) if self.log else self.mean - threshold
        if self.error == 0:
            return 0.0 if gap > 0 else 1.0
        return float(special.stdtr(self.n - 1, -gap / self.error))

    def p_below(self, threshold: float) -> float:
        """Return the one-sided p-value of an effect of at least `threshold`; NaN without a spread."""
        if self.error == 0:
            return 0.0 if self.mean < threshold else 1.0
        return 1.0 - self.p_above(threshold)


@dataclass(frozen=True)
class Decision:
    """A verdict, the reason if it is not replicated, and the two-sided p-value of a contradiction."""

    verdict: str
    why: str = ""
    p_against: float = math.nan


def measure(values: Sequence[Mapping[int, float]], columns: Sequence[str]) -> Effect:
    """Return the effect of one or two sides, each seed → value of its column.

    A single seed has an interval of width 0 if seeds do not move the columns, or if both sides are equal.
    """
    exact = all(column in EXACT for column in columns)
    if len(values) == 2:
        left, right = values
        ratio = statistics.paired(left, right)
        shared = [seed for seed in left if seed in right]
        exact |= bool(shared) and all(left[seed] == right[seed] for seed in shared)
        effect = Effect(shared, ratio.n, ratio.mean, ratio.low, ratio.high, _error(ratio.sd, ratio.n), log=True)
    else:
        scale = SCALES.get(columns[0], "log")
        own = list(values[0].values())
        summary = statistics.summarize(own, scale)
        log = scale == "log" and min(own, default=0.0) > 0
        sd = statistics.log_sd(own) if log and summary.n > 1 else summary.sd
        error = _error(sd, summary.n)
        effect = Effect(list(values[0]), summary.n, summary.mean, summary.low, summary.high, error, log)
    if effect.n == 1 and exact:
        return exactly(effect.mean, effect.shared)
    return effect


def exactly(mean: float, shared: Sequence[int] = (0,)) -> Effect:
    """Return an effect that is known without an error."""
    return Effect(shared, 1, mean, mean, mean, 0.0, log=mean > 0)


def resolution(columns: Sequence[str], margins: Margins, datasets: Sequence[str]) -> tuple[float, float]:
    """Return the ratios beyond which `columns` of cells of `datasets` differ, and within which they are equal."""
    if set(columns) & set(DISTANCES):
        return margins.of_images(*datasets), margins.of_equivalence(*datasets)
    for margin, names in ((margins.speed, SPEEDUPS), (margins.size, SIZES)):
        if set(columns) & set(names):
            return margin, margin
    return 1.0, 1.0


def decide(comparison: Comparison, effect: Effect, margin: float, equivalence: float) -> Decision:
    """Return what an effect says of a comparison.

    “<” and “>” are decided by the two-sided 95 % interval, and a mean effect within `margin` of the threshold decides
    nothing. “=” is replicated by two one-sided tests at 5 %, and contradicted if the 95 % interval lies outside.

    Args:
        margin, equivalence: `resolution` of the columns; “=” is replicated within the latter at least, and contradicted
            beyond the former at least.
    """
    factor = comparison.factor
    if comparison.operator == "=":
        within = max(1 + (comparison.within or 0.0), equivalence)
        beyond = max(within, margin)
        p_against = 2 * min(effect.p_below(factor / beyond), effect.p_above(factor * beyond))
        if max(effect.p_above(factor / within), effect.p_below(factor * within)) < ALPHA:
            return Decision(REPLICATED, "", min(p_against, 1.0))
        if p_against < ALPHA:
            return Decision(CONTRADICTED, "the interval lies outside the margin", p_against)
        return Decision(UNRESOLVED, "the interval extends beyond the margin", min(p_against, 1.0))
    below = comparison.operator == "<"
    p_below, p_above = effect.p_below(factor), effect.p_above(factor)
    if effect.error == 0 and effect.mean == factor:  # equal is neither below nor above
        p_below, p_above = (1.0, 0.0) if below else (0.0, 1.0)
    p_for, p_against = (2 * p_below, 2 * p_above) if below else (2 * p_above, 2 * p_below)
    if p_for >= ALPHA and p_against >= ALPHA:
        return Decision(UNRESOLVED, "the interval contains the threshold", min(p_against, 1.0))
    if margin > 1 and factor / margin <= effect.mean <= factor * margin:
        return Decision(UNRESOLVED, f"ratio within the margin of {margin:g}", min(p_against, 1.0))
    if p_for < ALPHA:
        return Decision(REPLICATED, "", min(p_against, 1.0))
    return Decision(CONTRADICTED, "the interval lies on the other side of the threshold", p_against)


def _error(sd: float, n: int) -> float:
    """Return the standard error of a mean; NaN of one value. A spread that is rounding counts as none."""
    return math.nan if n < 2 else 0.0 if sd <= statistics.ROUNDING else sd / math.sqrt(n)
