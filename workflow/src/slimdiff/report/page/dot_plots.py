"""FID of each recipe relative to its reference, ours and the paper's: tables with a dot plot per row.

Positions are percentages of the width of a plot, so the page draws them at any width without a script.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import differences
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.paper import NOT_RUN, drop_crowd
from slimdiff.io.text import significant
from slimdiff.report.contents import TABLES
from slimdiff.report.figures import style
from slimdiff.report.figures.style import LogAxis
from slimdiff.report.tables.markdown import missing

RATIO = "fid_indomain_ratio"
# Characters for the shapes of the charts, so that the kind of a recipe is more than a colour.
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
    style.PENTAGON: "⬟",
    style.STAR: "★",
}


@dataclass(frozen=True)
class DotRow:
    """One recipe; positions are in percent of the width, None without a number."""

    recipe: str
    label: str  # in the paper; empty if it is not there
    kind: str
    glyph: str
    fid: str  # in-domain, with its interval, or why there is none
    reference: str  # the recipe that it is compared with, if that is not the baseline
    ratio: str  # of the FID to the reference's, with its interval
    paper_fid: str
    paper_ratio: str
    finding: str
    ours: float | None
    low: float | None
    high: float | None
    paper: float | None


@dataclass(frozen=True)
class DotPlot:
    """The recipes of one data set and model."""

    dataset: str
    model: str
    ran: bool
    rows: tuple[DotRow, ...]
    omitted: int  # recipes left out for lack of room
    band: tuple[float, float]  # positions of the ratios at the margin of quality


@dataclass(frozen=True)
class Scale:
    """The scale of all plots: ticks, and the position of the baseline."""

    ticks: tuple[tuple[str, float], ...]
    baseline: float


def dot_plots(matrix: Matrix, findings: Findings, paper: pd.DataFrame) -> tuple[list[DotPlot], Scale]:
    """Return the plots, families that were run first, and their common logarithmic scale of ratios."""
    lines = differences.table(matrix, findings, paper, TABLES)
    lines["paper_ratio"] = 1 + lines["paper_fid_change_percent"] / 100
    lines = lines[(lines["status"] != NOT_RUN) | lines["paper_ratio"].notna() | (lines["optimization"] == BASELINE)]
    shown = drop_crowd(lines)
    counts: dict[Any, int] = lines.groupby(["dataset", "model"]).size().to_dict()
    axis = style.log_axis(pd.concat([shown[RATIO], shown["paper_ratio"]]).dropna(), 1.0)
    plots = []
    for (dataset, model), block in shown.groupby(["dataset", "model"], sort=False):
        rows = tuple(_row(line, axis) for line in block.to_dict("records"))
        omitted, margin = counts[dataset, model] - len(block), findings.margins.of_images(str(dataset))
        band = (_position(1 / margin, axis), _position(margin, axis))
        plots.append(DotPlot(str(dataset), str(model), bool(block["ran"].any()), rows, omitted, band))
    plots.sort(key=lambda plot: not plot.ran)
    ticks = tuple((f"{tick:g}", _position(tick, axis)) for tick in axis.ticks())
    return plots, Scale(ticks, _position(1.0, axis))


def _row(line: Mapping[Any, Any], axis: LogAxis) -> DotRow:
    is_baseline = line["optimization"] == BASELINE
    has_fid, has_ratio = not missing(line["fid_indomain"]), not missing(line[RATIO]) and line[RATIO] > 0
    has_interval = has_ratio and not missing(line[f"{RATIO}_low"])
    has_paper_fid = not missing(line["paper_fid"])
    ours = 1.0 if is_baseline and has_fid else line[RATIO] if has_ratio else None
    paper = line["paper_ratio"] if has_paper_fid and not missing(line["paper_ratio"]) else None
    fid = _interval(line, "fid_indomain") if has_fid else line["status"].partition(":")[0]
    return DotRow(
        recipe=line["optimization"],
        label=line["label"],
        kind=line["kind"],
        glyph=GLYPHS[style.KINDS[line["kind"]][1]],
        fid=fid,
        reference="" if line["reference"] == BASELINE else line["reference"],
        ratio="" if is_baseline or not has_ratio else f"×{_interval(line, RATIO)}",
        paper_fid=f"{line['paper_fid']:.1f}" if has_paper_fid else "",
        paper_ratio="" if is_baseline or paper is None else f"×{significant(paper)}",
        finding=line["finding"],
        ours=None if ours is None else _position(ours, axis),
        low=_position(line[f"{RATIO}_low"], axis) if has_interval else None,
        high=_position(line[f"{RATIO}_high"], axis) if has_interval else None,
        paper=None if paper is None else _position(paper, axis),
    )


def _position(value: float, axis: LogAxis) -> float:
    """Return the position of `value` in percent of the axis, clipped to its ends."""
    return round(axis.pixel(min(max(value, axis.low), axis.high), 100.0), 2)


def _interval(line: Mapping[Any, Any], column: str) -> str:
    """Return `column` with its interval in brackets, if it has one."""
    mean, low, high = (line[f"{column}{end}"] for end in ("", "_low", "_high"))
    text = significant(mean)
    return text if missing(low) or missing(high) else f"{text} [{significant(low)}, {significant(high)}]"
