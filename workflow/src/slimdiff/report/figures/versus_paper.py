"""FID of each recipe relative to its own baseline, ours and the paper's on one axis."""

from typing import Any

import altair as alt
import pandas as pd

from slimdiff.analysis import differences
from slimdiff.analysis.decisions import Margins
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.paper import NOT_RUN, drop_crowd, percent_text
from slimdiff.report.contents import TABLES
from slimdiff.report.figures import style
from slimdiff.report.figures.style import FONT_PX, LogAxis

LINE_PX = 22  # height of one recipe
WIDTH_PX = 430
COLUMN_PX = (84, 78, 92)  # widths of the text columns on the right: ours, the paper's, the finding
OURS, PAPER = "ours", "the paper"
AXIS = "FID / FID of the reference"
RATIO = "fid_indomain_ratio"
COLORS = {OURS: "#0072B2", PAPER: "#D55E00"}  # Okabe and Ito's, safe for colour blindness
FILLS = {OURS: COLORS[OURS], PAPER: "rgba(255,255,255,0)"}  # hollow, so that ours shows through
SHAPES = {OURS: "circle", PAPER: "diamond"}
SUBTITLE = (
    "FID relative to the baseline of the same family, for recipes trained otherwise to the uncompressed one trained "
    "likewise; the axis is logarithmic, and left of 1 is better. Ours is in-domain, the paper's an Inception FID on "
    "MNIST: compare directions and rough sizes. Bars: 95 % t-intervals over paired seeds, clipped to the axis; a "
    "single seed has none. Grey band: ratios up to {margin}, which our FID cannot resolve. The finding needs FID and "
    "KID to agree."
)


def figure(matrix: Matrix, findings: Findings, paper: pd.DataFrame, title: str) -> alt.VConcatChart:
    """Return a panel per data set and model, and one for a family that was not run; one line per recipe."""
    lines = differences.table(matrix, findings, paper, TABLES)
    lines = lines[lines["in_paper"] & (lines["optimization"] != BASELINE)]
    lines = lines.assign(paper_ratio=1 + lines["paper_fid_change_percent"] / 100)
    # A line without any number is useful only if the recipe failed or has no baseline.
    lines = lines[(lines["status"] != NOT_RUN) | lines["paper_ratio"].notna()]
    shown = drop_crowd(lines)
    order = list(dict.fromkeys(shown["dataset"]))  # keeps the families of a data set together
    shown = shown.sort_values("dataset", key=lambda names: names.map(order.index), kind="stable")
    axis = style.log_axis(pd.concat([shown[RATIO], shown["paper_ratio"]]).dropna(), 1.0)
    subtitle = style.wrap(SUBTITLE.format(margin=findings.margins.quality_text))
    if n_omitted := len(lines) - len(shown):
        subtitle += style.wrap(f"{n_omitted} others are left out, see {style.FULL_TABLE}.")
    panels, omitted = style.draw_panels(
        shown, ["dataset", "model"], lambda block, name: _panel(block, name, axis, findings.margins)
    )
    return style.vconcat(panels, title, subtitle + omitted)


def _panel(block: pd.DataFrame, name: str, axis: LogAxis, margins: Margins) -> alt.LayerChart:
    margin = margins.of_images(block["dataset"].iloc[0])
    order = block["optimization"].tolist()
    names = alt.Axis(title=None, ticks=False, grid=True, domain=False, labelLimit=300)
    y = alt.Y("optimization:N", scale=alt.Scale(domain=order), axis=names)
    legend = style.legend("top", 2)

    def x(field: str) -> alt.X:
        return axis.x(field, AXIS)

    def scale(values: dict[str, str]) -> dict[str, Any]:
        return {"legend": legend, "scale": alt.Scale(domain=list(values), range=list(values.values()))}

    color = alt.Color("source:N", **scale(COLORS))
    intervals = style.clip_intervals(block, f"{RATIO}_low", f"{RATIO}_high", axis.ends).assign(source=OURS)
    bars = alt.Chart(intervals).mark_rule(strokeWidth=3, opacity=0.5)
    points = pd.concat([_points(block, RATIO, OURS), _points(block, "paper_ratio", PAPER)])
    marks = alt.Chart(points).mark_point(size=85, strokeWidth=2, opacity=1)
    layers = [
        style.margin_band(margin).encode(x=x("start"), x2="end:Q"),
        style.dashed(1.0).encode(x=x("value")),
        bars.encode(x=x("start"), x2="end:Q", y=y, color=color),
        marks.encode(
            x=x("value"),
            y=y,
            color=color,
            shape=alt.Shape("source:N", **scale(SHAPES)),
            fill=alt.Fill("source:N", **scale(FILLS)),
            tooltip=_tooltip(),
        ),
    ]
    left = WIDTH_PX + 10
    columns = {
        OURS: block[RATIO].map(_percent),
        PAPER: block["paper_ratio"].map(_percent),
        "finding": block["finding"].astype(str),
    }
    for width, (heading, texts) in zip(COLUMN_PX, columns.items(), strict=True):
        column = alt.Chart(pd.DataFrame({"optimization": order, "text": texts.tolist()}))
        layers.append(_text(column).encode(x=alt.value(left), y=y, text="text:N"))
        head = alt.Chart(pd.DataFrame({"text": [heading]}))
        layers.append(_text(head, style.GREY).encode(x=alt.value(left), y=alt.value(-10), text="text:N"))
        left += width
    title = style.panel_title(name, offset=6)
    return alt.LayerChart(layer=layers, width=WIDTH_PX, height=LINE_PX * len(order), title=title)


def _points(block: pd.DataFrame, column: str, source: str) -> pd.DataFrame:
    points = block[block[column] > 0]
    own = [f"{RATIO}_low", f"{RATIO}_high", "images_p", "seeds", "reference", "finding"]
    points = points[["optimization", *own]].assign(value=points[column], source=source)
    return points if source == OURS else points.assign(**dict.fromkeys(own[:4]), reference="", finding="")


def _tooltip() -> list[alt.Tooltip]:
    return [
        style.recipe_tooltip(),
        alt.Tooltip("source:N"),
        *style.interval_tooltip("value", AXIS, ".3f", f"{RATIO}_low", f"{RATIO}_high"),
        alt.Tooltip("images_p:Q", title="p, corrected", format=".3g"),
        alt.Tooltip("reference:N"),
        alt.Tooltip("seeds:Q"),
        alt.Tooltip("finding:N"),
    ]


def _text(data: alt.Chart, color: str = "black") -> alt.Chart:
    return data.mark_text(align="left", fontSize=FONT_PX - 1, color=color)


def _percent(ratio: float) -> str:
    return "–" if pd.isna(ratio) else percent_text(100 * (ratio - 1))
