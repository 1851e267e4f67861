"""The figure of guidance: FID over its scale, and the share of images that show what was asked for."""

import itertools

import altair as alt
import pandas as pd

from slimdiff.analysis.findings import Findings
from slimdiff.analysis.guidance import MIN_SCALES
from slimdiff.report.figures import style
from slimdiff.report.figures.style import FONT_PX

PANEL_PX = (680, 240)
EACH = 2  # panels of a data set
ELSEWHERE = "tables/cells.csv"
SUBTITLE = (
    "Models that are told a class, sampled with more and less guidance: at 0 as if they were told none, at 1 by the "
    "class alone, above it led away from what the network draws without one. Above: FID, lower is better; the axis is "
    "logarithmic. Dashed: the baseline of a model that is never told a class. Below: the share of images that a "
    "classifier takes for the class asked for. Bars: 95 % t-interval over seeds, cut at the edge; one seed has none."
)
EMPTY = f"No model of this matrix is told a class and sampled in {MIN_SCALES} guidances."


def guidance(findings: Findings, title: str) -> alt.VConcatChart:
    """FID and class accuracy over the scale of guidance, two panels for each data set."""
    frame, unconditional = findings.guided_recipes, findings.unconditional_models
    blocks = {str(dataset): block for dataset, block in frame.groupby("dataset", sort=False)}
    most = style.MOST_PANELS // EACH
    panels: list[alt.LayerChart] = []
    for name, block in itertools.islice(blocks.items(), most):
        panels += [
            _fids(block, unconditional[unconditional["dataset"] == name], frame, name),
            _accuracies(block, frame),
        ]
    left_out = style.listed(f"No room here, but in {ELSEWHERE}", list(blocks)[most:])
    empty = style.sentence(EMPTY, PANEL_PX[0])
    return style.stack(panels or [empty], title, [*style.lines(SUBTITLE), *left_out])


def _fids(block: pd.DataFrame, unconditional: pd.DataFrame, whole: pd.DataFrame, name: str) -> alt.LayerChart:
    axis = style.log_axis(
        [*block["fid_indomain"], *unconditional["fid_indomain"]], float(block["fid_indomain"].iloc[0])
    )
    column = {field: axis.y(field, "in-domain FID") for field in ("fid_indomain", "start", "value")}
    layers: list[alt.Chart] = []
    for model, fid in zip(unconditional["model"], unconditional["fid_indomain"], strict=True):
        layers.append(style.dashed(fid).encode(y=column["value"]))
        label = alt.Chart(pd.DataFrame({"value": [fid], "text": [f"{model}, told no class"]}))
        label = label.mark_text(align="right", dy=-7, dx=-4, fontSize=FONT_PX - 1, color=style.GREY)
        layers.append(label.encode(x=alt.value(PANEL_PX[0]), y=column["value"], text="text:N"))
    layers += _marks(block, whole, "fid_indomain", axis.ends, (column["fid_indomain"], column["start"]))
    title = alt.TitleParams(name, anchor="start", fontSize=FONT_PX + 1)
    return alt.LayerChart(layer=layers, width=PANEL_PX[0], height=PANEL_PX[1], title=title)


def _accuracies(block: pd.DataFrame, whole: pd.DataFrame) -> alt.LayerChart:
    scale, share = alt.Scale(domain=[0, 1]), alt.Axis(format=".0%")
    y = alt.Y("class_accuracy:Q", title="right class", scale=scale, axis=share)
    start = alt.Y("start:Q", title="right class", scale=scale, axis=share)
    layers = _marks(block.dropna(subset=["class_accuracy"]), whole, "class_accuracy", (0.0, 1.0), (y, start))
    return alt.LayerChart(layer=layers, width=PANEL_PX[0], height=PANEL_PX[1])


def _marks(
    block: pd.DataFrame, whole: pd.DataFrame, column: str, ends: tuple[float, float], ys: tuple[alt.Y, alt.Y]
) -> list[alt.Chart]:
    """Lines, intervals and points of a panel; `ys` encode `column` and the lower end of its interval."""
    scales = sorted(set(whole["guidance"]))
    number = "format(datum.value, '~g')"  # as it is: an axis rounds by the distance of its ticks
    axis = alt.Axis(title="guidance scale", values=scales, labelExpr=number, grid=False)
    x = alt.X("guidance:Q", scale=alt.Scale(domain=[scales[0], scales[-1]], padding=16, nice=False), axis=axis)
    color, (y, start) = style.color_of("line", whole), ys
    tooltip = [alt.Tooltip("line:N"), alt.Tooltip("optimization:N", title="recipe"), alt.Tooltip("guidance:Q")]
    tooltip += [alt.Tooltip(f"{column}{end}:Q", format=".3g") for end in ("", "_low", "_high")]
    tooltip.append(alt.Tooltip("seeds:Q"))
    intervals = style.clipped(block, f"{column}_low", f"{column}_high", ends)
    points = alt.Chart(block).mark_point(filled=True, size=80, opacity=1)
    return [
        alt.Chart(block).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=color),
        alt.Chart(intervals).mark_rule(strokeWidth=2, opacity=0.5).encode(x=x, y=start, y2="end:Q", color=color),
        points.encode(x=x, y=y, color=color, shape=style.shape_of("line", whole), tooltip=tooltip),
    ]
