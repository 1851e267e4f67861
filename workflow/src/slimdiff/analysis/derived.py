"""Numbers that follow from the columns of a matrix: relative times, bits per weight, arithmetic per image."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE, BITS, PACKED, SIZE, TIME

EQUAL_WORK = {"training", "weights", "prune"}  # keys of a recipe that leave the arithmetic of a network as it is
WORK = ("macs", "network_evaluations", "engine", "sampler", "training", "device", "threads")  # equal for equal work


def derive(matrix: Matrix) -> pd.DataFrame:
    """Return the frame of `matrix` with further columns.

    relative_time: time per image / that of the recipe that speedups are measured against, in turns; null without a
    speedup, and for disturbed rows. It is 1 for that recipe itself, however its own profile went. bits_per_weight: bits
    of the packed file for each parameter. gmacs: 10⁹ multiply-accumulates per image.
    """
    frame = matrix.frame
    timed = frame["speedup"].astype("Float64")
    is_one = (frame["optimization"] == _profiled_against(matrix)) & timed.notna()
    return frame.assign(
        **{
            TIME.column: (1 / timed).mask(statistics.disturbed_rows(frame)).mask(is_one, 1.0),
            BITS.column: 8 * frame[PACKED.column] / frame["params"],
            # of both networks of a guided recipe; rows without the column's measurement have one network
            "gmacs": frame["macs_per_image"].astype("Float64").fillna(frame["macs"] * frame["network_evaluations"])
            / 1e9,
        }
    )


def size_column(frame: pd.DataFrame, dataset: str, model: str) -> str:
    """Return the column in which files are compared: packed if the baseline's is measured, else compressed by gzip."""
    baseline = (frame["dataset"] == dataset) & (frame["model"] == model) & (frame["optimization"] == BASELINE)
    return PACKED.column if frame.loc[baseline, PACKED.column].notna().any() else SIZE.column


def time_tolerance(matrix: Matrix, dataset: str, model: str) -> float:
    """Return the ratio that times of equal work reach in this matrix, at least 1.

    Recipes that only choose or zero weights of the baseline's training do equal work: same network,
    multiply-accumulates, evaluations, engine and sampler. Over several seeds their ratio is the geometric mean. The
    speedup of the baseline over itself counts at each seed.
    """
    frame = matrix.frame
    shown = (frame["dataset"] == dataset) & (frame["model"] == model) & (frame["status"] == "ok")
    rows = frame.loc[shown, ["dataset", "model", "optimization", "seed", "status", "speedup", "disturbed", *WORK]]
    speedups = statistics.by_seed(rows, "speedup")
    reference = _profiled_against(matrix)
    baselines = {row["seed"]: row for row in rows[rows["optimization"] == reference].to_dict("records")}
    own = list(speedups.get((dataset, model, reference), {}).values())
    recipes = matrix.config.get("optimizations", {})
    for name, block in rows.groupby("optimization", sort=False):
        pairs = [(row, baselines[row["seed"]]) for row in block.to_dict("records") if row["seed"] in baselines]
        if name == reference or not pairs or not set(recipes.get(name, {"unknown": None})) <= EQUAL_WORK:
            continue
        times = list(speedups[dataset, model, str(name)].values())
        if times and all(_equal(row[column], other[column]) for row, other in pairs for column in WORK):
            own.append(statistics.summarize(times, "log").mean)
    return max([1.0, *(max(ratio, 1 / ratio) for ratio in own if ratio > 0)])


def speed_margins(matrix: Matrix, least: float) -> dict[tuple[str, str], float]:
    """Return the margin of speed of each data set and model: `least`, or `time_tolerance` if that is larger."""
    models = matrix.frame[["dataset", "model"]].drop_duplicates().itertuples(index=False)
    return {(dataset, model): max(least, time_tolerance(matrix, dataset, model)) for dataset, model in models}


def _profiled_against(matrix: Matrix) -> str:
    """Return the recipe that the speedups of `matrix` are measured against."""
    profile: Mapping[str, Any] = matrix.config.get("profile", {})
    return str(profile.get("baseline") or BASELINE)


def _equal(left: Any, right: Any) -> bool:
    """Whether two values are equal or both missing."""
    return bool((pd.isna(left) and pd.isna(right)) or (not pd.isna(left) and not pd.isna(right) and left == right))
