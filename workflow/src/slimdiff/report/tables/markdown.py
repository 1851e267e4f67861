"""Numbers and tables in Markdown."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from slimdiff.analysis.decisions import DISTURBED
from slimdiff.analysis.measures import LATENCY, TIME

NOTHING = "–"  # a missing number
UNWATCHED = (
    "Whether other processes disturbed the profiles of {n} of {total} {what} was not measured: their times are shown "
    "and decide nothing."
)
TAG = re.compile("<(?=[A-Za-z/!?])")  # the start of HTML


def missing(value: object) -> bool:
    """Whether `value` is null: None, NaN or pandas.NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def text(value: object, decimals: int) -> str:
    """Return `value` as text: a float with `decimals`, a dash for null."""
    if missing(value):
        return NOTHING
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def without_value(row: Mapping[Any, Any], column: str) -> str:
    """Return the text for a missing value in a line of `paper.compare`: DISTURBED for a time that does not count."""
    return DISTURBED if column in (LATENCY.column, TIME.column) and row["disturbed"] else NOTHING


def unwatched(rows: "pd.Series[bool]", timed: "pd.Series[bool]", what: str) -> list[str]:
    """Return UNWATCHED with the numbers of `rows` and of all that are `timed`; empty without any."""
    return [UNWATCHED.format(n=rows.sum(), total=timed.sum(), what=what)] if rows.any() else []


def interval(mean: object, low: object, high: object, decimals: int) -> str:
    """Return `mean` with its interval in brackets, if that is wider than a point."""
    centre = text(mean, decimals)
    if missing(low) or missing(high) or low == high:
        return centre
    return f"{centre} [{text(low, decimals)}, {text(high, decimals)}]"


def p_value(value: float) -> str:
    """Return a p-value with two digits, or "< 0.001"."""
    if missing(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def plain(words: str) -> str:
    """Return user text on one line without HTML tags, for renderers that let HTML through."""
    return TAG.sub("&lt;", " ".join(words.split()))


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; bars, line breaks and tags in cells are escaped."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(plain(cell.replace("|", "\\|")) for cell in row) + " |" for row in rows)
