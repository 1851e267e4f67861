"""What all figures share: their look, logarithmic axes, and writing them without a network."""

import json
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from slimdiff.io import files

# Shapes that Vega has no name for, as paths in a square from -1 to 1.
HEXAGON = "M0,-1L0.87,-0.5L0.87,0.5L0,1L-0.87,0.5L-0.87,-0.5Z"
STAR = "M0,-1L0.22,-0.31L0.95,-0.31L0.36,0.12L0.59,0.81L0,0.38L-0.59,0.81L-0.36,0.12L-0.95,-0.31L-0.22,-0.31Z"
# Kinds of recipe, each with a colour (Okabe and Ito's, and two of Tol's: told apart without colour vision) and a shape.
KINDS = {
    "baseline": ("#000000", "circle"),
    "quantized": ("#0072B2", "square"),
    "pruned": ("#D55E00", "triangle-up"),
    "channel-pruned": ("#882255", HEXAGON),
    "grouped": ("#009E73", "diamond"),
    "EMA": ("#CC79A7", "cross"),
    "sampler": ("#997700", "triangle-down"),
    "engine": ("#332288", STAR),
    "several": ("#56B4E9", "triangle-right"),
    "other": ("#666666", "triangle-left"),
}
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first is inside vl-convert, so every machine draws alike
FONT_PX = 13
CHARACTER_PX = 6.6  # mean width of a character of that size
# Families of models, by what their points are filled with: the colour of the kind, or a share of it over white.
FILLS = {"ncsn": ("filled", 1.0), "ddpm": ("hollow", 0.0)}
UNKNOWN_FILL = ("pale", 0.4)
GREY = "#666666"
# Of what has none of its own, in their order (Okabe and Ito's, and two of Tol's); further ones begin again.
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
PNG_PPI = 144
MOST_PANELS = 6  # in a figure, below each other
MOST_NAMES = 6  # in a list of the subtitle
LINE_CHARACTERS = 108  # of the subtitle
LEAST_SPAN = 1.25  # an axis reaches at least this ratio to either side, so that noise does not fill a panel
# Leading digits of ticks, coarse to fine.
TICKS = ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), np.arange(2, 20) / 2, np.arange(10, 100) / 10)


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis: its ends and the values it names. Equal distances are equal ratios."""

    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends."""
        return self.low, self.high

    def ticks(self) -> list[float]:
        """Round values on the axis: of the sets in TICKS the one that puts nearest to six there."""
        decades = 10.0 ** np.arange(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        sets = [[float(f"{decade * digit:.3g}") for decade in decades for digit in digits] for digits in TICKS]
        inside = [[value for value in values if self.low <= value <= self.high] for values in sets]
        return min(inside, key=lambda values: abs(len(values) - 6))

    def x(self, field: str, title: str, numbers: bool = True) -> alt.X:
        """The horizontal channel that draws `field`. Layers that share the axis must share the title."""
        return alt.X(f"{field}:Q", title=title, scale=self._scale(), axis=self._axis(numbers))

    def y(self, field: str, title: str, numbers: bool = True) -> alt.Y:
        """The vertical channel that draws `field`."""
        return alt.Y(f"{field}:Q", title=title, scale=self._scale(), axis=self._axis(numbers))

    def pixel(self, value: float, length: float) -> float:
        """Where `value` lies on the axis when that is `length` pixels long."""
        return length * math.log(value / self.low) / math.log(self.high / self.low)

    def value(self, pixel: float, length: float) -> float:
        """The inverse of `pixel`."""
        return self.low * (self.high / self.low) ** (pixel / length)

    def _scale(self) -> alt.Scale:
        return alt.Scale(type="log", domain=[self.low, self.high], nice=False)

    def _axis(self, numbers: bool) -> alt.Axis:
        return alt.Axis(values=self.ticks(), format="~g", labels=numbers, ticks=numbers, grid=False)


def log_axis(values: Iterable[float], middle: float, margin: float = 0.06) -> LogAxis:
    """An axis that holds the positive `values` and `middle`, with a margin (share of its length) at both ends."""
    sound = [middle / LEAST_SPAN, middle * LEAST_SPAN, *(value for value in values if value > 0)]
    room = (max(sound) / min(sound)) ** margin
    return LogAxis(min(sound) / room, max(sound) * room)


def kind_color(kinds: Iterable[str]) -> alt.Color:
    """Colour by the column `kind`; the legend lists those of `kinds`."""
    present = _present(kinds)
    return alt.Color("kind:N", legend=_legend(), scale=_scale(present, [KINDS[kind][0] for kind in present]))


def kind_fill(kinds: Iterable[str]) -> alt.Fill:
    """The colour of `kind_color` for the inside of a point; its legend joins that of the colour."""
    present = _present(kinds)
    return alt.Fill("kind:N", legend=_legend(), scale=_scale(present, [KINDS[kind][0] for kind in present]))


def kind_shape(kinds: Iterable[str]) -> alt.Shape:
    """Shape by the column `kind`; its legend joins that of the colour."""
    present = _present(kinds)
    return alt.Shape("kind:N", legend=_legend(), scale=_scale(present, [KINDS[kind][1] for kind in present]))


def family_fill(families: Iterable[str]) -> alt.FillOpacity:
    """Filled or hollow by the column `family`; Vega draws no legend of it, so `families_told` says what it means."""
    present = _unique(families)
    return alt.FillOpacity("family:O", scale=_scale(present, [_fill(family)[1] for family in present]))


def families_told(families: Iterable[str]) -> list[str]:
    """A line of the subtitle on what `family_fill` shows; no line where all points are of one family."""
    present = _unique(families)
    legend = [f"{_fill(family)[0]} is {family}" for family in present]
    return [f"Points tell the family of the model: {', '.join(legend)}."] if len(present) > 1 else []


def color_of(field: str, whole: pd.DataFrame) -> alt.Color:
    """A colour for each value of `field`; `whole` holds those of all panels, which so share a legend."""
    known = _ordered(whole[field])
    return alt.Color(f"{field}:N", scale=_again(known, COLORS), legend=_legend_above())


def shape_of(field: str, whole: pd.DataFrame) -> alt.Shape:
    """A shape for each value of `field`, as `color_of`."""
    known = _ordered(whole[field])
    return alt.Shape(f"{field}:N", scale=_again(known, SHAPES), legend=_legend_above())


def clipped(frame: pd.DataFrame, low: str, high: str, ends: tuple[float, float]) -> pd.DataFrame:
    """The rows with an interval, kept within `ends` of the axis in the columns `start` and `end`."""
    spread = frame.dropna(subset=[low])
    return spread.assign(start=spread[low].clip(*ends), end=spread[high].clip(*ends))


def dashed(value: float) -> alt.Chart:
    """A dashed line at `value`, a column of that name; encode it as x or as y."""
    return alt.Chart(pd.DataFrame({"value": [value]})).mark_rule(strokeDash=[5, 4], color=GREY)


def stack(
    panels: Sequence[alt.Chart | alt.LayerChart | alt.HConcatChart], title: str, subtitle: Sequence[str]
) -> alt.VConcatChart:
    """The finished figure: `panels` below each other under a title and lines that say how to read it."""
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
    return (
        alt.vconcat(*panels, spacing=34)
        .properties(title=head, background="white", padding=14, description=f"{title}. {' '.join(subtitle)}")
        .configure(font=FONT)
        .configure_axis(labelFontSize=FONT_PX, titleFontSize=FONT_PX, titleFontWeight="normal", gridColor="#e6e6e6")
        .configure_legend(labelFontSize=FONT_PX, titleFontSize=FONT_PX, symbolSize=110)
        .configure_view(stroke="#cccccc")
    )


def sentence(text: str, width: float) -> alt.LayerChart:
    """A panel that only says `text`, for where there is nothing to draw."""
    layer = alt.Chart(pd.DataFrame({"text": [text]})).mark_text(fontSize=FONT_PX).encode(text="text:N")
    return alt.LayerChart(layer=[layer], width=width, height=60)


def lines(text: str) -> list[str]:
    """`text` as lines of the subtitle."""
    return textwrap.wrap(text, LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)


def listed(lead: str, names: Sequence[str]) -> list[str]:
    """Lines of the subtitle that name the first of `names` after `lead`; none where there are no names."""
    more = f"; and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return lines(f"{lead}: {'; '.join(names[:MOST_NAMES])}{more}.") if names else []


def save(chart: alt.VConcatChart, path: Path) -> None:
    """Write `chart` atomically in the format of the suffix; HTML carries its scripts within."""
    suffix = path.suffix.removeprefix(".")
    with files.atomic(path) as temporary, alt.data_transformers.disable_max_rows():
        if suffix == "png":
            chart.save(str(temporary), format="png", ppi=PNG_PPI)
        elif suffix == "html":
            chart.save(str(temporary), format="html", inline=True, json_kwds={"cls": _InScript})
        else:
            chart.save(str(temporary), format="svg")


class _InScript(json.JSONEncoder):
    """JSON that may stand within a script element: no text in it can end the element."""

    def encode(self, o: Any) -> str:
        """JSON without `<`, which stands in its strings alone."""
        return super().encode(o).replace("<", r"\u003c")


def _present(kinds: Iterable[str]) -> list[str]:
    """The kinds that are there, in the order of KINDS."""
    there = set(kinds)
    return [kind for kind in KINDS if kind in there]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _fill(family: str) -> tuple[str, float]:
    return FILLS.get(family, UNKNOWN_FILL)


def _scale(domain: list[str], values: Sequence[str | float]) -> alt.Scale:
    return alt.Scale(type="ordinal", domain=domain, range=list(values))


def _again(domain: list[str], values: Sequence[str]) -> alt.Scale:
    return _scale(domain, [values[place % len(values)] for place in range(len(domain))])


def _ordered(names: Iterable[str]) -> list[str]:
    """Each once: numbers first and by their size, then words."""
    return sorted(set(names), key=_natural)


def _natural(name: str) -> tuple[float, str]:
    first = name.partition(" ")[0]
    return (float(first), name) if first.replace(".", "", 1).isdigit() else (math.inf, name)


def _legend_above() -> alt.Legend:
    return alt.Legend(title=None, orient="top", direction="horizontal", columns=3, labelLimit=400, symbolOpacity=1)


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", direction="horizontal", columns=len(KINDS), symbolOpacity=1)
