"""The language of claims: comparisons of a column between cells, or with a number.

    comparison: term < side | term > side | term = side within NUMBER % | failed(cell)
    term:       COLUMN(cell) | spread(COLUMN(cell))
    side:       term | NUMBER * term | NUMBER
    cell:       [DATASET:] [FAMILY/] RECIPE

RECIPE may be paper/* for each of the paper's own techniques, or * for each recipe of the matrix: on the left, or within
spread(…), which is their standard deviation of logarithms.

Standard library only, because every dry run reads the claims. No text is ever evaluated.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from slimdiff.analysis.columns import COLUMNS, RENAMED_COLUMNS
from slimdiff.catalog.families import FAMILIES
from slimdiff.errors import UserError

EVERY, PAPER_EVERY = STARS = ("*", "paper/*")  # recipes: each of the matrix, each of the paper's own techniques
# Times of cells that were profiled at other hours, on a machine with another load.
RAW_TIMES = (
    *("train_ms_per_epoch", "train_s", "finetune_s", "compile_s", "load_s"),
    *(f"inference_ms_per_image{end}" for end in ("", "_iqr", "_batch_1", "_batch_1_iqr")),
)
SIZES = ("size_bytes", "size_gzip_bytes", "size_packed_bytes")
COLUMN_NAMES = tuple(
    column.name
    for column in COLUMNS
    if column.dtype in ("Int64", "Float64") and not column.required and column.name not in RAW_TIMES
)
MAX_CHARACTERS = 300  # of a comparison

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # of data sets and recipes, as in the config schema
_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_CELL = re.compile(rf"\s*(?:({_NAME})\s*:)?\s*(?:(?!paper/)({_NAME})\s*/)?\s*({_NAME}|(?:paper/)?\*)\s*")
_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\(([^()]*)\)\s*")
_SPREAD = re.compile(r"\s*spread\s*\((.*)\)\s*", re.DOTALL)
_WITHIN = re.compile(rf"(.*)\bwithin\s+({_NUMBER})\s*%\s*", re.DOTALL)
_SCALED = re.compile(rf"\s*({_NUMBER})\s*(?:\*(.*))?", re.DOTALL)
_EXAMPLE = "fid_indomain(ncsn/groups-2) < 0.9 * fid_indomain(ncsn/baseline)"


@dataclass(frozen=True)
class Place:
    """The cells that a comparison names."""

    dataset: str | None  # None: each data set of the matrix
    family: str  # each model of that family
    recipe: str  # or one of STARS

    def __str__(self) -> str:
        return f"{self.dataset}: {self.family}/{self.recipe}" if self.dataset else f"{self.family}/{self.recipe}"


@dataclass(frozen=True)
class Term:
    """A column of a cell, or its spread over the cells of a star."""

    column: str
    place: Place
    spread: bool = False


@dataclass(frozen=True)
class Comparison:
    """left OPERATOR factor · right, or left OPERATOR factor where there is no right."""

    text: str  # as written, with single spaces
    left: Term
    operator: Literal["<", ">", "="]
    factor: float
    right: Term | None
    within: float | None  # margin of "=" as a share: 0.1 for 10 %

    @property
    def places(self) -> tuple[Place, ...]:
        """The cells on its sides."""
        return (self.left.place,) if self.right is None else (self.left.place, self.right.place)


@dataclass(frozen=True)
class Failure:
    """The claim that the cell fails: its training diverges, or its samples cannot be scored."""

    text: str
    place: Place

    @property
    def places(self) -> tuple[Place, ...]:
        """The cell."""
        return (self.place,)


Expression = Comparison | Failure


def parse(text: str, family: str | None = None) -> Expression:
    """Parse the comparison `text`; `family` is the default family of its cells.

    Raises:
        UserError: `text` is not a comparison. The message begins with the text and says what is allowed.
    """
    try:
        return _parse(" ".join(text.split()), family)
    except _SyntaxError as error:
        shown = text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"
        raise UserError(f"{' '.join(shown.split())!r} {error}") from None


class _SyntaxError(Exception):
    """The message without the text it follows."""


def _parse(text: str, family: str | None) -> Expression:
    if len(text) > MAX_CHARACTERS:
        raise _SyntaxError(f"is too long; allowed: {MAX_CHARACTERS} characters; split it into several comparisons")
    operators = re.findall("[<>=]", text)
    if not operators:
        name, inside = _call(text, "has no <, > or =, and is not failed(cell)")
        if name != "failed":
            raise _SyntaxError(f"has only one side; allowed: {_EXAMPLE}, or failed(cell)")
        place = _place(inside, family)
        if place.recipe in STARS:
            raise _SyntaxError("has * in failed(…), which takes one recipe; write one comparison for each recipe")
        return Failure(text, place)
    if len(operators) > 1:
        raise _SyntaxError(f"has {len(operators)} of <, > and =; allowed: one; split it into several comparisons")
    operator: Literal["<", ">", "="] = operators[0]
    first, second = text.split(operator)
    within = _WITHIN.fullmatch(second)
    if (within is not None) != (operator == "="):
        needs = "needs a margin after =" if operator == "=" else f"has a margin after {operator}"
        raise _SyntaxError(f"{needs}; allowed: “within 10 %” at the end with =, no margin with < and >")
    left = _term(first, family)
    factor, right = _side(within[1] if within else second, family)
    if right and right.place.recipe in STARS and not right.spread:
        raise _SyntaxError("has * on the right; allowed there: a recipe; * is for the left side only")
    if right and left == right:
        raise _SyntaxError("compares a cell with itself; correct one side")
    columns = {left.column, *({right.column} if right else ())}
    if len(columns) > 1 and columns <= set(SIZES):
        raise _SyntaxError(f"compares {left.column} with {right and right.column}; use one of them on both sides")
    return Comparison(text, left, operator, factor, right, _positive(within[2]) / 100 if within else None)


def _side(text: str, family: str | None) -> tuple[float, Term | None]:
    scaled = _SCALED.fullmatch(text)
    if scaled is None:
        return 1.0, _term(text, family)
    return _positive(scaled[1]), None if scaled[2] is None else _term(scaled[2], family)


def _term(text: str, family: str | None) -> Term:
    spread = _SPREAD.fullmatch(text)
    if spread is not None:
        term = _term(spread[1], family)
        if term.spread or term.place.recipe not in STARS:
            raise _SyntaxError("has spread of one cell; allowed: spread(COLUMN(family/paper/*)), or with family/*")
        return Term(term.column, term.place, spread=True)
    column, inside = _call(text, f"has {text.strip()!r} instead of COLUMN(cell)")
    if column in RENAMED_COLUMNS:
        raise _SyntaxError(f"has the column {column!r}, which is now called {RENAMED_COLUMNS[column]}; rename it")
    if column in RAW_TIMES:
        raise _SyntaxError(f"has {column}, a time at the load of its hour; allowed: speedup, which is timed in turns")
    if column not in COLUMN_NAMES:
        raise _SyntaxError(f"has the unknown column {column!r}; allowed: {', '.join(COLUMN_NAMES)}")
    return Term(column, _place(inside, family))


def _call(text: str, otherwise: str) -> tuple[str, str]:
    call = _CALL.fullmatch(text)
    if call is None:
        raise _SyntaxError(f"{otherwise}; allowed: for example {_EXAMPLE}")
    return call[1], call[2]


def _place(text: str, family: str | None) -> Place:
    cell = _CELL.fullmatch(text)
    if cell is None:
        raise _SyntaxError(
            f"has the invalid cell {text.strip()!r}; allowed: [data set:] [family/] recipe, as in mnist: ncsn/ema"
        )
    chosen = cell[2] or family
    if chosen is None:
        name = text.strip()
        raise _SyntaxError(f"has no family for {name!r}; write ncsn/{name}, for example, or set `family:` of the claim")
    if chosen not in FAMILIES:
        raise _SyntaxError(f"has the unknown family {chosen!r}; allowed: {', '.join(FAMILIES)}")
    return Place(cell[1], chosen, cell[3])


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise _SyntaxError(f"has the number {text}; allowed: numbers above 0")
    return number
