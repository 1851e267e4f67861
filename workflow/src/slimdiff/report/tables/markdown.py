"""Numbers and tables as Markdown pages show them."""

import math
import re
from collections.abc import Sequence

import pandas as pd

NOTHING = "–"  # where there is no number
TAG = re.compile("<(?=[A-Za-z/!?])")  # where HTML begins


def missing(value: object) -> bool:
    """Whether `value` is null, however a frame or JSON says so."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def text(value: object, decimals: int) -> str:
    """`value` as people read it: a float with `decimals`, anything else as it is, and a dash for null."""
    if missing(value):
        return NOTHING
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def interval(mean: object, low: object, high: object, decimals: int) -> str:
    """`mean` with its interval in brackets, if it has one that is wider than a point."""
    shown = text(mean, decimals)
    if missing(low) or missing(high) or low == high:
        return shown
    return f"{shown} [{text(low, decimals)}, {text(high, decimals)}]"


def p_value(value: float) -> str:
    """A p-value with two digits, or as below 0.001."""
    if missing(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def plain(words: str) -> str:
    """`words` of others on one line, in which no browser finds a tag: whoever shows the page may let HTML through."""
    return TAG.sub("&lt;", " ".join(words.split()))


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars, line breaks and tags inside cells are made harmless."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(plain(cell.replace("|", "\\|")) for cell in row) + " |" for row in rows)
