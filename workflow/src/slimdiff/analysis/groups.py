"""Size, time and FID of every recipe against the baseline of its data set and model.

A ratio of FIDs within the resolution of the metric is no loss, and a speedup within the variation of equal work is no
gain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.statistics import RESOLUTION, Ratio

SIZE, TIME, FID = COLUMNS = ("size_gzip_bytes", "inference_ms_per_image", "fid_indomain")
SPEEDUP = "speedup"  # the baseline's time / the recipe's, timed interleaved
MAX_SIZE_RATIO = 0.99  # above, a file does not count as smaller
MIN_TOLERANCE = 1.05  # ratios of times within this are never a difference
EQUAL_WORK = {"training", "weights", "prune"}  # keys of a recipe that leave the arithmetic of a network as it is
WORK = ("macs", "network_evaluations", "engine", "sampler", "training", "device", "threads")  # equal for equal work


@dataclass(frozen=True)
class RecipeComparison:
    """A recipe against its baseline; ratios are recipe / baseline."""

    name: str
    fid: Ratio
    size: Ratio
    time: Ratio
    means: Mapping[str, tuple[float, float]]  # column → recipe, baseline
    faster: bool

    @property
    def smaller(self) -> bool:
        """Whether the file is smaller than the baseline's."""
        return self.size.mean < MAX_SIZE_RATIO

    @property
    def lossless(self) -> bool:
        """Whether the FID is at most RESOLUTION times the baseline's; False without a FID."""
        return self.fid.mean <= RESOLUTION


@dataclass(frozen=True)
class Group:
    """A data set and a model: its baseline, and every other recipe with a FID."""

    name: str
    baseline_fid: float
    comparisons: tuple[RecipeComparison, ...]
    tolerance: float  # ratio of times between cells that do equal work

    def smallest(self) -> RecipeComparison | None:
        """Return the smallest lossless recipe; without one, the smaller recipe with the lowest FID."""
        candidates = [comparison for comparison in self.comparisons if comparison.smaller]
        lossless = [comparison for comparison in candidates if comparison.lossless]
        return min(lossless, key=lambda c: c.size.mean) if lossless else _lowest_fid(candidates)

    def fastest(self) -> RecipeComparison | None:
        """Return the fastest lossless recipe; without one, the faster recipe with the lowest FID."""
        candidates = [comparison for comparison in self.comparisons if comparison.faster]
        lossless = [comparison for comparison in candidates if comparison.lossless]
        return min(lossless, key=lambda c: c.time.mean) if lossless else _lowest_fid(candidates)


def compare_recipes(matrix: Matrix) -> tuple[Group, ...]:
    """Return one group per data set and model whose baseline has a FID, in the order of the matrix."""
    frame = _interleaved_times(matrix.frame)
    ratios = {column: statistics.ratios(frame, column, BASELINE) for column in COLUMNS}
    means = {column: statistics.by_recipe(frame, column) for column in COLUMNS}
    times = statistics.differences(frame, TIME, BASELINE)
    several = frame["dataset"].nunique() > 1
    groups = []
    for dataset, model in frame[["dataset", "model"]].drop_duplicates().itertuples(index=False):
        baseline = (dataset, model, BASELINE)
        if baseline not in means[FID] or not means[FID][baseline].n:
            continue
        tolerance = time_tolerance(matrix, dataset, model)
        comparisons = []
        for recipe in means[FID]:
            if recipe[:2] != baseline[:2] or recipe == baseline or not means[FID][recipe].n:
                continue
            time = ratios[TIME][recipe]
            faster = time.mean < 1 / tolerance and (time.n == 1 or times[recipe].finding == "better")
            sides = {column: (means[column][recipe].mean, means[column][baseline].mean) for column in COLUMNS}
            comparisons.append(
                RecipeComparison(recipe[2], ratios[FID][recipe], ratios[SIZE][recipe], time, sides, faster)
            )
        name = f"{model} on {dataset}" if several else str(model)
        groups.append(Group(name, means[FID][baseline].mean, tuple(comparisons), tolerance))
    return tuple(groups)


def time_tolerance(matrix: Matrix, dataset: str, model: str) -> float:
    """Return the ratio that times of equal work reach on this machine, at least MIN_TOLERANCE.

    Recipes that only choose or zero weights of the baseline's training do equal work: same network,
    multiply-accumulates, evaluations, engine and sampler. Over several seeds their ratio is the geometric mean. The
    baseline counts as well: by its speedup over itself, else by its interquartile range.
    """
    frame = _interleaved_times(matrix.frame)
    rows = frame[(frame["dataset"] == dataset) & (frame["model"] == model) & (frame["status"] == "ok")]
    baselines = {row["seed"]: row for row in rows[rows["optimization"] == BASELINE].to_dict("records")}
    recipes = matrix.config.get("optimizations", {})
    tolerance = MIN_TOLERANCE
    for name, own in rows.groupby("optimization", sort=False):
        pairs = [(row, baselines[row["seed"]]) for row in own.to_dict("records") if row["seed"] in baselines]
        if not set(recipes.get(name, {"unknown": None})) <= EQUAL_WORK or not pairs:
            continue
        if all(_equal(row[column], baseline[column]) for row, baseline in pairs for column in WORK):
            times = [_times(side) for side in zip(*pairs, strict=True)]
            ratio = statistics.paired(times[0], times[1]).mean
            tolerance = max(tolerance, ratio, 1 / ratio) if ratio > 0 else tolerance
    spreads = [
        max(row[SPEEDUP], 1 / row[SPEEDUP]) - 1 if not pd.isna(row[SPEEDUP]) else row[f"{TIME}_iqr"] / row[TIME]
        for row in baselines.values()
        if not pd.isna(row[SPEEDUP]) or not pd.isna(row[f"{TIME}_iqr"])
    ]
    return float(max([tolerance, *(1 + spread for spread in spreads)]))


def _interleaved_times(frame: pd.DataFrame) -> pd.DataFrame:
    """Replace the time of each cell with a speedup by its baseline's time / that speedup.

    Cells that were profiled minutes apart differ by the load of the machine; interleaved timing cancels it.
    """
    keys = ["dataset", "model", "seed"]
    baselines = frame[frame["optimization"] == BASELINE].set_index(keys)[TIME]
    shared = pd.MultiIndex.from_frame(frame[keys]).map(baselines.to_dict())
    times = pd.Series(shared, index=frame.index, dtype="Float64") / frame[SPEEDUP]
    interleaved = times.notna() & (frame["optimization"] != BASELINE)
    return frame.assign(**{TIME: frame[TIME].astype("Float64").where(~interleaved, times)})


def _times(rows: Sequence[Mapping[Any, Any]]) -> dict[int, float]:
    return {int(row["seed"]): float(row[TIME]) for row in rows if not pd.isna(row[TIME])}


def _lowest_fid(comparisons: Sequence[RecipeComparison]) -> RecipeComparison | None:
    return min((c for c in comparisons if c.fid.n), key=lambda c: c.fid.mean, default=None)


def _equal(left: Any, right: Any) -> bool:
    """Whether two values are equal or both missing."""
    return bool((pd.isna(left) and pd.isna(right)) or (not pd.isna(left) and not pd.isna(right) and left == right))
