"""Figures of two ablations: FID with one module pruned at a time, and FID over sparsity."""

import functools
from collections.abc import Callable

import altair as alt
import pandas as pd

from slimdiff.analysis.ablations import MIN_AMOUNTS
from slimdiff.analysis.decisions import Margins
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.measures import BASELINE, FID
from slimdiff.report.figures import style
from slimdiff.report.figures.style import FID_AXIS, RATIO_AXIS

MODULE_PX = 52  # width of one module
MODULES_HEIGHT_PX = 280
SPARSITY_PX = (680, 340)
SENSITIVITY_SUBTITLE = (
    "Each recipe prunes one module alone. Modules are in the order in which the network applies them: down the U, "
    "along its bottom, and up again. Above 1 is worse than the baseline of the same seeds; the axis is logarithmic. "
    "Bars: 95 % t-intervals over paired seeds, clipped to the axis; a single seed has none. Grey band: ratios up to "
    "{margin}, which our FID cannot resolve."
)
SPARSITY_SUBTITLE = (
    "Recipes that only set weights to zero, one line per method. Lower is better; the axis is logarithmic. Dashed: "
    f"the baseline, and the uncompressed recipe trained likewise. {style.INTERVALS}"
)


def sensitivity(findings: Findings, title: str) -> alt.VConcatChart:
    """Return FID relative to the baseline for each module pruned alone: colours are techniques, shapes amounts."""
    frame = findings.module_ratios
    parts = frame["method"].str.rsplit(", ", n=1)
    frame = frame.assign(technique=parts.str[0], amount=parts.str[-1])
    draw = functools.partial(_module_panel, margins=findings.margins)
    subtitle = SENSITIVITY_SUBTITLE.format(margin=findings.margins.quality_text)
    return _figure(frame, draw, title, subtitle, "No recipe of this matrix prunes one module alone.")


def sparsity(findings: Findings, title: str) -> alt.VConcatChart:
    """Return FID over the share of zeros, one line per pruning method."""
    frame = findings.sparse_recipes
    recipes = list(zip(frame["dataset"], frame["model"], frame["optimization"], strict=True))
    names = [(findings.references[recipe] or "", BASELINE) for recipe in recipes]
    for place, column in enumerate(("reference", "baseline")):
        fids = [
            findings.summary(FID.column, (*recipe[:2], pair[place])).mean
            for recipe, pair in zip(recipes, names, strict=True)
        ]
        frame = frame.assign(**{column: pd.Series(fids, dtype="float64")})
    empty = f"No model of this matrix has one pruning method in {MIN_AMOUNTS} amounts."
    return _figure(frame, _sparsity_panel, title, SPARSITY_SUBTITLE, empty)


def _figure(
    frame: pd.DataFrame,
    draw: Callable[[pd.DataFrame, str, pd.DataFrame], alt.LayerChart],
    title: str,
    subtitle: str,
    empty: str,
) -> alt.VConcatChart:
    """Return a panel per data set and model of `frame`, or the text `empty`; `draw` also gets the whole frame."""
    panels, omitted = style.draw_panels(frame, ["dataset", "model"], lambda block, name: draw(block, name, frame))
    return style.vconcat(panels or [style.placeholder(empty, SPARSITY_PX[0])], title, [*style.wrap(subtitle), *omitted])


def _module_panel(block: pd.DataFrame, name: str, frame: pd.DataFrame, margins: Margins) -> alt.LayerChart:
    margin = margins.of_images(block["dataset"].iloc[0])
    color, shape = style.color_by("technique", frame), style.shape_by("amount", frame)
    modules = list(dict.fromkeys(block["module"]))
    axis = style.log_axis([*block["ratio"], 1 / margin, margin], 1.0)
    labels = alt.Axis(title="module, from input to output", labelAngle=-40, grid=True)
    x = alt.X("module:N", scale=alt.Scale(domain=modules), axis=labels)
    methods = alt.Scale(domain=sorted(set(frame["method"])), paddingOuter=0.5)
    place = {"x": x, "xOffset": alt.XOffset("method:N", scale=methods)}

    def y(field: str) -> alt.Y:
        return axis.y(field, RATIO_AXIS)

    lines = alt.Chart(block).mark_line(strokeWidth=1, opacity=0.5)
    bars = alt.Chart(style.clip_intervals(block, "low", "high", axis.ends)).mark_rule(strokeWidth=2, opacity=0.6)
    points = alt.Chart(block).mark_point(filled=True, size=60, opacity=1)
    numbers = style.interval_tooltip("ratio", RATIO_AXIS, ".3g")
    tooltip = [alt.Tooltip("module:N"), alt.Tooltip("method:N"), *numbers, alt.Tooltip("seeds:Q")]
    layers = [
        style.margin_band(margin).encode(y=y("start"), y2="end:Q"),
        style.dashed(1.0).encode(y=y("value")),
        lines.encode(**place, y=y("ratio"), color=color, detail="method:N"),
        bars.encode(**place, y=y("start"), y2="end:Q", color=color),
        points.encode(**place, y=y("ratio"), color=color, shape=shape, tooltip=tooltip),
    ]
    width = MODULE_PX * max(8, len(modules))
    return alt.LayerChart(layer=layers, width=width, height=MODULES_HEIGHT_PX, title=style.panel_title(name))


def _sparsity_panel(block: pd.DataFrame, name: str, frame: pd.DataFrame) -> alt.LayerChart:
    color, shape = style.color_by("method", frame), style.shape_by("method", frame)
    baselines = pd.concat([block["baseline"], block["reference"]]).dropna().drop_duplicates()
    axis = style.log_axis([*block["fid_indomain"], *baselines], float(block["fid_indomain"].iloc[0]))
    share = alt.Axis(format=".0%", grid=False)
    x = alt.X("zeros:Q", title="sparsity: share of zero parameters", scale=alt.Scale(domain=[0, 1]), axis=share)

    def y(field: str) -> alt.Y:
        return axis.y(field, FID_AXIS)

    bars = alt.Chart(style.clip_intervals(block, "low", "high", axis.ends)).mark_rule(strokeWidth=2, opacity=0.5)
    points = alt.Chart(block).mark_point(filled=True, size=70, opacity=1)
    tooltip = [
        style.recipe_tooltip(),
        alt.Tooltip("method:N"),
        *style.interval_tooltip("fid_indomain", FID_AXIS, ".3g"),
        alt.Tooltip("seeds:Q"),
        alt.Tooltip("zeros:Q", title="sparsity", format=".1%"),
    ]
    layers = [
        *(style.dashed(value).encode(y=y("value")) for value in baselines),
        alt.Chart(block).mark_line(strokeWidth=1.5).encode(x=x, y=y("fid_indomain"), color=color),
        bars.encode(x=x, y=y("start"), y2="end:Q", color=color),
        points.encode(x=x, y=y("fid_indomain"), color=color, shape=shape, tooltip=tooltip),
    ]
    width, height = SPARSITY_PX
    return alt.LayerChart(layer=layers, width=width, height=height, title=style.panel_title(name))
