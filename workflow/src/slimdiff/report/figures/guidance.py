"""FID and class accuracy over the guidance scale."""

import itertools

import altair as alt
import pandas as pd

from slimdiff.analysis.findings import Findings
from slimdiff.analysis.guidance import MIN_SCALES
from slimdiff.report.figures import style
from slimdiff.report.figures.style import FID_AXIS, FONT_PX

PANEL_PX = (680, 240)
PANELS_PER_DATASET = 2
SUBTITLE = (
    "Class-conditional models at several guidance scales: 0 ignores the class, 1 is conditional sampling, and above 1 "
    "samples are pushed away from the unconditional ones. Top: FID, lower is better, logarithmic; dashed: the "
    "baseline of an unconditional model. Bottom: share of samples that a classifier assigns to the requested class. "
    f"{style.INTERVALS}"
)
EMPTY = f"No class-conditional model of this matrix is sampled at {MIN_SCALES} guidance scales."


def figure(findings: Findings, title: str) -> alt.VConcatChart:
    """Return two panels per data set."""
    frame, unconditional = findings.guided_recipes, findings.unconditional_models
    blocks = {str(dataset): block for dataset, block in frame.groupby("dataset", sort=False)}
    max_blocks = style.MAX_PANELS // PANELS_PER_DATASET
    panels: list[alt.LayerChart] = []
    for name, block in itertools.islice(blocks.items(), max_blocks):
        panels.append(_fid_panel(block, unconditional[unconditional["dataset"] == name], frame, name))
        panels.append(_accuracy_panel(block, frame))
    empty = style.placeholder(EMPTY, PANEL_PX[0])
    subtitle = [*style.wrap(SUBTITLE), *style.omitted(list(blocks)[max_blocks:])]
    return style.vconcat(panels or [empty], title, subtitle)


def _fid_panel(block: pd.DataFrame, unconditional: pd.DataFrame, frame: pd.DataFrame, name: str) -> alt.LayerChart:
    fids = [*block["fid_indomain"], *unconditional["fid_indomain"]]
    axis = style.log_axis(fids, float(block["fid_indomain"].iloc[0]))

    def y(field: str) -> alt.Y:
        return axis.y(field, FID_AXIS)

    layers: list[alt.Chart] = []
    for model, fid in zip(unconditional["model"], unconditional["fid_indomain"], strict=True):
        layers.append(style.dashed(fid).encode(y=y("value")))
        label = alt.Chart(pd.DataFrame({"value": [fid], "text": [f"{model}, unconditional"]}))
        label = label.mark_text(align="right", dy=-7, dx=-4, fontSize=FONT_PX - 1, color=style.GREY)
        layers.append(label.encode(x=alt.value(PANEL_PX[0]), y=y("value"), text="text:N"))
    layers += _marks(block, frame, "fid_indomain", axis.ends, y("fid_indomain"), y("start"))
    return alt.LayerChart(layer=layers, width=PANEL_PX[0], height=PANEL_PX[1], title=style.panel_title(name))


def _accuracy_panel(block: pd.DataFrame, frame: pd.DataFrame) -> alt.LayerChart:
    def y(field: str) -> alt.Y:
        scale, share = alt.Scale(domain=[0, 1]), alt.Axis(format=".0%")
        return alt.Y(f"{field}:Q", title="class accuracy", scale=scale, axis=share)

    measured = block.dropna(subset=["class_accuracy"])
    layers = _marks(measured, frame, "class_accuracy", (0.0, 1.0), y("class_accuracy"), y("start"))
    return alt.LayerChart(layer=layers, width=PANEL_PX[0], height=PANEL_PX[1])


def _marks(
    block: pd.DataFrame, frame: pd.DataFrame, column: str, ends: tuple[float, float], y: alt.Y, start: alt.Y
) -> list[alt.Chart]:
    """Return lines, intervals and points of a panel; `y` encodes `column`, `start` the lower end of its interval."""
    scales = sorted(set(frame["guidance"]))
    exact = "format(datum.value, '~g')"  # an axis would round by the distance of its ticks
    axis = alt.Axis(title="guidance scale", values=scales, labelExpr=exact, grid=False)
    x = alt.X("guidance:Q", scale=alt.Scale(domain=[scales[0], scales[-1]], padding=16, nice=False), axis=axis)
    color, shape = style.color_by("line", frame), style.shape_by("line", frame)
    low, high = f"{column}_low", f"{column}_high"
    numbers = style.interval_tooltip(column, column, ".3g", low, high)
    tooltip = [
        alt.Tooltip("line:N"),
        style.recipe_tooltip(),
        alt.Tooltip("guidance:Q"),
        *numbers,
        alt.Tooltip("seeds:Q"),
    ]
    intervals = alt.Chart(style.clip_intervals(block, low, high, ends)).mark_rule(strokeWidth=2, opacity=0.5)
    points = alt.Chart(block).mark_point(filled=True, size=80, opacity=1)
    return [
        alt.Chart(block).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=color),
        intervals.encode(x=x, y=start, y2="end:Q", color=color),
        points.encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip),
    ]
