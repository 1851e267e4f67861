"""Components of variance: how much a metric moves if one source of randomness alone is drawn anew.

The sources are the seeds of the first training, of fine-tuning, of random masks and of sampling noise. One of them is
varied while all others stay, as in Bouthillier et al. 2021 (Accounting for variance in machine learning benchmarks,
MLSys), so no model of their interaction is assumed. A cell's settings say what its seeds are and which recipe it is an
instance of, whatever its name.
"""

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from scipy import special

from slimdiff.analysis.statistics import CONFIDENCE
from slimdiff.config.axes import base_name
from slimdiff.config.lookup import is_random
from slimdiff.io.settings import canonical

SOURCES = ("training", "fine-tuning", "mask", "sampling")
ALL = "all"  # every source at once, by one seed
METRICS = ("fid_indomain", "kid")
TABLE = ("dataset", "model", "optimization", "metric", "redrawn", "sets", "cells", "df", "sd", "low", "high", "share")
SEEDS = ("seed", "finetune_seed")  # keys of settings in which instances of a recipe differ

Draw = tuple[Hashable, ...]  # the seed of each of SOURCES; None: the recipe draws nothing there


def table(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return one row per recipe, metric and source with cells that differ in that source alone.

    Columns, TABLE: sets of such cells, cells in them, degrees of freedom, sd (standard deviation of the metric's
    natural logarithm, pooled over the sets), its 95 % interval (low, high; chi-squared), and share (of the sum of all
    sources' variances; NaN unless the matrix has every source of the recipe). The row ALL compares the cells whose
    sources all have the same seed. Failed cells and values that are not above 0 do not count.
    """
    rows: list[dict[str, Any]] = []
    for (dataset, model, _), (name, cells) in _instances(matrix).items():
        for metric in METRICS:
            logs = {draw: math.log(row[metric]) for draw, row in cells.items() if _is_positive(row[metric])}
            own = [_pool(source, _sets(logs, index)) for index, source in enumerate(SOURCES)]
            total = math.fsum(row["sd"] ** 2 for row in own)
            drawn = [source for source, seed in zip(SOURCES, next(iter(cells)), strict=True) if seed is not None]
            complete = total > 0 and all(row["df"] for row in own if row["redrawn"] in drawn)
            for row in (*own, _pool(ALL, [[log for draw, log in logs.items() if _is_one_seed(draw)]])):
                share = row["sd"] ** 2 / total if complete and row["redrawn"] != ALL else math.nan
                head = {"dataset": dataset, "model": model, "optimization": name, "metric": metric}
                rows += [head | row | {"share": share}] if row["df"] else []
    return pd.DataFrame(rows, columns=list(TABLE))


def _instances(matrix: pd.DataFrame) -> dict[tuple[str, str, str], tuple[str, dict[Draw, Mapping[str, Any]]]]:
    """Return (dataset, model, settings without seeds) → a name, and the cells by the seeds that they draw from."""
    found: dict[tuple[str, str, str], tuple[str, dict[Draw, Mapping[str, Any]]]] = {}
    columns = ("dataset", "model", "optimization", "status", "settings", *METRICS)
    for values in zip(*(matrix[column].to_list() for column in columns), strict=True):
        row: dict[str, Any] = dict(zip(columns, values, strict=True))
        settings = json.loads(row["settings"]) if isinstance(row["settings"], str) else {}
        if row["status"] != "ok" or not settings.keys() >= {"train", "compress", "sample"}:
            continue
        chain, compress = [*settings.get("starts", []), settings["train"]], settings["compress"]
        masked = any(is_random(*item) for step in compress["steps"] for item in step.items())
        later = tuple(training.get("finetune_seed", training["seed"]) for training in chain[1:])
        draw = (chain[0]["seed"], later or None, compress["seed"] if masked else None, settings["sample"]["seed"])
        kept = _without_seeds([chain, compress, settings["sample"], settings.get("score")])
        key = (row["dataset"], row["model"], canonical(kept))
        found.setdefault(key, (base_name(row["optimization"]), {}))[1].setdefault(draw, row)
    return found


def _is_one_seed(draw: Draw) -> bool:
    """Whether every source of a cell has the seed of its training."""
    later = draw[1] if isinstance(draw[1], tuple) else ()
    return {seed for seed in (draw[0], *later, *draw[2:]) if seed is not None} == {draw[0]}


def _sets(logs: Mapping[Draw, float], index: int) -> list[list[float]]:
    """Return the values in sets that differ in the source `index` alone."""
    sets: dict[Draw, list[float]] = {}
    for draw, log in logs.items():
        sets.setdefault((*draw[:index], *draw[index + 1 :]), []).append(log)
    return list(sets.values())


def _pool(source: str, sets: Iterable[Sequence[float]]) -> dict[str, Any]:
    """Return the standard deviation within the sets of two or more values, and its interval."""
    used = [values for values in sets if len(values) > 1]
    cells = sum(map(len, used))
    df = cells - len(used)
    means = [math.fsum(values) / len(values) for values in used]
    squares = [(value - mean) ** 2 for values, mean in zip(used, means, strict=True) for value in values]
    sd = math.sqrt(math.fsum(squares) / df) if df else 0.0
    tail = (1 - CONFIDENCE) / 2
    low, high = (sd * math.sqrt(df / special.chdtri(df, p)) if df else math.nan for p in (tail, 1 - tail))
    return {"redrawn": source, "sets": len(used), "cells": cells, "df": df, "sd": sd, "low": low, "high": high}


def _is_positive(value: Any) -> bool:
    return not pd.isna(value) and value > 0


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_seeds(item) for key, item in value.items() if key not in SEEDS}
    return [_without_seeds(item) for item in value] if isinstance(value, list) else value
