"""The language of claims: comparisons of a column between cells, or with a number.

    comparison: term < side | term > side | term = side within NUMBER % | failed(cell)
    term:       COLUMN(cell)
    side:       term | NUMBER * term | NUMBER
    cell:       [DATASET:] [FAMILY/] RECIPE     RECIPE is * for every technique, on the left alone

Standard library only: the rules read claims at every dry run. No text is ever evaluated.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from slimdiff.analysis.columns import COLUMNS
from slimdiff.catalog.families import FAMILIES
from slimdiff.errors import UserError

EVERY = "*"  # as a recipe: every technique
LONGEST = 300  # characters of a comparison
NAMES = tuple(column.name for column in COLUMNS if column.dtype != "string" and not column.required)

_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # of data sets and recipes, as in the schema of the configuration
_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_CELL = re.compile(rf"\s*(?:({_NAME})\s*:)?\s*(?:({_NAME})\s*/)?\s*({_NAME}|\*)\s*")
_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\(([^()]*)\)\s*")
_WITHIN = re.compile(rf"(.*)\bwithin\s+({_NUMBER})\s*%\s*", re.DOTALL)
_SCALED = re.compile(rf"\s*({_NUMBER})\s*(?:\*(.*))?", re.DOTALL)
_EXAMPLE = "fid_indomain(ncsn/groups-2) < 0.9 * fid_indomain(ncsn/baseline)"


@dataclass(frozen=True)
class Place:
    """What a cell of a comparison stands for."""

    dataset: str | None  # None: each data set of the matrix
    family: str  # each model of that family
    recipe: str  # or EVERY

    def __str__(self) -> str:
        return f"{self.dataset}: {self.family}/{self.recipe}" if self.dataset else f"{self.family}/{self.recipe}"


@dataclass(frozen=True)
class Term:
    """A column of a cell."""

    column: str
    place: Place


@dataclass(frozen=True)
class Comparison:
    """left OPERATOR factor · right, or left OPERATOR factor where there is no right."""

    text: str  # as written, but for spaces
    left: Term
    operator: Literal["<", ">", "="]
    factor: float
    right: Term | None
    within: float | None  # of "=": a share, so 0.1 for 10 %

    @property
    def places(self) -> tuple[Place, ...]:
        """The cells that it is about."""
        return (self.left.place,) if self.right is None else (self.left.place, self.right.place)


@dataclass(frozen=True)
class Failure:
    """The cell fails: its training or its samples are not to be scored."""

    text: str
    place: Place

    @property
    def places(self) -> tuple[Place, ...]:
        """The cell that it is about."""
        return (self.place,)


Expression = Comparison | Failure


def parse(text: str, family: str | None = None) -> Expression:
    """The comparison that `text` holds; a cell without a family is of `family`.

    Raises:
        UserError: it is no comparison. The message says what is wrong and what is allowed, and begins with the text.
    """
    try:
        return _parse(" ".join(text.split()), family)
    except _Wrong as wrong:
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
        raise UserError(f"{' '.join(shown.split())!r} {wrong}") from None


class _Wrong(Exception):
    """What is wrong; goes on from the text."""


def _parse(text: str, family: str | None) -> Expression:
    if len(text) > LONGEST:
        raise _Wrong(f"is too long; allowed: {LONGEST} characters; split it into several comparisons")
    operators = re.findall("[<>=]", text)
    if not operators:
        name, inside = _call(text, "has no <, > or =, and is not failed(cell)")
        if name != "failed":
            raise _Wrong(f"compares {name} with nothing; allowed: {_EXAMPLE}, or failed(cell)")
        place = _place(inside, family)
        if place.recipe == EVERY:
            raise _Wrong("has * in failed(…), where a recipe is wanted; write one comparison for each recipe")
        return Failure(text, place)
    if len(operators) > 1:
        raise _Wrong(f"has {len(operators)} of <, > and =; allowed: one; split it into several comparisons")
    operator: Literal["<", ">", "="] = operators[0]
    first, second = text.split(operator)
    within = _WITHIN.fullmatch(second)
    if (within is not None) != (operator == "="):
        needs = "needs a margin after =" if operator == "=" else f"has a margin after {operator}"
        raise _Wrong(f"{needs}; allowed: =, then “within 10 %” at the end, and neither with < nor with >")
    left = _term(first, family)
    factor, right = _side(within[1] if within else second, family)
    if right and right.place.recipe == EVERY:
        raise _Wrong("has * on its right; allowed there: a recipe; * may stand on the left alone")
    if right and left == right:
        raise _Wrong("compares a cell with itself; correct one of its sides")
    return Comparison(text, left, operator, factor, right, _positive(within[2]) / 100 if within else None)


def _side(text: str, family: str | None) -> tuple[float, Term | None]:
    scaled = _SCALED.fullmatch(text)
    if scaled is None:
        return 1.0, _term(text, family)
    return _positive(scaled[1]), None if scaled[2] is None else _term(scaled[2], family)


def _term(text: str, family: str | None) -> Term:
    column, inside = _call(text, f"has {text.strip()!r} where COLUMN(cell) is wanted")
    if column not in NAMES:
        raise _Wrong(f"has the column {column!r}; allowed: {', '.join(NAMES)}")
    return Term(column, _place(inside, family))


def _call(text: str, otherwise: str) -> tuple[str, str]:
    found = _CALL.fullmatch(text)
    if found is None:
        raise _Wrong(f"{otherwise}; allowed: for example {_EXAMPLE}")
    return found[1], found[2]


def _place(text: str, family: str | None) -> Place:
    found = _CELL.fullmatch(text)
    if found is None:
        raise _Wrong(f"has the cell {text.strip()!r}; allowed: [data set:] [family/] recipe, as mnist: ncsn/groups-2")
    chosen = found[2] or family
    if chosen is None:
        name = text.strip()
        raise _Wrong(f"does not say the family of {name!r}; write it before, as in ncsn/{name}, or set family: once")
    if chosen not in FAMILIES:
        raise _Wrong(f"has the family {chosen!r}; allowed: {', '.join(FAMILIES)}")
    return Place(found[1], chosen, found[3])


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise _Wrong(f"has the number {text}; allowed: a number above 0")
    return number
