"""The charts of the page as Vega-Lite specifications without data of their own where several share it.

Each chart comes in the widths of WIDTHS; the page draws the widest that fits. Colours are those of charts.py on white;
the page's script swaps them in the dark.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.config.cells import run_path
from slimdiff.io import files
from slimdiff.report import contents
from slimdiff.report.contents import CostSpec
from slimdiff.report.figures import style, timeline, write
from slimdiff.report.figures.style import FONT_PX, LogAxis

Spec = dict[str, Any]

WIDTHS = ((260, 330), (480, 400), (780, 460))  # of the panel, and its height, in pixels
POINTS = "points"  # name of the data that the specifications of one data set share
LEGEND_PX = 110  # width of an entry of a legend
MOST_NAMED = 40  # points with their names written beside them
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4])  # one fewer than colours: thirty pairs of both
CURVE_COLUMNS = ("dataset", "model", "training", "seed", "step", "loss")


def recipes(matrix: Matrix, findings: Findings) -> pd.DataFrame:
    """`plots.recipes` of those with a FID, with the columns that the charts draw.

    These are front_{cost} (whether no other recipe of the data set beats it in FID and that cost) and start and end,
    the ends of the interval as far as the chart reaches.
    """
    frame = write.recipes(matrix, findings)
    frame = frame[frame["fid_indomain"] > 0].reset_index(drop=True)
    for cost in contents.COSTS:
        frame[f"front_{cost.column}"] = False
    frame = frame.assign(start=frame["fid_indomain"], end=frame["fid_indomain"])
    for _, block in frame.groupby("dataset", sort=False):
        spread = style.clipped(block, "low", "high", _axes(block, contents.COSTS[0])[1].ends)
        frame.loc[spread.index, ["start", "end"]] = spread[["start", "end"]]
        for cost in contents.COSTS:
            known = block[block[cost.column] > 0]
            costs = list(zip(known[cost.column], known["fid_indomain"], strict=True))
            frame.loc[known.index, f"front_{cost.column}"] = statistics.pareto_front(costs)
    return frame


def pareto(frame: pd.DataFrame) -> list[Spec]:
    """{cost, label, width, spec} for each cost that was measured and each width; `frame` is of one data set."""
    found = []
    for cost in contents.COSTS:
        known = frame[frame[cost.column] > 0]
        for size in WIDTHS if len(known) else ():
            chart = _pareto(known, cost, size)
            found.append({"cost": cost.column, "label": cost.label, "width": size[0], "spec": finished(chart, size[0])})
    return found


def curves(matrix: pd.DataFrame, trainings: Path) -> tuple[pd.DataFrame, int]:
    """The loss curves of the first trainings of `matrix` (CURVE_COLUMNS), and how many more there are."""
    found = matrix[["dataset", "model", "training", "seed"]].drop_duplicates()
    rows = []
    for dataset, model, training, seed in found.head(contents.MAX_CURVES).itertuples(index=False):
        record = files.read_json(trainings / run_path(dataset, model, training, seed) / "train.json")
        for point in record.get("loss_curve", []):
            if point["loss"] is not None and point["loss"] > 0:
                rows.append((dataset, model, training, seed, point["step"], float(f"{point['loss']:.5g}")))
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS)), max(0, len(found) - contents.MAX_CURVES)


def losses(frame: pd.DataFrame) -> list[Spec]:
    """{width, spec} for each width: the curves in `frame`, all of one data set and model, a line for each training."""
    order = list(dict.fromkeys(frame["training"]))
    palette = [timeline.COLORS[place % len(timeline.COLORS)] for place in range(len(order))]
    dashes = [DASHES[place % len(DASHES)] for place in range(len(order))]
    legend = alt.Legend(title=None, orient="bottom", columns=2, symbolSize=400, symbolStrokeWidth=2.5, labelLimit=220)
    axis = style.log_axis(frame["loss"], float(frame["loss"].median()))
    chart = (
        alt.Chart(frame[["training", "seed", "step", "loss"]])
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=alt.X(
                "step:Q", title="training step", axis=alt.Axis(format="~s", tickCount=6), scale=alt.Scale(nice=False)
            ),
            y=axis.y("loss", "loss"),
            color=alt.Color("training:N", scale=alt.Scale(domain=order, range=palette), legend=legend),
            strokeDash=alt.StrokeDash("training:N", scale=alt.Scale(domain=order, range=dashes), legend=legend),
            detail="seed:N",
        )
    )
    return [
        {"width": width, "spec": finished(chart.properties(width=width, height=round(height * 0.6)), width)}
        for width, height in WIDTHS
    ]


def sittings(jobs: pd.DataFrame) -> list[list[Spec]]:
    """{width, spec} for each width, of each of the last sittings of the run."""
    last: Sequence[int] = sorted(jobs["sitting"].unique())[-style.MOST_PANELS :]
    return [
        [
            {"width": width, "spec": finished(timeline.panel(jobs, number).properties(width=width), width)}
            for width, _ in WIDTHS
        ]
        for number in last
    ]


def finished(chart: alt.Chart | alt.LayerChart, width: int) -> Spec:
    """The specification of `chart`, its panel `width` pixels wide, with the look that all of the page's charts have."""
    chart = (
        chart.configure(font=style.FONT, background="transparent", padding=2)
        .configure_axis(labelFontSize=FONT_PX, titleFontSize=FONT_PX, titleFontWeight="normal", gridColor="#e6e6e6")
        .configure_legend(labelFontSize=FONT_PX, titleFontSize=FONT_PX, symbolSize=110)
        .configure_view(stroke="#cccccc")
    )
    with alt.data_transformers.disable_max_rows():
        found: Spec = chart.to_dict()
    found.pop("$schema")
    _lay_legends(found, max(2, width // LEGEND_PX))
    return found


def _lay_legends(spec: Any, columns: int) -> None:
    """Give every legend within `spec` so many columns at most."""
    for value in spec if isinstance(spec, list) else spec.values():
        if isinstance(value, dict) and "columns" in value:
            value["columns"] = min(value["columns"], columns)
        elif isinstance(value, dict | list):
            _lay_legends(value, columns)


def _axes(frame: pd.DataFrame, cost: CostSpec) -> tuple[LogAxis, LogAxis]:
    base = frame[frame["optimization"] == "baseline"]
    middle = base if len(base) else frame
    x, y = (style.log_axis(frame[name].dropna(), _middle(middle[name])) for name in (cost.column, "fid_indomain"))
    return x, y


def _middle(values: "pd.Series[float]") -> float:
    sound = values[values > 0]
    return float(sound.iloc[0]) if len(sound) else 1.0


def _pareto(frame: pd.DataFrame, cost: CostSpec, size: tuple[int, int]) -> alt.LayerChart:
    axes = _axes(frame, cost)
    # Points of the specification's own are few: names that found a place. All others are shared between specifications.
    few = frame.sort_values(f"front_{cost.column}", ascending=False, kind="stable").head(MOST_NAMED)
    named = write.place_names(few.assign(front=few[f"front_{cost.column}"]), cost.column, axes, size)
    points = alt.Chart(alt.NamedData(name=POINTS)).transform_filter(f"datum['{cost.column}'] > 0")
    kinds, families = frame["kind"], frame["family"]

    def x(field: str) -> alt.X:
        return axes[0].x(field, cost.axis)

    def y(field: str) -> alt.Y:
        return axes[1].y(field, "in-domain FID")

    base = frame[frame["optimization"] == "baseline"]
    layers: list[Any] = [style.dashed(value).encode(x=x("value")) for value in base[cost.column]]
    layers += [style.dashed(value).encode(y=y("value")) for value in base["fid_indomain"]]
    front = points.transform_filter(f"datum['front_{cost.column}']")
    line = front.mark_line(interpolate="step-after", color="#333333", strokeWidth=1.5)
    layers.append(line.encode(x=x(cost.column), y=y("fid_indomain"), order=alt.Order(f"{cost.column}:Q")))
    bars = points.mark_rule(strokeWidth=2, opacity=0.5)
    layers.append(bars.encode(x=x(cost.column), y=y("start"), y2="end:Q", color=style.kind_color(kinds)))
    if len(named):
        leaders = alt.Chart(named[named["leader"]]).mark_rule(color="#999999", strokeWidth=0.8)
        layers.append(leaders.encode(x=x(cost.column), y=y("fid_indomain"), x2="near_x:Q", y2="near_y:Q"))
    marks = points.mark_point(size=120, opacity=1, strokeWidth=1.6)
    marks = marks.encode(
        x=x(cost.column), y=y("fid_indomain"), color=style.kind_color(kinds), shape=style.kind_shape(kinds)
    )
    layers.append(marks.encode(fill=alt.value("white")))
    inside = marks.encode(fill=style.kind_fill(kinds), fillOpacity=style.family_fill(families))
    layers.append(inside.properties(name="cells"))
    if len(named):
        texts = alt.Chart(named[["name", "front", "label_x", "label_y"]])
        names = texts.encode(x=x("label_x"), y=y("label_y"), text="name:N")
        layers.append(names.mark_text(**write.NAME, stroke="white", strokeWidth=3))
        layers.append(names.transform_filter("datum.front").mark_text(**write.NAME, color="#000000", fontWeight="bold"))
        layers.append(names.transform_filter("!datum.front").mark_text(**write.NAME, color="#000000"))
    return alt.LayerChart(layer=layers, width=size[0], height=size[1])
