"""The figures that the specs declare: FID of each technique, size against FID; modules beside draw others."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.analysis import paper as comparison
from slimdiff.analysis import statistics
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import FID, FID_PCT
from slimdiff.analysis.paper import NOT_RUN, percent_text
from slimdiff.report import contents
from slimdiff.report.contents import FigureSpec
from slimdiff.report.figures import ablations, guidance, labels, style, versus_paper
from slimdiff.report.figures.style import CHARACTER_PX, FONT_PX, LogAxis

LINE_PX = 24  # height of one technique
HALF_PX = 300  # width of one half of the figure of techniques
NUMBER_PX = 116  # width of the numbers written beside a half
PARETO_PX = (680, 460)
MOST_NAMED = 100  # points with room for a name at best
OURS, THEIRS = "FID, ours", "FID, the report"
PAIR = ["dataset", "model"]
ELSEWHERE = "tables/cells.csv"  # where everything is that has no room
NAME: Any = {"align": "left", "baseline": "middle", "fontSize": FONT_PX - 1}
PARETO_TOOLTIP = [
    alt.Tooltip("family:N"),
    alt.Tooltip("model:N"),
    alt.Tooltip("optimization:N", title="recipe"),
    alt.Tooltip("seeds:Q"),
    alt.Tooltip("fid_indomain:Q", title="FID", format=".2f"),
    alt.Tooltip("low:Q", title="95 % from", format=".2f"),
    alt.Tooltip("high:Q", title="to", format=".2f"),
    alt.Tooltip("fid_indomain_pct:Q", title="rFID (%)", format=".2f"),
    alt.Tooltip("size_mb:Q", title="gzip size (MB)", format=".3f"),
    alt.Tooltip("params_nonzero:Q", title="non-zero parameters", format=","),
    alt.Tooltip("inference_ms_per_image:Q", title="ms per image", format=".2f"),
]


def write_figures(matrix: Matrix, findings: Findings, paper: pd.DataFrame, folder: Path) -> None:
    """Write every figure of the specs into `folder`, in every format."""
    for spec in contents.FIGURES:
        chart = draw(matrix, findings, paper, spec)
        for suffix in contents.FIGURE_FORMATS:
            style.save(chart, folder / f"{spec.name}.{suffix}")


def draw(matrix: Matrix, findings: Findings, paper: pd.DataFrame, spec: FigureSpec) -> alt.VConcatChart:
    """The figure that `spec` declares."""
    if spec.kind == "techniques":
        return techniques(matrix, findings, paper, spec)
    if spec.kind == "sensitivity":
        return ablations.sensitivity(findings, spec.title)
    if spec.kind == "sparsity":
        return ablations.sparsity(findings, spec.title)
    if spec.kind == "guidance":
        return guidance.guidance(findings, spec.title)
    if spec.kind == "versus-paper":
        return versus_paper.chart(matrix, findings, paper, spec.title)
    return pareto(matrix, findings, spec)


def techniques(matrix: Matrix, findings: Findings, paper: pd.DataFrame, spec: FigureSpec) -> alt.VConcatChart:
    """FID of each technique, ours and the report's side by side, one panel per data set and model."""
    tables = [table for table in contents.TABLES if table.name in spec.tables]
    everything = comparison.techniques(matrix, findings, paper, tables, (FID, FID_PCT))
    frame = comparison.drop_crowd(everything)
    subtitle = [
        "Each half has its own scale: our FID is in-domain, the report's is an Inception FID on MNIST.",
        "Both are logarithmic and span the same ratio, so equal distances from the dashed baseline are equal",
        "relative changes. Left is better. Bars: 95 % t-interval over seeds, cut at the edge; one seed has none.",
    ]
    if len(frame) < len(everything):
        subtitle += style.lines(
            f"Of the recipes in no table of the report each panel has the {comparison.MAX_OTHERS} with the lowest "
            f"FID; {len(everything) - len(frame)} others are left out, and are in {ELSEWHERE}."
        )
    blocks = {f"{dataset}, {model}": block for (dataset, model), block in frame.groupby(PAIR, sort=False)}
    panels = []
    for name, block in itertools.islice(blocks.items(), style.MOST_PANELS):
        title = alt.TitleParams(name, anchor="start", fontSize=FONT_PX + 1)
        panels.append(_halves(block, tables[0].baseline).properties(title=title))
    return style.stack(panels, spec.title, subtitle + _left_out(list(blocks)))


def _halves(frame: pd.DataFrame, reference: str) -> alt.HConcatChart:
    """Our half and the report's for one data set and model; `frame` has one line per technique."""
    sides = ("fid_indomain", "paper_fid")
    bases = {side: _single(frame.loc[frame["optimization"] == reference, side]) for side in sides}
    # A side without a baseline is centred on the geometric mean of what it has.
    middles = {side: bases[side] or _geometric_mean(frame[side]) for side in sides}
    ratios = style.log_axis([value / middles[side] for side in sides for value in frame[side].dropna()], 1.0)
    halves = []
    for side, heading in zip(sides, (OURS, THEIRS), strict=True):
        axis = LogAxis(ratios.low * middles[side], ratios.high * middles[side])
        texts = [_beside(row, side, reference) for row in frame.to_dict("records")]
        halves.append(_half(frame.assign(value=frame[side], text=texts), axis, bases[side], heading))
    return alt.hconcat(*halves, spacing=24)


def _half(frame: pd.DataFrame, axis: LogAxis, base: float | None, heading: str) -> alt.LayerChart:
    """Points in the column `value`, with the column `text` to the right of the panel."""
    ours = heading == OURS
    drawn = frame.dropna(subset=["value"])
    order = frame["optimization"].tolist()
    names = alt.Axis(title=None, labels=ours, ticks=False, grid=True, domain=False, labelLimit=300)
    y = alt.Y("optimization:N", scale=alt.Scale(domain=order), axis=names)
    color = style.kind_color(frame["kind"])
    numbers = not drawn.empty

    def x(field: str) -> alt.X:
        return axis.x(field, heading, numbers)

    layers = [] if base is None else [style.dashed(base).encode(x=x("value"))]
    if ours:
        intervals = style.clipped(drawn, "fid_indomain_low", "fid_indomain_high", axis.ends)
        bars = alt.Chart(intervals).mark_rule(strokeWidth=2.5, opacity=0.6)
        layers.append(bars.encode(x=x("start"), x2="end:Q", y=y, color=color))
    points = alt.Chart(drawn).mark_point(filled=ours, size=110, opacity=1, strokeWidth=2)
    shape = style.kind_shape(frame["kind"])
    layers.append(points.encode(x=x("value"), y=y, color=color, shape=shape, tooltip=_tooltip(heading)))
    texts = alt.Chart(frame).mark_text(align="left", fontSize=FONT_PX - 1, limit=NUMBER_PX)
    layers.append(texts.encode(x=alt.value(HALF_PX + 8), y=y, text="text:N"))
    return alt.LayerChart(layer=layers, width=HALF_PX, height=LINE_PX * len(order))


def _tooltip(heading: str) -> list[alt.Tooltip]:
    shared = [alt.Tooltip("optimization:N", title="recipe"), alt.Tooltip("value:Q", title=heading, format=".2f")]
    if heading != OURS:
        return [*shared, alt.Tooltip("label:N", title="in the report"), alt.Tooltip("note:N")]
    return [
        *shared,
        alt.Tooltip("fid_indomain_low:Q", title="95 % from", format=".2f"),
        alt.Tooltip("fid_indomain_high:Q", title="to", format=".2f"),
        alt.Tooltip("fid_indomain_pct:Q", title="rFID (%)", format=".2f"),
        alt.Tooltip("seeds:Q"),
        alt.Tooltip("status:N"),
    ]


def _beside(row: Mapping[Any, Any], side: str, reference: str) -> str:
    """What is written beside a line: its value and change, or why there is none."""
    if math.isnan(row[side]):
        if side == "paper_fid":
            return ""
        return NOT_RUN if row["status"] == NOT_RUN else str(row["status"]).partition(":")[0]
    change = row[f"{side}_change_percent"]
    known = not math.isnan(change) and row["optimization"] != reference
    return f"{row[side]:.1f}" + (f"  ({percent_text(change)})" if known else "")


def pareto(matrix: Matrix, findings: Findings, spec: FigureSpec) -> alt.VConcatChart:
    """Compressed size against FID, one panel per data set, one point per recipe, the front joined by a line."""
    frame = recipes(matrix, findings)
    drawn = frame[(frame["fid_indomain"] > 0) & (frame["size_mb"] > 0)]
    subtitle = [
        "Lower and further left is better; both axes are logarithmic. The line joins the recipes that no other",
        "beats in both. Dashed: the baseline. Bars: 95 % t-interval over seeds, cut at the edge; one seed has none.",
    ]
    subtitle += style.families_told(drawn["family"])
    missing = frame.loc[~frame.index.isin(drawn.index), "name"].unique()
    subtitle += style.listed("Without a number, hence not drawn", list(missing))
    blocks = {str(dataset): block for dataset, block in drawn.groupby("dataset", sort=False)}
    panels = [_pareto_panel(block, name) for name, block in itertools.islice(blocks.items(), style.MOST_PANELS)]
    empty = style.sentence("No cell has both a size and a FID yet.", PARETO_PX[0])
    return style.stack(panels or [empty], spec.title, subtitle + _left_out(list(blocks)))


def _left_out(panels: Sequence[str]) -> list[str]:
    """A line of the subtitle on those of `panels` for which there is no room."""
    return style.listed(f"No room here, but in {ELSEWHERE}", panels[style.MOST_PANELS :])


def recipes(matrix: Matrix, findings: Findings) -> pd.DataFrame:
    """One row per recipe: size in MB, FID with its interval, kind, family, and a name unique in the data set.

    `gmacs` are the billions of multiply-accumulates that one image takes: those of one evaluation × evaluations.
    """
    families = comparison.families(matrix)
    columns = (
        "fid_indomain",
        "size_gzip_bytes",
        "fid_indomain_pct",
        "inference_ms_per_image",
        "params_nonzero",
        "gmacs",
    )
    rows = []
    for recipe in findings.outcomes:
        fid = findings.summary("fid_indomain", recipe)
        row = dict(zip(("dataset", "model", "optimization"), recipe, strict=True))
        means = {column: findings.summary(column, recipe).mean for column in columns}
        kind = comparison.kind(recipe[2], matrix.config)
        row["family"] = families[recipe[1]]
        rows.append({**row, **means, "kind": kind, "seeds": fid.n, "low": fid.low, "high": fid.high})
    frame = pd.DataFrame(rows)
    frame["size_mb"] = frame["size_gzip_bytes"] / 1e6
    several = frame.groupby("dataset")["model"].transform("nunique") > 1
    frame["name"] = frame["optimization"].where(~several, frame["model"] + ": " + frame["optimization"])
    return frame


def _pareto_panel(frame: pd.DataFrame, dataset: str) -> alt.LayerChart:
    base = frame[frame["optimization"] == "baseline"]
    middle = base if len(base) else frame
    axes = [style.log_axis(frame[name], float(middle[name].iloc[0])) for name in ("size_mb", "fid_indomain")]
    frame = frame.assign(front=statistics.pareto_front(list(zip(frame["size_mb"], frame["fid_indomain"], strict=True))))
    few = frame.sort_values("front", ascending=False, kind="stable").head(MOST_NAMED)  # placing is quadratic
    named = place_names(few, "size_mb", (axes[0], axes[1]), PARETO_PX)
    color = style.kind_color(frame["kind"])

    def x(field: str) -> alt.X:
        return axes[0].x(field, "compressed checkpoint (MB, gzip)")

    def y(field: str) -> alt.Y:
        return axes[1].y(field, "in-domain FID")

    layers = [style.dashed(value).encode(x=x("value")) for value in base["size_mb"]]
    layers += [style.dashed(value).encode(y=y("value")) for value in base["fid_indomain"]]
    front = alt.Chart(frame[frame["front"]]).mark_line(interpolate="step-after", color="#333333", strokeWidth=1.5)
    layers.append(front.encode(x=x("size_mb"), y=y("fid_indomain"), order="size_mb:Q"))
    bars = alt.Chart(style.clipped(frame, "low", "high", axes[1].ends)).mark_rule(strokeWidth=2, opacity=0.5)
    layers.append(bars.encode(x=x("size_mb"), y=y("start"), y2="end:Q", color=color))
    leaders = alt.Chart(named[named["leader"]]).mark_rule(color="#999999", strokeWidth=0.8)
    layers.append(leaders.encode(x=x("size_mb"), y=y("fid_indomain"), x2="near_x:Q", y2="near_y:Q"))
    points = alt.Chart(frame).mark_point(size=110, opacity=1, strokeWidth=1.6)
    points = points.encode(x=x("size_mb"), y=y("fid_indomain"), color=color, shape=style.kind_shape(frame["kind"]))
    layers.append(points.encode(fill=alt.value("white")))  # so that no line shows through a hollow one
    inside = style.kind_fill(frame["kind"])
    layers.append(points.encode(fill=inside, fillOpacity=style.family_fill(frame["family"]), tooltip=PARETO_TOOLTIP))
    names = alt.Chart(named).encode(x=x("label_x"), y=y("label_y"), text="name:N")
    layers.append(names.mark_text(**NAME, stroke="white", strokeWidth=3))  # a halo, for the dashed lines
    layers.append(names.transform_filter("datum.front").mark_text(**NAME, fontWeight="bold"))
    layers.append(names.transform_filter("!datum.front").mark_text(**NAME))
    width, height = PARETO_PX
    title = alt.TitleParams(dataset, anchor="start", fontSize=FONT_PX + 1)
    return alt.LayerChart(layer=layers, width=width, height=height, title=title)


def place_names(frame: pd.DataFrame, column: str, axes: tuple[LogAxis, LogAxis], area: tuple[int, int]) -> pd.DataFrame:
    """The rows whose name finds a place: label_x, label_y and near_x, near_y, the end of a leader, in data units.

    `leader` says whether it is needed. Those of the front (column `front`) choose first.

    Args:
        column: what the horizontal axis shows; the vertical one shows `fid`.
        area: width and height of the panel in pixels.
    """
    x_axis, y_axis = axes
    width, height = area
    frame = frame.sort_values(["front", column], ascending=[False, True])
    points = [
        (x_axis.pixel(x, width), height - y_axis.pixel(y, height))
        for x, y in zip(frame[column], frame["fid_indomain"], strict=True)
    ]
    lines: list[labels.Box] = []
    for (x, y), baseline in zip(points, frame["optimization"] == "baseline", strict=True):
        if baseline:
            lines += [(0, y, width, y), (x, 0, x, height)]
    front = points[: int(frame["front"].sum())]
    for (x, y), (next_x, next_y) in itertools.pairwise(front):
        lines += [(x, y, next_x, y), (next_x, y, next_x, next_y)]
    widths = [CHARACTER_PX * len(name) for name in frame["name"]]
    places = labels.place(points, widths, FONT_PX, area, lines)
    rows = []
    for (_, row), place in zip(frame.iterrows(), places, strict=True):
        if place is not None:
            level = y_axis.value(height - place.middle, height)
            rows.append(
                {
                    **row[[column, "fid_indomain", "name", "front"]],
                    "label_x": x_axis.value(place.left, width),
                    "label_y": level,
                    "near_x": x_axis.value(place.near, width),
                    "near_y": level,
                    "leader": place.leader,
                }
            )
    return pd.DataFrame(rows)


def _single(values: "pd.Series[float]") -> float | None:
    """The first value, or None where it is missing."""
    return None if values.isna().all() else float(values.iloc[0])


def _geometric_mean(values: "pd.Series[float]") -> float:
    """Geometric mean of the values above 0; 1 where there are none."""
    sound = [math.log(value) for value in values if value > 0]
    return math.exp(sum(sound) / len(sound)) if sound else 1.0
