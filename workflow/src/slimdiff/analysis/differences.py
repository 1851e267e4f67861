"""Every recipe against its own baseline, ours and the paper's: the frame of two tables and a figure."""

from collections.abc import Iterable, Sequence

import pandas as pd

from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE, FID, VERSUS_PAPER, TableSpec
from slimdiff.analysis.paper import NOT_RUN, techniques
from slimdiff.analysis.statistics import Difference, Ratio, percent_change

SAME, OPPOSITE, OPEN = "same", "opposite", "open"  # direction of our difference relative to the paper's
NO_DIFFERENCE = Difference(Ratio(), float("nan"), NOT_RUN, "")


def table(matrix: Matrix, findings: Findings, paper: pd.DataFrame, specs: Sequence[TableSpec]) -> pd.DataFrame:
    """Return one row per data set, model and recipe: those of the paper's tables `specs`, then every other one.

    Columns: those of `paper.compare` for VERSUS_PAPER; `ran` (whether the matrix holds the data set and model);
    fid_indomain_sd (over seeds) and fid_indomain_sampling_sd (of image sampling); ratio, ratio_low, ratio_high (95 %),
    p and p_holm of the FID against the baseline; finding and why (`statistics.differences`); m_change_low and
    m_change_high in percent for each measure m; direction (SAME, OPPOSITE, OPEN, or empty without a number on either
    side).
    """
    frames = []
    for family in dict.fromkeys(spec.families for spec in specs if len(spec.families) == 1):
        chosen = [spec for spec in specs if spec.families == family and spec.baseline == BASELINE]
        frames.append(techniques(matrix, findings, paper, chosen, VERSUS_PAPER))
    frame = pd.concat(frames, ignore_index=True)
    recipes = list(zip(frame["dataset"], frame["model"], frame["optimization"], strict=True))
    ran = {recipe[:2] for recipe in findings.outcomes}
    frame["ran"] = [recipe[:2] in ran for recipe in recipes]
    frame["fid_indomain_sd"] = _numbers(findings.summary(FID.column, recipe).sd for recipe in recipes)
    frame["fid_indomain_sampling_sd"] = _numbers(findings.sampling_sd.get(recipe) for recipe in recipes)
    for measure in VERSUS_PAPER:
        ratios = [findings.ratio(measure.column, recipe) for recipe in recipes]
        frame[f"{measure.column}_change_low"] = _numbers(percent_change(ratio.low) for ratio in ratios)
        frame[f"{measure.column}_change_high"] = _numbers(percent_change(ratio.high) for ratio in ratios)

    differences = [findings.differences[BASELINE].get(recipe, NO_DIFFERENCE) for recipe in recipes]
    for name, field in (("ratio", "mean"), ("ratio_low", "low"), ("ratio_high", "high"), ("p", "p")):
        frame[name] = _numbers(getattr(difference.ratio, field) for difference in differences)
    frame["p_holm"] = _numbers(difference.p_holm for difference in differences)
    frame["finding"] = [difference.finding for difference in differences]
    frame["why"] = [difference.why for difference in differences]
    changes = frame["paper_fid_change_percent"]
    frame["direction"] = [_direction(*pair) for pair in zip(frame["finding"], changes, strict=True)]
    is_baseline = frame["optimization"] == BASELINE  # its ratio to itself is no result
    frame[["ratio", "ratio_low", "ratio_high", "p"]] = frame[["ratio", "ratio_low", "ratio_high", "p"]].mask(
        is_baseline
    )
    return frame


def _numbers(values: Iterable[float | None]) -> "pd.Series[float]":
    return pd.Series(list(values), dtype="float64")


def _direction(finding: str, paper_change: float) -> str:
    if pd.isna(paper_change) or finding not in ("better", "worse", "unresolved", "one seed"):
        return ""
    if finding in ("unresolved", "one seed") or paper_change == 0:
        return OPEN
    return SAME if (finding == "better") == (paper_change < 0) else OPPOSITE
