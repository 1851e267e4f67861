"""Every recipe against its reference and the baseline, ours and the paper's: the frame of two tables and a figure."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from slimdiff.analysis.comparisons import Difference
from slimdiff.analysis.decisions import BETTER, WORSE, Finding
from slimdiff.analysis.findings import SHARES, Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import (
    BASELINE,
    BITS,
    FID,
    IMAGES,
    LIKENESS,
    PACKED,
    REFERENCE,
    SIZE,
    TIME,
    VERSUS_PAPER,
    TableSpec,
)
from slimdiff.analysis.paper import NOT_RUN, families, techniques
from slimdiff.analysis.statistics import Ratio, percent_change

SAME, OPPOSITE, OPEN = "same", "opposite", "open"  # direction of our difference relative to the paper's
ABSENT = Finding(NOT_RUN)
RATIOS = (*(measure.column for measure in IMAGES), SIZE.column, PACKED.column, TIME.column)
KINDS = ("images", "size", "speed")  # of findings


def table(matrix: Matrix, findings: Findings, paper: pd.DataFrame, specs: Sequence[TableSpec]) -> pd.DataFrame:
    """Return one row per data set, model and recipe: those of the paper's tables `specs`, then every other one.

    Columns: those of `paper.compare` for VERSUS_PAPER; `in_paper` (whether the paper has the family); `ran` (whether
    the matrix holds the data set and model); fid_indomain_sd (over seeds) and fid_indomain_sampling_sd (of image
    sampling); for each column c of RATIOS c_ratio, c_ratio_low and c_ratio_high (95 %); fid_indomain_baseline_ratio
    with its ends, to the plain baseline; for each share s of SHARES its mean s and the differences s_points,
    s_points_low and s_points_high; psnr and ssim, to the plain baseline; bits_per_weight; for each kind k of KINDS its
    k_finding, k_why, k_p and k_p_equivalent (corrected for all recipes); finding and why, those on images;
    m_change_low and m_change_high in percent for each measure m; direction (SAME, OPPOSITE, OPEN, or empty without a
    number on either side).
    """
    frames = []
    printed = dict.fromkeys(spec.families for spec in specs if len(spec.families) == 1)
    ours = dict.fromkeys((family,) for family in families(matrix).values())
    for family in {**printed, **ours}:
        chosen = [spec for spec in specs if spec.families == family and spec.baseline == BASELINE]
        chosen = chosen or [TableSpec("", "", family, "")]
        block = techniques(matrix, findings, paper, chosen, VERSUS_PAPER)
        frames.append(block.assign(in_paper=family in printed))
    frame = pd.concat(frames, ignore_index=True)
    recipes = list(zip(frame["dataset"], frame["model"], frame["optimization"], strict=True))
    ran = {recipe[:2] for recipe in findings.outcomes}
    columns: dict[str, Any] = {
        "ran": [recipe[:2] in ran for recipe in recipes],
        "fid_indomain_sd": _numbers(findings.summary(FID.column, recipe).sd for recipe in recipes),
        "fid_indomain_sampling_sd": _numbers(findings.sampling_sd.get(recipe) for recipe in recipes),
        BITS.column: _numbers(findings.summary(BITS.column, recipe).mean for recipe in recipes),
    }
    for measure in VERSUS_PAPER:
        ratios = [findings.ratio(measure.column, recipe) for recipe in recipes]
        columns[f"{measure.column}_change_low"] = _numbers(percent_change(ratio.low) for ratio in ratios)
        columns[f"{measure.column}_change_high"] = _numbers(percent_change(ratio.high) for ratio in ratios)

    differences = findings.differences[REFERENCE]
    found = [differences.get(recipe, Difference("", ABSENT, ABSENT, ABSENT)) for recipe in recipes]
    is_baseline = [recipe[2] == BASELINE for recipe in recipes]  # its ratio to itself is no result
    sides = [(column, f"{column}_ratio", REFERENCE) for column in RATIOS]
    for column, name, side in [*sides, (FID.column, "fid_indomain_baseline_ratio", BASELINE)]:
        own = [
            Ratio() if skip else findings.ratio(column, recipe, side)
            for recipe, skip in zip(recipes, is_baseline, strict=True)
        ]
        for end, field in (("", "mean"), ("_low", "low"), ("_high", "high")):
            columns[f"{name}{end}"] = _numbers(getattr(ratio, field) for ratio in own)
    for share in SHARES:
        columns[share] = _numbers(findings.summary(share, recipe).mean for recipe in recipes)
        points = [
            None if skip else findings.shares[share].get(recipe)
            for recipe, skip in zip(recipes, is_baseline, strict=True)
        ]
        for end, field in (("", "mean"), ("_low", "low"), ("_high", "high")):
            columns[f"{share}_points{end}"] = _numbers(
                None if own is None else 100 * getattr(own, field) for own in points
            )
    for measure in LIKENESS:
        columns[measure.column] = _numbers(findings.summary(measure.column, recipe).mean for recipe in recipes)
    for kind in KINDS:
        kinds = [getattr(difference, kind) for difference in found]
        columns[f"{kind}_finding"] = [one.finding for one in kinds]
        columns[f"{kind}_why"] = [one.why for one in kinds]
        columns[f"{kind}_p"] = _numbers(one.p for one in kinds)
        columns[f"{kind}_p_equivalent"] = _numbers(one.p_equivalent for one in kinds)
    frame = frame.assign(**columns)
    changes = frame["paper_fid_change_percent"]
    seeds = [findings.ratio(FID.column, recipe).n for recipe in recipes]
    directions = zip(frame["images_finding"], changes, seeds, strict=True)
    return frame.assign(
        finding=frame["images_finding"],
        why=frame["images_why"],
        direction=[direction(*line) for line in directions],
    )


def _numbers(values: Iterable[float | None]) -> "pd.Series[float]":
    return pd.Series(list(values), dtype="float64")


def direction(finding: str, paper_change: float, seeds: int) -> str:
    """Return whether a finding on images agrees with the paper's change of FID; empty without a number on one side."""
    if pd.isna(paper_change) or not seeds:
        return ""
    if finding not in (BETTER, WORSE) or paper_change == 0:
        return OPEN
    return SAME if (finding == BETTER) == (paper_change < 0) else OPPOSITE
