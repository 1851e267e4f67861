"""What all figures share: look, scales, axes, legends, tooltips, and writing without a network."""

import itertools
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import altair as alt
import numpy as np
import pandas as pd

from slimdiff.io import files
from slimdiff.report.contents import CELLS, FIGURE_FORMATS

# Shapes that Vega does not name, as paths in a square from -1 to 1.
HEXAGON = "M0,-1L0.87,-0.5L0.87,0.5L0,1L-0.87,0.5L-0.87,-0.5Z"
STAR = "M0,-1L0.22,-0.31L0.95,-0.31L0.36,0.12L0.59,0.81L0,0.38L-0.59,0.81L-0.36,0.12L-0.95,-0.31L-0.22,-0.31Z"
PENTAGON = "M0,-1L0.95,-0.31L0.59,0.81L-0.59,0.81L-0.95,-0.31Z"
# Colour and shape of each kind of recipe. Colours are Okabe and Ito's and three of Tol's, safe for colour blindness.
KINDS = {
    "baseline": ("#000000", "circle"),
    "quantized": ("#0072B2", "square"),
    "pruned": ("#D55E00", "triangle-up"),
    "channel-pruned": ("#882255", HEXAGON),
    "block-pruned": ("#661100", PENTAGON),
    "grouped": ("#009E73", "diamond"),
    "EMA": ("#CC79A7", "cross"),
    "sampler": ("#997700", "triangle-down"),
    "engine": ("#332288", STAR),
    "several": ("#56B4E9", "triangle-right"),
    "other": ("#666666", "triangle-left"),
}
# Fill of a point by the family of its model: name, and opacity of the kind's colour over white.
FILLS = {"ncsn": ("filled", 1.0), "ddpm": ("hollow", 0.0)}
UNKNOWN_FILL = ("pale", 0.4)
# Colours and shapes for values without their own, in order; both repeat.
COLORS = (
    "#D55E00",
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#997700",
    "#882255",
    "#332288",
    "#000000",
    "#888888",
)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
GREY = "#666666"
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # vl-convert bundles the first: same figures on every machine
FONT_PX = 13
CHARACTER_PX = 6.6  # mean width of a character at FONT_PX
PNG_PPI = 144
MAX_PANELS = 6  # per figure
MAX_NAMES = 6  # listed in a subtitle
LINE_CHARACTERS = 108  # of a subtitle
MIN_SPAN = 1.25  # an axis reaches at least this ratio to both sides, so that noise does not fill a panel
# Leading digits of ticks, coarse to fine.
TICKS = ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), np.arange(2, 20) / 2, np.arange(10, 100) / 10)
FID_AXIS = "in-domain FID"
RATIO_AXIS = "in-domain FID / FID of the baseline"
FULL_TABLE = f"tables/{CELLS}.csv"  # holds everything that a figure leaves out
INTERVALS = "Bars: 95 % t-intervals over seeds, clipped to the axis; a single seed has none."
Panel = TypeVar("Panel", bound=alt.Chart | alt.LayerChart | alt.HConcatChart)


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis from `low` to `high`: equal distances are equal ratios."""

    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    def ticks(self) -> list[float]:
        """Return round values on the axis, from the set in TICKS that puts closest to six of them there."""
        decades = 10.0 ** np.arange(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        sets = [[float(f"{decade * digit:.3g}") for decade in decades for digit in digits] for digits in TICKS]
        inside = [[value for value in values if self.low <= value <= self.high] for values in sets]
        return min(inside, key=lambda values: abs(len(values) - 6))

    def x(self, field: str, title: str, numbers: bool = True) -> alt.X:
        """Return the horizontal channel of `field`. Layers that share the axis must share the title."""
        return alt.X(f"{field}:Q", title=title, scale=self._scale(), axis=self._axis(numbers))

    def y(self, field: str, title: str, numbers: bool = True) -> alt.Y:
        """Return the vertical channel of `field`."""
        return alt.Y(f"{field}:Q", title=title, scale=self._scale(), axis=self._axis(numbers))

    def pixel(self, value: float, length: float) -> float:
        """Return the position of `value` on an axis of `length` pixels."""
        return length * math.log(value / self.low) / math.log(self.high / self.low)

    def value(self, pixel: float, length: float) -> float:
        """Return the inverse of `pixel`."""
        return self.low * (self.high / self.low) ** (pixel / length)

    def _scale(self) -> alt.Scale:
        return alt.Scale(type="log", domain=[self.low, self.high], nice=False)

    def _axis(self, numbers: bool) -> alt.Axis:
        return alt.Axis(values=self.ticks(), format="~g", labels=numbers, ticks=numbers, grid=False)


def log_axis(values: Iterable[float], middle: float, margin: float = 0.06) -> LogAxis:
    """Return an axis with `middle` and the positive `values`; `margin` is a share of its length at both ends."""
    positive = [middle / MIN_SPAN, middle * MIN_SPAN, *(value for value in values if value > 0)]
    room = (max(positive) / min(positive)) ** margin
    return LogAxis(min(positive) / room, max(positive) * room)


def kind_color(kinds: Iterable[str]) -> alt.Color:
    """Return colour by the column `kind`; the legend lists `kinds`."""
    return alt.Color("kind:N", legend=_kind_legend(), scale=_kind_scale(kinds, 0))


def kind_fill(kinds: Iterable[str]) -> alt.Fill:
    """Return `kind_color` for the inside of points; its legend joins that of the colour."""
    return alt.Fill("kind:N", legend=_kind_legend(), scale=_kind_scale(kinds, 0))


def kind_shape(kinds: Iterable[str]) -> alt.Shape:
    """Return shape by the column `kind`; its legend joins that of the colour."""
    return alt.Shape("kind:N", legend=_kind_legend(), scale=_kind_scale(kinds, 1))


def family_fill(families: Iterable[str]) -> alt.FillOpacity:
    """Return opacity by the column `family`. Vega draws no legend for it, so `family_legend` describes it."""
    present = list(dict.fromkeys(families))
    return alt.FillOpacity("family:O", scale=_scale(present, [_fill(family)[1] for family in present]))


def family_legend(families: Iterable[str]) -> list[str]:
    """Return the line of a subtitle that describes `family_fill`; none for a single family."""
    present = list(dict.fromkeys(families))
    fills = [f"{_fill(family)[0]} for {family}" for family in present]
    return [f"Points show the family of the model: {', '.join(fills)}."] if len(present) > 1 else []


def color_by(field: str, frame: pd.DataFrame) -> alt.Color:
    """Return a colour per value of `field`. Pass the `frame` of all panels, so that they share a legend."""
    values = sorted(set(frame[field]), key=_natural)
    return alt.Color(f"{field}:N", scale=_repeating_scale(values, COLORS), legend=legend("top", 3))


def shape_by(field: str, frame: pd.DataFrame) -> alt.Shape:
    """Return a shape per value of `field`, as `color_by`."""
    values = sorted(set(frame[field]), key=_natural)
    return alt.Shape(f"{field}:N", scale=_repeating_scale(values, SHAPES), legend=legend("top", 3))


def legend(orient: Literal["top", "bottom"], columns: int, **options: Any) -> alt.Legend:
    """Return a legend without a title, above ("top") or below ("bottom") the panels."""
    look: dict[str, Any] = {"direction": "horizontal", "labelLimit": 400, "symbolOpacity": 1} | options
    return alt.Legend(title=None, orient=orient, columns=columns, **look)


def interval_tooltip(column: str, title: str, format: str, low: str = "low", high: str = "high") -> list[alt.Tooltip]:
    """Return the tooltips of `column` and of the ends of its interval, the columns `low` and `high`."""
    fields = ((column, title), (low, "95 % from"), (high, "to"))
    return [alt.Tooltip(f"{field}:Q", title=heading, format=format) for field, heading in fields]


def recipe_tooltip() -> alt.Tooltip:
    """Return the tooltip of the recipe."""
    return alt.Tooltip("optimization:N", title="recipe")


def clip_intervals(frame: pd.DataFrame, low: str, high: str, ends: tuple[float, float]) -> pd.DataFrame:
    """Return the rows with an interval, clipped to `ends` in the columns `start` and `end`."""
    intervals = frame.dropna(subset=[low])
    return intervals.assign(start=intervals[low].clip(*ends), end=intervals[high].clip(*ends))


def dashed(value: float) -> alt.Chart:
    """Return a dashed line at `value`, in a column of that name; encode it as x or as y."""
    return alt.Chart(pd.DataFrame({"value": [value]})).mark_rule(strokeDash=[5, 4], color=GREY)


def margin_band(margin: float) -> alt.Chart:
    """Return the grey band of ratios within `margin` of 1; encode `start` and `end`."""
    edges = pd.DataFrame({"start": [1 / margin], "end": [margin]})
    return alt.Chart(edges).mark_rect(color="#d9d9d9", opacity=0.55)


def panel_title(name: str | list[str], **options: Any) -> alt.TitleParams:
    """Return the title of a panel."""
    return alt.TitleParams(name, anchor="start", fontSize=FONT_PX + 1, **options)


def draw_panels(
    frame: pd.DataFrame, columns: Sequence[str], draw: Callable[[pd.DataFrame, str], Panel]
) -> tuple[list[Panel], list[str]]:
    """Draw a panel per value of `columns` in `frame`, at most MAX_PANELS; return the lines that name the others."""
    blocks = {", ".join(map(str, key)): block for key, block in frame.groupby(list(columns), sort=False)}
    panels = [draw(block, name) for name, block in itertools.islice(blocks.items(), MAX_PANELS)]
    return panels, omitted(list(blocks)[MAX_PANELS:])


def omitted(names: Sequence[str]) -> list[str]:
    """Return the lines of a subtitle that name the panels left out."""
    return enumerate_names(f"No room here, but in {FULL_TABLE}", names)


def vconcat(
    panels: Sequence[alt.Chart | alt.LayerChart | alt.HConcatChart], title: str, subtitle: Sequence[str]
) -> alt.VConcatChart:
    """Return the finished figure: `panels` in a column under a title and the lines of its legend."""
    head = alt.TitleParams(
        title,
        subtitle=list(subtitle),
        anchor="start",
        fontSize=FONT_PX + 5,
        subtitleFontSize=FONT_PX,
        subtitleColor=GREY,
        subtitleLineHeight=FONT_PX + 5,
        offset=14,
    )
    chart = alt.vconcat(*panels, spacing=34).properties(title=head, description=f"{title}. {' '.join(subtitle)}")
    return themed(chart, background="white", padding=14)


def themed(chart: Any, **options: Any) -> Any:
    """Return `chart` with the fonts, axes and legends of all figures; `options` are those of its configuration."""
    return (
        chart.configure(font=FONT, **options)
        .configure_axis(labelFontSize=FONT_PX, titleFontSize=FONT_PX, titleFontWeight="normal", gridColor="#e6e6e6")
        .configure_legend(labelFontSize=FONT_PX, titleFontSize=FONT_PX, symbolSize=110)
        .configure_view(stroke="#cccccc")
    )


def placeholder(text: str, width: float) -> alt.LayerChart:
    """Return a panel with `text` alone, for a figure without data."""
    layer = alt.Chart(pd.DataFrame({"text": [text]})).mark_text(fontSize=FONT_PX).encode(text="text:N")
    return alt.LayerChart(layer=[layer], width=width, height=60)


def wrap(text: str) -> list[str]:
    """Return `text` as lines of a subtitle."""
    return textwrap.wrap(text, LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)


def enumerate_names(lead: str, names: Sequence[str]) -> list[str]:
    """Return lines of a subtitle: `lead`, then the first of `names`; no line without names."""
    more = f"; and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return wrap(f"{lead}: {'; '.join(names[:MAX_NAMES])}{more}.") if names else []


def save_all(chart: alt.VConcatChart, folder: Path, name: str) -> None:
    """Write `chart` into `folder` in every format in FIGURE_FORMATS."""
    for suffix in FIGURE_FORMATS:
        save(chart, folder / f"{name}.{suffix}")


def save(chart: alt.VConcatChart, path: Path) -> None:
    """Write `chart` atomically in the format of the suffix. HTML includes its scripts."""
    suffix = path.suffix.removeprefix(".")
    with files.atomic(path) as temporary, alt.data_transformers.disable_max_rows():
        if suffix == "png":
            chart.save(str(temporary), format="png", ppi=PNG_PPI)
        elif suffix == "html":
            chart.save(str(temporary), format="html", inline=True, json_kwds={"cls": _ScriptJSON})
        else:
            chart.save(str(temporary), format="svg")


class _ScriptJSON(json.JSONEncoder):
    """JSON that is safe inside a script element: no string in it can end the element."""

    def encode(self, o: Any) -> str:
        """Escape `<`, which JSON has in strings alone."""
        return super().encode(o).replace("<", r"\u003c")


def _fill(family: str) -> tuple[str, float]:
    return FILLS.get(family, UNKNOWN_FILL)


def _kind_scale(kinds: Iterable[str], part: int) -> alt.Scale:
    """Return the scale of colours (`part` 0) or shapes (1) of `kinds`, in the order of KINDS."""
    given = set(kinds)
    present = [kind for kind in KINDS if kind in given]
    return _scale(present, [KINDS[kind][part] for kind in present])


def _kind_legend() -> alt.Legend:
    return legend("bottom", len(KINDS))


def _scale(domain: list[str], values: Sequence[str | float]) -> alt.Scale:
    return alt.Scale(type="ordinal", domain=domain, range=list(values))


def _repeating_scale(domain: list[str], values: Sequence[str]) -> alt.Scale:
    return _scale(domain, [values[place % len(values)] for place in range(len(domain))])


def _natural(name: str) -> tuple[float, str]:
    """Return the sorting key of `name`: leading numbers first and by size, then words."""
    first = name.partition(" ")[0]
    return (float(first), name) if first.replace(".", "", 1).isdigit() else (math.inf, name)
