"""The figure of every recipe's change against its own baseline, ours and the report's on one axis."""

import itertools
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.analysis import differences, statistics
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.paper import NOT_RUN, drop_crowd, percent_text
from slimdiff.report.contents import TABLES
from slimdiff.report.figures import style
from slimdiff.report.figures.style import FONT_PX, LogAxis

LINE_PX = 22  # height of one recipe
WIDTH_PX = 430
COLUMN_PX = (84, 78, 92)  # widths of the columns of text on the right: ours, the report's, what was found
OURS, THEIRS = "ours", "the report"
AXIS = "FID / FID of the baseline"
COLORS = {OURS: "#0072B2", THEIRS: "#D55E00"}  # Okabe and Ito's, told apart without colour vision
FILLS = {OURS: COLORS[OURS], THEIRS: "rgba(255,255,255,0)"}  # the report's are hollow, so that ours shows through
SHAPES = {OURS: "circle", THEIRS: "diamond"}
ELSEWHERE = "tables/cells.csv"
SUBTITLE = (
    "Ratios of FID on one logarithmic axis: left of 1 is better than the baseline of the same family. Ours is "
    "in-domain, the report's an Inception FID on MNIST, so compare directions and rough sizes. Bars: 95 % t-interval "
    "over paired seeds, cut at the edge; one seed has none. Within the grey band, a ratio of "
    f"{statistics.RESOLUTION}, our metric tells nothing apart."
)


def chart(matrix: Matrix, findings: Findings, paper: pd.DataFrame, title: str) -> alt.VConcatChart:
    """A panel for each data set and model, and for each family that was not run; a line for each recipe."""
    everything = differences.table(matrix, findings, paper, TABLES)
    everything = everything[everything["optimization"] != BASELINE]
    everything = everything.assign(theirs=1 + everything["paper_fid_change_percent"] / 100)
    # A line without any number is only worth its room where the recipe failed or has no baseline.
    everything = everything[(everything["status"] != NOT_RUN) | everything["theirs"].notna()]
    frame = drop_crowd(everything)
    order = list(dict.fromkeys(frame["dataset"]))  # so that the families of a data set are below each other
    frame = frame.sort_values("dataset", key=lambda names: names.map(order.index), kind="stable")
    groups = frame.groupby(["dataset", "model"], sort=False)
    blocks = {f"{dataset}, {model}": block for (dataset, model), block in groups}
    drawn = pd.concat([frame[column] for column in ("ratio", "theirs")])
    axis = style.log_axis(drawn.dropna(), 1.0)
    panels = [_panel(block, name, axis) for name, block in itertools.islice(blocks.items(), style.MOST_PANELS)]
    subtitle = style.lines(SUBTITLE)
    if len(frame) < len(everything):
        left_out = len(everything) - len(frame)
        subtitle += style.lines(f"{left_out} others are left out, and are in {ELSEWHERE}.")
    subtitle += style.listed(f"No room here, but in {ELSEWHERE}", list(blocks)[style.MOST_PANELS :])
    return style.stack(panels, title, subtitle)


def _panel(block: pd.DataFrame, name: str, axis: LogAxis) -> alt.LayerChart:
    order = block["optimization"].tolist()
    names = alt.Axis(title=None, ticks=False, grid=True, domain=False, labelLimit=300)
    y = alt.Y("optimization:N", scale=alt.Scale(domain=order), axis=names)
    color = alt.Color("who:N", scale=_scale(COLORS), legend=_legend())
    shape = alt.Shape("who:N", scale=_scale(SHAPES), legend=_legend())

    def x(field: str) -> alt.X:
        return axis.x(field, AXIS)

    edges = pd.DataFrame({"start": [1 / statistics.RESOLUTION], "end": [statistics.RESOLUTION]})
    band = alt.Chart(edges).mark_rect(color="#d9d9d9", opacity=0.55).encode(x=x("start"), x2="end:Q")
    spread = block.dropna(subset=["ratio_low"])
    spread = spread.assign(
        start=spread["ratio_low"].clip(lower=axis.low), end=spread["ratio_high"].clip(upper=axis.high), who=OURS
    )
    bars = alt.Chart(spread).mark_rule(strokeWidth=3, opacity=0.5).encode(x=x("start"), x2="end:Q", y=y, color=color)
    points = pd.concat([_points(block, "ratio", OURS), _points(block, "theirs", THEIRS)])
    marks = alt.Chart(points).mark_point(size=85, strokeWidth=2, opacity=1)
    fill = alt.Fill("who:N", scale=_scale(FILLS), legend=_legend())
    tooltip = [
        alt.Tooltip("optimization:N", title="recipe"),
        alt.Tooltip("who:N", title="whose"),
        alt.Tooltip("value:Q", title=AXIS, format=".3f"),
        alt.Tooltip("ratio_low:Q", title="95 % from", format=".3f"),
        alt.Tooltip("ratio_high:Q", title="to", format=".3f"),
        alt.Tooltip("p_holm:Q", title="p, Holm", format=".3g"),
        alt.Tooltip("seeds:Q"),
        alt.Tooltip("finding:N"),
    ]
    marks = marks.encode(x=x("value"), y=y, color=color, shape=shape, fill=fill, tooltip=tooltip)
    layers = [band, style.dashed(1.0).encode(x=x("value")), bars, marks]
    left = WIDTH_PX + 10
    rows = block.to_dict("records")
    texts = [[_percent(row[side]) for row in rows] for side in ("ratio", "theirs")]
    texts.append([str(row["finding"]) for row in rows])
    for width, texts_of, heading in zip(COLUMN_PX, texts, (OURS, THEIRS, "found"), strict=True):
        column = alt.Chart(pd.DataFrame({"optimization": order, "text": texts_of}))
        layers.append(_text(column).encode(x=alt.value(left), y=y, text="text:N"))
        head = alt.Chart(pd.DataFrame({"text": [heading]}))
        layers.append(_text(head, style.GREY).encode(x=alt.value(left), y=alt.value(-10), text="text:N"))
        left += width
    title = alt.TitleParams(name, anchor="start", fontSize=FONT_PX + 1, offset=6)
    return alt.LayerChart(layer=layers, width=WIDTH_PX, height=LINE_PX * len(order), title=title)


def _points(block: pd.DataFrame, column: str, who: str) -> pd.DataFrame:
    found = block[block[column] > 0]
    found = found[["optimization", "ratio_low", "ratio_high", "p_holm", "seeds", "finding"]].assign(
        value=found[column], who=who
    )
    return found if who == OURS else found.assign(ratio_low=None, ratio_high=None, p_holm=None, seeds=None, finding="")


def _text(data: alt.Chart, color: str = "black") -> alt.Chart:
    return data.mark_text(align="left", fontSize=FONT_PX - 1, color=color)


def _percent(ratio: float) -> str:
    return "–" if pd.isna(ratio) else percent_text(100 * (ratio - 1))


def _scale(values: Mapping[str, Any]) -> alt.Scale:
    return alt.Scale(domain=list(values), range=list(values.values()))


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", direction="horizontal", symbolOpacity=1)
