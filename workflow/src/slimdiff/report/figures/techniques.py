"""FID of each technique, ours and the paper's in two halves."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.analysis import paper as comparison
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import FID, FID_PCT
from slimdiff.analysis.paper import NOT_RUN, percent_text
from slimdiff.report.contents import TABLES, FigureSpec
from slimdiff.report.figures import style
from slimdiff.report.figures.style import FONT_PX, LogAxis

LINE_PX = 24  # height of one technique
HALF_PX = 300  # width of one half
NUMBER_PX = 116  # width of the numbers to the right of a half
HEADINGS = {"fid_indomain": "in-domain FID, ours", "paper_fid": "Inception FID, the paper"}
SUBTITLE = (
    "Left is better. Ours is an in-domain FID, the paper's an Inception FID on MNIST, so each half has its own scale. "
    "Both are logarithmic and span the same ratio: equal distances from the dashed baseline are equal changes. Changes "
    "of recipes trained otherwise are relative to the uncompressed one trained likewise, which is named. "
    f"{style.INTERVALS}"
)


def figure(matrix: Matrix, findings: Findings, paper: pd.DataFrame, spec: FigureSpec) -> alt.VConcatChart:
    """Return a panel per data set and model, and one for a family that was not run."""
    tables = [table for table in TABLES if table.name in spec.tables]
    lines = comparison.techniques(matrix, findings, paper, tables, (FID, FID_PCT))
    shown = comparison.drop_crowd(lines)
    subtitle = style.wrap(SUBTITLE)
    if n_omitted := len(lines) - len(shown):
        subtitle += style.wrap(
            f"Of the recipes outside the paper's tables, each panel shows the {comparison.MAX_OTHERS} with the lowest "
            f"FID; {n_omitted} others are left out, see {style.FULL_TABLE}."
        )

    def draw(block: pd.DataFrame, name: str) -> alt.HConcatChart:
        return _halves(block, tables[0].baseline).properties(title=style.panel_title(name))

    panels, omitted = style.draw_panels(shown, ["dataset", "model"], draw)
    return style.vconcat(panels, spec.title, subtitle + omitted)


def _halves(frame: pd.DataFrame, baseline: str) -> alt.HConcatChart:
    """Return our half and the paper's for one data set and model; `frame` has one line per technique."""
    baselines = {side: _first(frame.loc[frame["optimization"] == baseline, side]) for side in HEADINGS}
    # Without a baseline, the axis is centred on the geometric mean.
    middles = {side: baselines[side] or _geometric_mean(frame[side]) for side in HEADINGS}
    ratios = style.log_axis([value / middles[side] for side in HEADINGS for value in frame[side].dropna()], 1.0)
    halves = []
    for side in HEADINGS:
        axis = LogAxis(ratios.low * middles[side], ratios.high * middles[side])
        texts = [_text(row, side, baseline) for row in frame.to_dict("records")]
        halves.append(_half(frame.assign(value=frame[side], text=texts), side, axis, baselines[side]))
    return alt.hconcat(*halves, spacing=24)


def _half(frame: pd.DataFrame, side: str, axis: LogAxis, baseline: float | None) -> alt.LayerChart:
    """Return points at the column `value`, with the column `text` to the right of the panel."""
    ours = side == "fid_indomain"
    drawn = frame.dropna(subset=["value"])
    order = frame["optimization"].tolist()
    names = alt.Axis(title=None, labels=ours, ticks=False, grid=True, domain=False, labelLimit=300)
    y = alt.Y("optimization:N", scale=alt.Scale(domain=order), axis=names)
    color, shape = style.kind_color(frame["kind"]), style.kind_shape(frame["kind"])

    def x(field: str) -> alt.X:
        return axis.x(field, HEADINGS[side], numbers=not drawn.empty)

    layers = [] if baseline is None else [style.dashed(baseline).encode(x=x("value"))]
    if ours:
        intervals = style.clip_intervals(drawn, "fid_indomain_low", "fid_indomain_high", axis.ends)
        bars = alt.Chart(intervals).mark_rule(strokeWidth=2.5, opacity=0.6)
        layers.append(bars.encode(x=x("start"), x2="end:Q", y=y, color=color))
    points = alt.Chart(drawn).mark_point(filled=ours, size=110, opacity=1, strokeWidth=2)
    layers.append(points.encode(x=x("value"), y=y, color=color, shape=shape, tooltip=_tooltip(side)))
    texts = alt.Chart(frame).mark_text(align="left", fontSize=FONT_PX - 1, limit=NUMBER_PX)
    layers.append(texts.encode(x=alt.value(HALF_PX + 8), y=y, text="text:N"))
    return alt.LayerChart(layer=layers, width=HALF_PX, height=LINE_PX * len(order))


def _tooltip(side: str) -> list[alt.Tooltip]:
    heading = HEADINGS[side]
    if side == "paper_fid":
        value = alt.Tooltip("value:Q", title=heading, format=".2f")
        return [style.recipe_tooltip(), value, alt.Tooltip("label:N", title="in the paper"), alt.Tooltip("note:N")]
    return [
        style.recipe_tooltip(),
        *style.interval_tooltip("value", heading, ".2f", "fid_indomain_low", "fid_indomain_high"),
        alt.Tooltip("fid_indomain_pct:Q", title=FID_PCT.heading, format=".2f"),
        alt.Tooltip("seeds:Q"),
        alt.Tooltip("status:N"),
    ]


def _text(row: Mapping[Any, Any], side: str, baseline: str) -> str:
    """Return the value of a line and its change, or why it has none."""
    if math.isnan(row[side]):
        return "" if side == "paper_fid" else NOT_RUN if row["status"] == NOT_RUN else row["status"].partition(":")[0]
    change = row[f"{side}_change_percent"]
    shows_change = not math.isnan(change) and row["optimization"] != baseline
    longer = f", {row['reference']}" if side == "fid_indomain" and row["reference"] not in ("", baseline) else ""
    return f"{row[side]:.1f}" + (f"  ({percent_text(change)}{longer})" if shows_change else "")


def _first(values: "pd.Series[float]") -> float | None:
    """Return the first value, or None if it is missing."""
    return None if values.isna().all() else float(values.iloc[0])


def _geometric_mean(values: "pd.Series[float]") -> float:
    """Return the geometric mean of the positive values; 1 without any."""
    logs = [math.log(value) for value in values if value > 0]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0
