"""Charts of the page, as Vega-Lite specifications.

Each chart comes in several WIDTHS; the page draws the widest that fits. Colours are for a white background; the script
of the page swaps them in dark mode.
"""

from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.config.cells import run_path
from slimdiff.io import files
from slimdiff.report.contents import COSTS, MAX_CURVES
from slimdiff.report.figures import pareto, style, timeline

Spec = dict[str, Any]

WIDTHS = ((260, 330), (480, 400), (780, 460))  # panels: width, height in pixels
POINTS = alt.NamedData(name="points")  # the page inserts these rows once for all charts of a data set
LEGEND_PX = 110  # width of an entry of a legend
MAX_NAMED = 40  # points with a name
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4])  # coprime with the six colours: thirty pairs
CURVE_COLUMNS = ("dataset", "model", "training", "seed", "step", "loss")


def pareto_charts(points: pd.DataFrame) -> list[Spec]:
    """Return {cost, label, width, spec} per measured cost and width; `points` are `pareto.points` of one data set."""
    charts = []
    for cost in COSTS:
        measured = points[points[cost.column] > 0]
        for width, height in WIDTHS if len(measured) else ():
            chart = pareto.chart(measured, cost, (width, height), MAX_NAMED, POINTS)
            charts.append({"cost": cost.column, "label": cost.label, "width": width, "spec": to_spec(chart, width)})
    return charts


def read_curves(matrix: pd.DataFrame, trainings: Path) -> tuple[pd.DataFrame, int]:
    """Return the loss curves (CURVE_COLUMNS) of the first trainings of `matrix`, and the number of the others."""
    runs = matrix[["dataset", "model", "training", "seed"]].drop_duplicates()
    rows = []
    for run in runs.head(MAX_CURVES).itertuples(index=False, name=None):
        record = files.read_json(trainings / run_path(*run) / "train.json")
        for point in record.get("loss_curve", []):
            if point["loss"] is not None and point["loss"] > 0:
                rows.append((*run, point["step"], float(f"{point['loss']:.5g}")))
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS)), max(0, len(runs) - MAX_CURVES)


def loss_charts(curves: pd.DataFrame) -> list[Spec]:
    """Return {width, spec} per width: the loss curves of one data set and model, a colour and dash per training."""
    order = list(dict.fromkeys(curves["training"]))
    palette = [timeline.COLORS[place % len(timeline.COLORS)] for place in range(len(order))]
    dashes = [DASHES[place % len(DASHES)] for place in range(len(order))]
    legend = style.legend("bottom", 2, symbolSize=400, symbolStrokeWidth=2.5, labelLimit=220)
    steps = alt.Axis(format="~s", tickCount=6)
    chart = (
        alt.Chart(curves[["training", "seed", "step", "loss"]])
        .mark_line(strokeWidth=2, clip=True)
        .encode(
            x=alt.X("step:Q", title="training step", axis=steps, scale=alt.Scale(nice=False)),
            y=style.log_axis(curves["loss"], float(curves["loss"].median())).y("loss", "loss"),
            color=alt.Color("training:N", scale=alt.Scale(domain=order, range=palette), legend=legend),
            strokeDash=alt.StrokeDash("training:N", scale=alt.Scale(domain=order, range=dashes), legend=legend),
            detail="seed:N",
        )
    )
    return [
        {"width": width, "spec": to_spec(chart.properties(width=width, height=round(height * 0.6)), width)}
        for width, height in WIDTHS
    ]


def timeline_charts(jobs: pd.DataFrame) -> list[list[Spec]]:
    """Return {width, spec} per width for each of the last sessions."""
    return [
        [
            {"width": width, "spec": to_spec(timeline.panel(jobs, session).properties(width=width), width)}
            for width, _ in WIDTHS
        ]
        for session in timeline.last_sessions(jobs)
    ]


def to_spec(chart: alt.Chart | alt.LayerChart, width: int) -> Spec:
    """Return the themed specification of `chart`, whose panel is `width` pixels wide."""
    with alt.data_transformers.disable_max_rows():
        spec: Spec = style.themed(chart, background="transparent", padding=2).to_dict()
    spec.pop("$schema")
    _limit_legends(spec, max(2, width // LEGEND_PX))
    return spec


def _limit_legends(spec: Any, max_columns: int) -> None:
    """Limit the columns of every legend within `spec`, in place."""
    for value in spec if isinstance(spec, list) else spec.values():
        if isinstance(value, dict) and "columns" in value:
            value["columns"] = min(value["columns"], max_columns)
        elif isinstance(value, dict | list):
            _limit_legends(value, max_columns)
