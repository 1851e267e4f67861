"""The figures of two studies: FID over the U, one module pruned at a time, and FID over the share of zeros."""

import itertools

import altair as alt
import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.ablations import MIN_AMOUNTS
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.measures import BASELINE, FID
from slimdiff.report.figures import style
from slimdiff.report.figures.style import FONT_PX

MODULE_PX = 52  # width of one module
HEIGHT_PX = 280
ZEROS_PX = (680, 340)
ELSEWHERE = "tables/cells.csv"
RATIO = "FID / FID of the baseline"
PAIR = ["dataset", "model"]
SENSITIVITY_SUBTITLE = (
    "Each point is a recipe that prunes one module alone, in the order in which the network applies them: down the U, "
    "along its bottom, and up again. Above 1 is worse than the same seeds' baseline; the axis is logarithmic. Bars: "
    "95 % t-interval over paired seeds, cut at the edge; one seed has none. Within the grey band, a ratio of "
    f"{statistics.RESOLUTION}, our metric tells nothing apart."
)
SPARSITY_SUBTITLE = (
    "FID of recipes that do nothing but make weights zero, a line for each way to do so. Lower is better; the axis is "
    "logarithmic. Dashed: the baseline. Bars: 95 % t-interval over seeds, cut at the edge; one seed has none. Ways "
    "with further epochs train longer than those without."
)


def sensitivity(findings: Findings, title: str) -> alt.VConcatChart:
    """FID against the baseline's for each module that is pruned alone, one panel per data set and model.

    A colour for each method, a shape for each amount.
    """
    frame = findings.module_ratios
    split = frame["method"].str.rsplit(", ", n=1)
    frame = frame.assign(technique=split.str[0], amount=split.str[-1])
    return _stacked(frame, title, SENSITIVITY_SUBTITLE, "No recipe of this matrix prunes one module alone.")


def sparsity(findings: Findings, title: str) -> alt.VConcatChart:
    """FID over the share of zeros for each way of pruning, one panel per data set and model."""
    frame = findings.sparse_recipes
    models = zip(frame["dataset"], frame["model"], strict=True)
    baselines = [findings.summary(FID.column, (*model, BASELINE)).mean for model in models]
    empty = f"No model of this matrix has {MIN_AMOUNTS} amounts of one way of pruning."
    return _stacked(frame.assign(base=pd.Series(baselines, dtype="float64")), title, SPARSITY_SUBTITLE, empty)


def _stacked(frame: pd.DataFrame, title: str, subtitle: str, empty: str) -> alt.VConcatChart:
    """A panel for each data set and model of `frame`, or a sentence where there is nothing to draw."""
    draw = _zeros_panel if "zeros" in frame else _module_panel
    blocks = {f"{dataset}, {model}": block for (dataset, model), block in frame.groupby(PAIR, sort=False)}
    panels = [draw(block, name, frame) for name, block in itertools.islice(blocks.items(), style.MOST_PANELS)]
    left_out = style.listed(f"No room here, but in {ELSEWHERE}", list(blocks)[style.MOST_PANELS :])
    return style.stack(panels or [style.sentence(empty, ZEROS_PX[0])], title, [*style.lines(subtitle), *left_out])


def _module_panel(block: pd.DataFrame, name: str, whole: pd.DataFrame) -> alt.LayerChart:
    """A panel of `block`; colours and shapes are those of the `whole` frame, so that panels share a legend."""
    methods, color = sorted(set(whole["method"])), style.color_of("technique", whole)
    modules = list(dict.fromkeys(block["module"]))
    axis = style.log_axis([*block["ratio"], 1 / statistics.RESOLUTION, statistics.RESOLUTION], 1.0)
    labels = alt.Axis(title="module, from the image over the bottom to the image", labelAngle=-40, grid=True)
    x = alt.X("module:N", scale=alt.Scale(domain=modules), axis=labels)
    beside = alt.XOffset("method:N", scale=alt.Scale(domain=methods, paddingOuter=0.5))

    def y(field: str) -> alt.Y:
        return axis.y(field, RATIO)

    edges = pd.DataFrame({"start": [1 / statistics.RESOLUTION], "end": [statistics.RESOLUTION]})
    band = alt.Chart(edges).mark_rect(color="#d9d9d9", opacity=0.55).encode(y=y("start"), y2="end:Q")
    dashed = style.dashed(1.0).encode(y=y("value"))
    lines = alt.Chart(block).mark_line(strokeWidth=1, opacity=0.5)
    lines = lines.encode(x=x, xOffset=beside, y=y("ratio"), color=color, detail="method:N")
    bars = alt.Chart(style.clipped(block, "low", "high", axis.ends)).mark_rule(strokeWidth=2, opacity=0.6)
    bars = bars.encode(x=x, xOffset=beside, y=y("start"), y2="end:Q", color=color)
    tooltip = [alt.Tooltip("module:N"), alt.Tooltip("method:N"), *_numbers("ratio", RATIO)]
    points = alt.Chart(block).mark_point(filled=True, size=60, opacity=1)
    shape = style.shape_of("amount", whole)
    points = points.encode(x=x, xOffset=beside, y=y("ratio"), color=color, shape=shape, tooltip=tooltip)
    layers = [band, dashed, lines, bars, points]
    title = alt.TitleParams(name, anchor="start", fontSize=FONT_PX + 1)
    return alt.LayerChart(layer=layers, width=MODULE_PX * max(8, len(modules)), height=HEIGHT_PX, title=title)


def _zeros_panel(block: pd.DataFrame, name: str, whole: pd.DataFrame) -> alt.LayerChart:
    """As `_module_panel`."""
    color, shape = style.color_of("method", whole), style.shape_of("method", whole)
    base = block["base"].dropna()
    axis = style.log_axis([*block["fid_indomain"], *base], float(block["fid_indomain"].iloc[0]))
    share = alt.Axis(format=".0%", grid=False)
    x = alt.X("zeros:Q", title="share of the parameters that are zero", scale=alt.Scale(domain=[0, 1]), axis=share)

    def y(field: str) -> alt.Y:
        return axis.y(field, "in-domain FID")

    layers: list[alt.Chart] = [style.dashed(value).encode(y=y("value")) for value in base.head(1)]
    layers.append(alt.Chart(block).mark_line(strokeWidth=1.5).encode(x=x, y=y("fid_indomain"), color=color))
    bars = alt.Chart(style.clipped(block, "low", "high", axis.ends)).mark_rule(strokeWidth=2, opacity=0.5)
    layers.append(bars.encode(x=x, y=y("start"), y2="end:Q", color=color))
    tooltip = [alt.Tooltip("optimization:N", title="recipe"), alt.Tooltip("method:N"), *_numbers("fid_indomain", "FID")]
    tooltip.append(alt.Tooltip("zeros:Q", title="zeros", format=".1%"))
    points = alt.Chart(block).mark_point(filled=True, size=70, opacity=1)
    layers.append(points.encode(x=x, y=y("fid_indomain"), color=color, shape=shape, tooltip=tooltip))
    width, height = ZEROS_PX
    title = alt.TitleParams(name, anchor="start", fontSize=FONT_PX + 1)
    return alt.LayerChart(layer=layers, width=width, height=height, title=title)


def _numbers(column: str, title: str) -> list[alt.Tooltip]:
    ends = [alt.Tooltip(f"{end}:Q", title=text, format=".3g") for end, text in (("low", "95 % from"), ("high", "to"))]
    return [alt.Tooltip(f"{column}:Q", title=title, format=".3g"), *ends, alt.Tooltip("seeds:Q")]
