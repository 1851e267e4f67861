"""Every recipe against its own baseline, here and in the report: the frame of two tables and a figure."""

from collections.abc import Callable

import pandas as pd

from slimdiff.analysis import contents, statistics
from slimdiff.analysis import paper as comparison
from slimdiff.analysis.paper import NOT_RUN
from slimdiff.analysis.statistics import Ratio, Recipe

REFERENCE = "baseline"
MEASURES = (contents.FID, contents.SIZE, contents.LATENCY, contents.TRAINING)
COLUMN = contents.FID.column
# Whether a difference that was found points where the report's does; empty where either side has no number.
SAME, OPPOSITE, OPEN = "same", "opposite", "open"


def table(matrix: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """One row per data set, model and recipe: those of the report's tables, then whatever else was run.

    Columns: those of `comparison.compare` for MEASURES; `ran` (whether any recipe of the data set and model was);
    fid_indomain_sd (over seeds) and fid_indomain_sampling_sd (from the draw of images); ratio, ratio_low, ratio_high (95 %), p and p_holm
    of the FID against the baseline; finding and why (`statistics.differences`); for each measure m also m_change_low
    and m_change_high, in percent, beside m_change_percent; direction (SAME, OPPOSITE, OPEN or empty).
    """
    frames = []
    for family in dict.fromkeys(spec.families for spec in contents.TABLES if len(spec.families) == 1):
        chosen = [spec for spec in contents.TABLES if spec.families == family and spec.reference == REFERENCE]
        frames.append(comparison.techniques(matrix, paper, chosen, MEASURES))
    frame = pd.concat(frames, ignore_index=True)
    keys = list(zip(frame["dataset"], frame["model"], frame["optimization"], strict=True))
    ran = set(zip(matrix["dataset"], matrix["model"], strict=True))
    frame["ran"] = [key[:2] in ran for key in keys]

    summaries, noise = statistics.by_recipe(matrix, COLUMN), statistics.sampling_sd(matrix)
    frame["fid_indomain_sd"] = _column(keys, lambda key: summaries[key].sd if key in summaries else None)
    frame["fid_indomain_sampling_sd"] = _column(keys, noise.get)
    for measure in MEASURES:
        ratios = statistics.ratios(matrix, measure.column, REFERENCE)
        for end in ("low", "high"):
            changes = {key: 100 * (getattr(ratio, end) - 1) for key, ratio in ratios.items()}
            frame[f"{measure.column}_change_{end}"] = _column(keys, changes.get)

    found = statistics.differences(matrix, COLUMN, REFERENCE)
    ratio = {key: difference.ratio for key, difference in found.items()}
    for name, field in (("ratio", "mean"), ("ratio_low", "low"), ("ratio_high", "high"), ("p", "p")):
        frame[name] = _column(keys, lambda key, field=field: getattr(ratio.get(key, Ratio()), field))  # type: ignore[misc]
    frame["p_holm"] = _column(keys, lambda key: found[key].p_holm if key in found else None)
    frame["finding"] = [found[key].finding if key in found else NOT_RUN for key in keys]
    frame["why"] = [found[key].why if key in found else "" for key in keys]
    frame["direction"] = [
        _direction(finding, change)
        for finding, change in zip(frame["finding"], frame["paper_fid_change_percent"], strict=True)
    ]
    itself = frame["optimization"] == REFERENCE  # a distance from itself says nothing
    frame[["ratio", "ratio_low", "ratio_high", "p"]] = frame[["ratio", "ratio_low", "ratio_high", "p"]].mask(itself)
    return frame


def _column(keys: list[Recipe], look_up: Callable[[Recipe], float | None]) -> "pd.Series[float]":
    return pd.Series([look_up(key) for key in keys], dtype="float64")


def _direction(finding: str, paper_change: float) -> str:
    if pd.isna(paper_change) or finding not in ("better", "worse", "unresolved", "one seed"):
        return ""
    if finding in ("unresolved", "one seed") or paper_change == 0:
        return OPEN
    return SAME if (finding == "better") == (paper_change < 0) else OPPOSITE
