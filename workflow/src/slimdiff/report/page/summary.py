"""The answer in three sentences: what shrinks, what speeds up, and what that costs in FID.

Every pair of data set and model (hence each family) is judged against its own recipe `baseline`, and nothing is said
that the matrix cannot bear: a ratio of FID within the metric's resolution is no cost, times within what equal work
varies by are no gain, and one seed has no interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import paper, statistics
from slimdiff.analysis.statistics import RESOLUTION, Ratio, Recipe

REFERENCE = "baseline"
SIZE, TIME, FID = "size_gzip_bytes", "inference_ms_per_image", "fid_indomain"
SPEEDUP = "speedup"  # the baseline's time / the recipe's, measured in turns
SAME_SIZE = 0.99  # a file above this share of the baseline's is none that shrank
LEAST_SLACK = 1.05  # times nearer to each other than this ratio are never called different
EQUAL_WORK = {"training", "weights", "prune"}  # keys of a recipe that leave the arithmetic of the same network alone
WORK = ("macs", "network_evaluations", "engine", "sampler", "training", "device", "threads")  # equal where work is
MOST_PAIRS = 4  # pairs of data set and model that a sentence names


@dataclass(frozen=True)
class Answer:
    """The three sentences."""

    smaller: str
    faster: str
    price: str


@dataclass(frozen=True)
class Standing:
    """A recipe against its baseline: ratios own / baseline, and both means."""

    name: str
    fid: Ratio
    size: Ratio
    time: Ratio
    means: Mapping[str, tuple[float, float]]  # column → own, baseline
    faster: bool

    @property
    def smaller(self) -> bool:
        """Whether its file is smaller than the baseline's."""
        return self.size.mean < SAME_SIZE

    @property
    def free(self) -> bool:
        """Whether its FID is known, and no worse than the metric resolves."""
        return self.fid.mean <= RESOLUTION


@dataclass(frozen=True)
class Pair:
    """A data set and a model with the standings of all recipes that have a baseline to stand against."""

    name: str
    base_fid: float
    standings: tuple[Standing, ...]
    slack: float  # ratio of times that equal work reaches

    def smallest(self) -> Standing | None:
        """The smallest of the recipes that cost nothing; where there is none, the smaller one that costs least."""
        found = [standing for standing in self.standings if standing.smaller]
        free = [standing for standing in found if standing.free]
        return min(free, key=lambda s: s.size.mean) if free else _cheapest(found)

    def fastest(self) -> Standing | None:
        """The fastest of the recipes that cost nothing; where there is none, the faster one that costs least."""
        found = [standing for standing in self.standings if standing.faster]
        free = [standing for standing in found if standing.free]
        return min(free, key=lambda s: s.time.mean) if free else _cheapest(found)


def answer(matrix: pd.DataFrame) -> Answer:
    """The three sentences that `matrix` bears."""
    if not (matrix["status"] == "ok").any():
        nothing = "Nothing can be said about {}, since no cell of the matrix ended well."
        return Answer(nothing.format("size"), nothing.format("time"), _capital(f"{_failures(matrix)}."))
    found = pairs(matrix)
    if not any(pair.standings for pair in found):
        why = "there is no recipe beside the baseline" if found else "the matrix has no baseline that ended well"
        nothing = "Nothing can be said of what {}, since " + why + "."
        state = _list([f"the {pair.name} has a baseline of FID {significant(pair.base_fid)}" for pair in found])
        told = [part for part in (state, _evidence(matrix), _failures(matrix)) if part]
        return Answer(nothing.format("shrinks"), nothing.format("speeds up"), _capital(f"{'; '.join(told)}."))
    return Answer(
        _capital(f"{_clauses([_smaller(pair) for pair in found])}."),
        _capital(f"{_clauses([_faster(pair) for pair in found])}."),
        _capital(f"{_price(found, matrix)}."),
    )


def pairs(matrix: pd.DataFrame) -> list[Pair]:
    """The pairs of data set and model whose baseline has a FID, in the order of the matrix."""
    matrix = _in_turns(matrix)
    columns = (FID, SIZE, TIME)
    ratios = {column: statistics.ratios(matrix, column, REFERENCE) for column in columns}
    means = {column: statistics.by_recipe(matrix, column) for column in columns}
    sooner = statistics.differences(matrix, TIME, REFERENCE)
    several = matrix["dataset"].nunique() > 1
    found = []
    for dataset, model in matrix[["dataset", "model"]].drop_duplicates().itertuples(index=False):
        base: Recipe = (dataset, model, REFERENCE)
        if base not in means[FID] or not means[FID][base].n:
            continue
        own = [recipe for recipe in means[FID] if recipe[:2] == (dataset, model) and recipe != base]
        slack = time_slack(matrix, dataset, model)
        standings = []
        for recipe in own:
            if not means[FID][recipe].n:
                continue
            time = ratios[TIME][recipe]
            gained = time.mean < 1 / slack and (time.n == 1 or sooner[recipe].finding == "better")
            sides = {column: (means[column][recipe].mean, means[column][base].mean) for column in columns}
            standings.append(Standing(recipe[2], ratios[FID][recipe], ratios[SIZE][recipe], time, sides, gained))
        name = f"{model} on {dataset}" if several else str(model)
        found.append(Pair(name, means[FID][base].mean, tuple(standings), slack))
    return found


def time_slack(matrix: pd.DataFrame, dataset: str, model: str) -> float:
    """The ratio that times of equal work reach on this machine, LEAST_SLACK at least.

    Equal work is that of recipes which only choose or zero weights of the baseline's own training: the same network,
    the same multiply-accumulates, the same evaluations, engine and sampler. Of several seeds it is the geometric mean
    of the ratios. The baseline counts too: against itself where it was timed in turns with itself, else by its own
    interquartile range.
    """
    matrix = _in_turns(matrix)
    rows = matrix[(matrix["dataset"] == dataset) & (matrix["model"] == model) & (matrix["status"] == "ok")]
    base = {row["seed"]: row for row in rows[rows["optimization"] == REFERENCE].to_dict("records")}
    recipes = paper.config(matrix).get("optimizations", {})
    slack = LEAST_SLACK
    for name, own in rows.groupby("optimization", sort=False):
        pairs = [(row, base[row["seed"]]) for row in own.to_dict("records") if row["seed"] in base]
        if not set(recipes.get(name, {"unknown": None})) <= EQUAL_WORK or not pairs:
            continue
        if all(_equal(one[column], other[column]) for one, other in pairs for column in WORK):
            times = [_times(side) for side in zip(*pairs, strict=True)]
            ratio = statistics.paired(times[0], times[1]).mean
            slack = max(slack, ratio, 1 / ratio) if ratio > 0 else slack
    spreads = [
        max(row[SPEEDUP], 1 / row[SPEEDUP]) - 1 if not pd.isna(row[SPEEDUP]) else row[f"{TIME}_iqr"] / row[TIME]
        for row in base.values()
        if not pd.isna(row[SPEEDUP]) or not pd.isna(row[f"{TIME}_iqr"])
    ]
    return float(max([slack, *(1 + spread for spread in spreads)]))


def _in_turns(matrix: pd.DataFrame) -> pd.DataFrame:
    """The matrix with times that stand to the baseline's of the same seed as those measured in turns with it do.

    Times of cells that were profiled minutes apart differ by what else the machine did; where a cell has a speedup, its
    time is the baseline's divided by it.
    """
    keys = ["dataset", "model", "seed"]
    base = matrix[matrix["optimization"] == REFERENCE].set_index(keys)[TIME]
    shared = pd.MultiIndex.from_frame(matrix[keys]).map(base.to_dict())
    times = pd.Series(shared, index=matrix.index, dtype="Float64") / matrix[SPEEDUP]
    known = times.notna() & (matrix["optimization"] != REFERENCE)
    adjusted = matrix.copy()
    adjusted.attrs = matrix.attrs
    adjusted[TIME] = matrix[TIME].astype("Float64").where(~known, times)
    return adjusted


def _times(rows: Sequence[Mapping[Any, Any]]) -> dict[int, float]:
    return {int(row["seed"]): float(row[TIME]) for row in rows if not pd.isna(row[TIME])}


def _smaller(pair: Pair) -> str:
    best = pair.smallest()
    if best is None:
        return f"of the {pair.name} no recipe shrinks the file"
    own, base = (size(number) for number in best.means[SIZE])
    told = f"{best.name} makes the file {significant(1 / best.size.mean)} times smaller ({own} instead of {base})"
    if best.free:
        return f"of the {pair.name}, {told} {_unharmed(best)}"
    return f"of the {pair.name} no recipe shrinks the file for free: {told} at {_multiple(best)}"


def _faster(pair: Pair) -> str:
    best = pair.fastest()
    if best is None:
        known = [standing for standing in pair.standings if standing.time.n]
        if not known:
            return f"of the {pair.name} no time was measured"
        return (
            f"of the {pair.name} nothing samples faster than the baseline, beyond the {100 * (pair.slack - 1):.0f} % "
            "that times of equal work differ by"
        )
    own, base = (significant(number) for number in best.means[TIME])
    told = f"{best.name} samples {significant(1 / best.time.mean)} times as fast ({own} ms an image instead of {base})"
    if best.free:
        return f"of the {pair.name}, {told} {_unharmed(best)}"
    return f"of the {pair.name} nothing speeds up for free: {told} at {_multiple(best)}"


def _price(found: Sequence[Pair], matrix: pd.DataFrame) -> str:
    told = []
    for pair in found[:MOST_PAIRS]:
        named = {s.name: s for s in (pair.smallest(), pair.fastest()) if s is not None}
        known = [standing for standing in pair.standings if standing.fid.n]
        worst = max(known, key=lambda s: s.fid.mean, default=None)
        parts = [f"×{_ratio(s.fid)} for {s.name}" for s in named.values()]
        if worst is not None and worst.name not in named:
            parts.append(f"×{_ratio(worst.fid)} at worst, for {worst.name}")
        if parts:
            told.append(f"the {pair.name}'s FID of {significant(pair.base_fid)} becomes {_list(parts)}")
    if len(found) > MOST_PAIRS:
        told.append(f"{len(found) - MOST_PAIRS} more models are in the tables")
    told.append(f"ratios up to {RESOLUTION} are within what the metric resolves")
    told += [part for part in (_evidence(matrix), _failures(matrix)) if part]
    return "; ".join(told)


def _evidence(matrix: pd.DataFrame) -> str:
    """What the number of seeds says about these numbers."""
    seeds = [summary.n for summary in statistics.by_recipe(matrix, FID).values() if summary.n]
    if not seeds or max(seeds) == 1:
        return "each number is of one seed, so it has no interval"
    few = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else str(seeds[0])
    return f"these are means of {few} seeds, with 95 % intervals in brackets"


def _failures(matrix: pd.DataFrame) -> str:
    """How many cells failed or lack a FID, with the first reason; nothing where all are there."""
    failed = matrix[matrix["status"] == "failed"]
    missing = int(((matrix["status"] == "ok") & matrix[FID].isna()).sum())
    parts = []
    if len(failed):
        which = "all" if len(failed) == len(matrix) else f"{len(failed)} of"
        cells = "1 cell" if len(matrix) == 1 else f"{len(matrix)} cells"
        parts.append(f"{which} {cells} failed, the first by “{failed['reason'].iloc[0]}”")
    if missing:
        parts.append(f"{missing} of {len(matrix)} cells have no FID")
    return "; ".join(parts)


def _clauses(clauses: Sequence[str]) -> str:
    more = [f"{len(clauses) - MOST_PAIRS} more models are in the tables"] if len(clauses) > MOST_PAIRS else []
    return "; ".join([*clauses[:MOST_PAIRS], *more])


def _cheapest(found: Sequence[Standing]) -> Standing | None:
    return min((standing for standing in found if standing.fid.n), key=lambda s: s.fid.mean, default=None)


def _unharmed(standing: Standing) -> str:
    if standing.fid.mean < 1 / RESOLUTION:
        return "at a lower FID"
    return "at a FID that the metric cannot tell from the baseline's"


def _multiple(standing: Standing) -> str:
    return f"{significant(standing.fid.mean)} times the FID"


def _ratio(ratio: Ratio) -> str:
    told = significant(ratio.mean)
    return told if math.isnan(ratio.low) else f"{told} [{significant(ratio.low)}, {significant(ratio.high)}]"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}" if parts else ""


def _equal(one: Any, other: Any) -> bool:
    return bool((pd.isna(one) and pd.isna(other)) or (not pd.isna(one) and not pd.isna(other) and one == other))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, never with an exponent: 90.9, 151, 1.09; a dash for none."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}".replace("-", "−")


def size(number: float) -> str:
    """A number of bytes with three significant digits and a decimal unit: 4.14 MB, 97.0 kB."""
    if math.isnan(number):
        return "–"
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= factor:
            return f"{significant(number / factor)} {unit}"
    return f"{number:.0f} bytes"
