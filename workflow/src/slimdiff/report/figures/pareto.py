"""Cost against FID: one point per recipe, names, and the Pareto front. Figures and page share the chart."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.analysis import paper
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.statistics import pareto_front
from slimdiff.report.contents import COSTS, CostSpec
from slimdiff.report.figures import style
from slimdiff.report.figures.labels import place_names
from slimdiff.report.figures.style import FID_AXIS, FONT_PX, LogAxis

FIGURE_PX = (680, 460)
MAX_NAMED = 100  # points that get a name in the figure
MEANS = ("fid_indomain", "fid_indomain_pct", "size_gzip_bytes", "params_nonzero", "inference_ms_per_image", "gmacs")
NAME_TEXT: Any = {"align": "left", "baseline": "middle", "fontSize": FONT_PX - 1}
SUBTITLE = (
    "Lower left is better; both axes are logarithmic. Line: the Pareto front, recipes that no other beats in both. "
    f"Dashed: the baseline. {style.INTERVALS}"
)


@dataclass(frozen=True)
class Fact:
    """A number in the tooltip of a point."""

    column: str  # of `recipes`
    label: str
    unit: str
    format: str  # of d3


FACTS = (
    Fact("fid_indomain", "in-domain FID", "", ".2f"),
    Fact("fid_indomain_pct", "in-domain FID (% of variance)", "%", ".2f"),
    Fact("size_mb", "gzip size", "MB", ".3f"),
    Fact("params_nonzero", "non-zero parameters", "", ",.0f"),
    Fact("inference_ms_per_image", "time per image", "ms", ".2f"),
    Fact("gmacs", "multiply-accumulates", "billion per image", ".3f"),
)


def recipes(matrix: Matrix, findings: Findings) -> pd.DataFrame:
    """Return one row per recipe of `matrix`, in its order.

    Columns: dataset, model, optimization, family, kind, MEANS (over seeds); seeds, low, high (95 % interval of the
    FID); disturbed (whether no time counts for this reason); size_mb; name, unique within the data set.
    """
    families = paper.families(matrix)
    rows = []
    for recipe in findings.outcomes:
        fid = findings.summary("fid_indomain", recipe)
        row: dict[str, Any] = dict(zip(("dataset", "model", "optimization"), recipe, strict=True))
        row |= {"family": families[recipe[1]], "kind": paper.kind(recipe[2], matrix.config)}
        means = {column: findings.summary(column, recipe).mean for column in MEANS}
        disturbed = bool(findings.outcomes[recipe].disturbed) and math.isnan(means["inference_ms_per_image"])
        rows.append({**row, **means, "seeds": fid.n, "low": fid.low, "high": fid.high, "disturbed": disturbed})
    frame = pd.DataFrame(rows)
    frame["size_mb"] = frame["size_gzip_bytes"] / 1e6
    several = frame.groupby("dataset")["model"].transform("nunique") > 1
    frame["name"] = frame["optimization"].where(~several, frame["model"] + ": " + frame["optimization"])
    return frame


def points(recipes: pd.DataFrame) -> pd.DataFrame:
    """Return the `recipes` with a FID, with the columns that `chart` draws.

    front_{cost}: whether the recipe is on the Pareto front of that cost; start, end: its interval, clipped to the axis.
    """
    frame = recipes[recipes["fid_indomain"] > 0].reset_index(drop=True)
    frame = frame.assign(start=frame["fid_indomain"], end=frame["fid_indomain"])
    for cost in COSTS:
        frame[_front(cost)] = False
    for _, block in frame.groupby("dataset", sort=False):
        intervals = style.clip_intervals(block, "low", "high", _axes(block, COSTS[0])[1].ends)
        frame.loc[intervals.index, ["start", "end"]] = intervals[["start", "end"]]
        for cost in COSTS:
            measured = block[block[cost.column] > 0]
            costs = list(zip(measured[cost.column], measured["fid_indomain"], strict=True))
            frame.loc[measured.index, _front(cost)] = pareto_front(costs)
    return frame


def figure(matrix: Matrix, findings: Findings, title: str) -> alt.VConcatChart:
    """Return compressed size against FID, one panel per data set."""
    frame, cost = recipes(matrix, findings), COSTS[0]
    drawn = points(frame)
    drawn = drawn[drawn[cost.column] > 0]

    def draw(block: pd.DataFrame, name: str) -> alt.LayerChart:
        panel = chart(block, cost, FIGURE_PX, MAX_NAMED, tooltip=_tooltip())
        return panel.properties(title=style.panel_title(name))

    panels, omitted = style.draw_panels(drawn, ["dataset"], draw)
    drawable = (frame["fid_indomain"] > 0) & (frame[cost.column] > 0)
    subtitle = style.wrap(SUBTITLE) + style.family_legend(drawn["family"])
    subtitle += style.enumerate_names("Not drawn, without a number", list(frame.loc[~drawable, "name"].unique()))
    empty = style.placeholder("No cell has both a size and a FID yet.", FIGURE_PX[0])
    return style.vconcat(panels or [empty], title, subtitle + omitted)


def chart(
    frame: pd.DataFrame,
    cost: CostSpec,
    area: tuple[int, int],
    max_named: int,
    data: alt.NamedData | None = None,
    tooltip: Iterable[alt.Tooltip] = (),
) -> alt.LayerChart:
    """Return the panel of one data set.

    Args:
        frame: `points` of the data set with a value of `cost`.
        area: width and height in pixels.
        max_named: points that get a name; those of the front first.
        data: name of a data set with the rows of `points`, if several charts share it; None: include `frame`.
        tooltip: of each point.
    """
    axes = _axes(frame, cost)
    few = frame.assign(front=frame[_front(cost)]).sort_values("front", ascending=False, kind="stable").head(max_named)
    named = place_names(few, cost.column, axes, area)
    rows = alt.Chart(frame if data is None else data).transform_filter(f"datum['{cost.column}'] > 0")
    color, shape = style.kind_color(frame["kind"]), style.kind_shape(frame["kind"])

    def x(field: str) -> alt.X:
        return axes[0].x(field, cost.axis)

    def y(field: str) -> alt.Y:
        return axes[1].y(field, FID_AXIS)

    place = {"x": x(cost.column), "y": y("fid_indomain")}
    baselines = frame[frame["optimization"] == BASELINE]
    layers: list[Any] = [style.dashed(value).encode(x=x("value")) for value in baselines[cost.column]]
    layers += [style.dashed(value).encode(y=y("value")) for value in baselines["fid_indomain"]]
    front = rows.transform_filter(f"datum['{_front(cost)}']")
    line = front.mark_line(interpolate="step-after", color="#333333", strokeWidth=1.5)
    layers.append(line.encode(**place, order=alt.Order(f"{cost.column}:Q")))
    bars = rows.mark_rule(strokeWidth=2, opacity=0.5, clip=True)
    layers.append(bars.encode(x=x(cost.column), y=y("start"), y2="end:Q", color=color))
    if len(named):
        leaders = alt.Chart(named[named["leader"]]).mark_rule(color="#999999", strokeWidth=0.8)
        layers.append(leaders.encode(**place, x2="near_x:Q", y2="near_y:Q"))
    marks = rows.mark_point(size=110, opacity=1, strokeWidth=1.6).encode(**place, color=color, shape=shape)
    layers.append(marks.encode(fill=alt.value("white")))  # hides the lines behind hollow points
    inside = marks.encode(fill=style.kind_fill(frame["kind"]), fillOpacity=style.family_fill(frame["family"]))
    # The page finds its points by the name of the layer; names must be unique among the panels of a figure.
    layers.append(inside.properties(name="cells") if data is not None else inside.encode(tooltip=list(tooltip)))
    if len(named):
        names = alt.Chart(named[["name", "front", "label_x", "label_y"]])
        names = names.encode(x=x("label_x"), y=y("label_y"), text="name:N")
        layers.append(names.mark_text(**NAME_TEXT, stroke="white", strokeWidth=3))  # halo over the dashed lines
        bold = names.transform_filter("datum.front").mark_text(**NAME_TEXT, color="#000000", fontWeight="bold")
        layers += [bold, names.transform_filter("!datum.front").mark_text(**NAME_TEXT, color="#000000")]
    return alt.LayerChart(layer=layers, width=area[0], height=area[1])


def _front(cost: CostSpec) -> str:
    return f"front_{cost.column}"


def _axes(frame: pd.DataFrame, cost: CostSpec) -> tuple[LogAxis, LogAxis]:
    baselines = frame[frame["optimization"] == BASELINE]
    middle = baselines if len(baselines) else frame
    x, y = (style.log_axis(frame[name].dropna(), _first(middle[name])) for name in (cost.column, "fid_indomain"))
    return x, y


def _first(values: "pd.Series[float]") -> float:
    """Return the first positive value, or 1."""
    positive = values[values > 0]
    return float(positive.iloc[0]) if len(positive) else 1.0


def _tooltip() -> list[alt.Tooltip]:
    fid, *others = FACTS
    names = [alt.Tooltip("family:N"), alt.Tooltip("model:N"), style.recipe_tooltip(), alt.Tooltip("seeds:Q")]
    numbers = [
        alt.Tooltip(
            f"{fact.column}:Q", title=f"{fact.label} ({fact.unit})" if fact.unit else fact.label, format=fact.format
        )
        for fact in others
    ]
    return [*names, *style.interval_tooltip(fid.column, fid.label, fid.format), *numbers]
