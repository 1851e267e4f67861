"""FID of each recipe beside its baseline's, ours and the report's, as rows of a table with a strip to look along.

Places on a strip are percents of its width, so that a page can draw it at any width, without a script.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import differences, statistics
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.paper import NOT_RUN, drop_crowd
from slimdiff.io.text import significant
from slimdiff.report.contents import TABLES
from slimdiff.report.figures import style
from slimdiff.report.figures.style import LogAxis
from slimdiff.report.tables.markdown import missing

# What stands for a kind of recipe where there is no colour: the shapes of the charts.
GLYPHS = {
    "circle": "●",
    "square": "■",
    "triangle-up": "▲",
    "diamond": "◆",
    "cross": "✚",
    "triangle-down": "▼",
    "triangle-right": "▶",
    "triangle-left": "◀",
    style.HEXAGON: "⬢",
    style.STAR: "★",
}


@dataclass(frozen=True)
class Strip:
    """One recipe; places are percents of the width of the strip, None where there is nothing to draw."""

    recipe: str
    label: str  # in the report; empty: it is not there
    kind: str
    glyph: str
    fid: str  # ours with its interval, or why there is none
    ratio: str  # of our FID to the baseline's, with its interval
    paper_fid: str
    paper_ratio: str
    finding: str
    ours: float | None
    low: float | None
    high: float | None
    theirs: float | None


@dataclass(frozen=True)
class Block:
    """The recipes of one data set and model."""

    dataset: str
    model: str
    ran: bool
    strips: tuple[Strip, ...]
    left_out: int  # recipes that would crowd it


@dataclass(frozen=True)
class Scale:
    """What all strips share: named places, the place of the baseline, and the band of the metric's resolution."""

    ticks: tuple[tuple[str, float], ...]
    one: float
    band: tuple[float, float]


def blocks(matrix: Matrix, findings: Findings, paper: pd.DataFrame) -> tuple[list[Block], Scale]:
    """The blocks, those that were run first, and their common logarithmic scale of ratios to the baseline."""
    everything = differences.table(matrix, findings, paper, TABLES)
    itself = everything["optimization"] == BASELINE
    everything["theirs"] = 1 + everything["paper_fid_change_percent"] / 100
    everything = everything[(everything["status"] != NOT_RUN) | everything["theirs"].notna() | itself]
    frame = drop_crowd(everything)
    axis = style.log_axis(pd.concat([frame["ratio"], frame["theirs"]]).dropna(), 1.0)
    found = []
    for (dataset, model), block in frame.groupby(["dataset", "model"], sort=False):
        whole = everything[(everything["dataset"] == dataset) & (everything["model"] == model)]
        strips = tuple(_strip(row, axis) for row in block.to_dict("records"))
        found.append(Block(str(dataset), str(model), bool(block["ran"].any()), strips, len(whole) - len(block)))
    found.sort(key=lambda block: not block.ran)
    ticks = tuple((f"{tick:g}", _place(tick, axis)) for tick in axis.ticks())
    resolution = statistics.RESOLUTION
    return found, Scale(ticks, _place(1.0, axis), (_place(1 / resolution, axis), _place(resolution, axis)))


def _strip(row: Mapping[Any, Any], axis: LogAxis) -> Strip:
    reference = row["optimization"] == BASELINE
    has_fid, has_ratio = not missing(row["fid_indomain"]), not missing(row["ratio"]) and row["ratio"] > 0
    ours = 1.0 if reference and has_fid else row["ratio"] if has_ratio else None
    known = not missing(row["paper_fid"])
    theirs = row["theirs"] if known and not missing(row["theirs"]) else None
    spread = has_ratio and not missing(row["ratio_low"])
    shape = style.KINDS[row["kind"]][1]
    return Strip(
        recipe=row["optimization"],
        label=row["label"],
        kind=row["kind"],
        glyph=GLYPHS[shape],
        fid=_interval(row["fid_indomain"], row["fid_indomain_low"], row["fid_indomain_high"])
        if has_fid
        else row["status"].partition(":")[0],
        ratio="" if reference or not has_ratio else f"×{_interval(row['ratio'], row['ratio_low'], row['ratio_high'])}",
        paper_fid=f"{row['paper_fid']:.1f}" if known else "",
        paper_ratio="" if reference or theirs is None else f"×{significant(theirs)}",
        finding=row["finding"],
        ours=None if ours is None else _place(ours, axis),
        low=_place(row["ratio_low"], axis) if spread else None,
        high=_place(row["ratio_high"], axis) if spread else None,
        theirs=None if theirs is None else _place(theirs, axis),
    )


def _place(value: float, axis: LogAxis) -> float:
    """Where `value` lies, in percent of the axis; what lies outside is cut at its edge."""
    return round(axis.pixel(min(max(value, axis.low), axis.high), 100.0), 2)


def _interval(mean: float, low: object, high: object) -> str:
    text = significant(mean)
    if not isinstance(low, float) or not isinstance(high, float) or missing(low) or missing(high):
        return text
    return f"{text} [{significant(low)}, {significant(high)}]"
