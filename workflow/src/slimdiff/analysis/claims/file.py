"""Files of claims: workflow/resources/claims.yaml and the user's own.

Neither torch nor pandas, because every dry run reads the files and reports mistakes before any job.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from slimdiff.analysis.claims import expressions
from slimdiff.analysis.claims.expressions import Expression
from slimdiff.catalog.families import FAMILIES
from slimdiff.errors import UserError
from slimdiff.io import strict_yaml

KEYS = {  # of a claim, with their contents
    "id": "a unique name",
    "claim": "the claim, as one sentence",
    "source": "where it is made: table, section, paper",
    "family": "default family of the cells",
    "comparisons": "the comparisons that must hold; see docs/claims.md",
    "contradictions": "contradictions of the source with itself",
}
REQUIRED = ("id", "claim", "source", "comparisons")
LISTS = ("comparisons", "contradictions")
FORMULA = ("=", "+", "-", "@")  # a spreadsheet runs a cell of a CSV file that begins with one of these


@dataclass(frozen=True)
class Claim:
    """A claim, and the comparisons that must all hold."""

    id: str
    claim: str
    source: str
    comparisons: tuple[Expression, ...]
    contradictions: tuple[str, ...] = ()
    file: str = ""  # path of its file, as given


def read(paths: Iterable[str | os.PathLike[str]]) -> list[Claim]:
    """Read the claims of all files, in their order.

    Raises:
        UserError: a file is missing or not YAML, an entry is not a claim, or an id is not unique. The message names the
            file, the claim, the text and what is allowed.
    """
    claims: dict[str, Claim] = {}
    for path in paths:
        for claim in _read(path):
            if claim.id in claims:
                other = claims[claim.id].file
                raise UserError(f"{path}: claim {claim.id!r} is also in {other}; give one of them another id")
            claims[claim.id] = claim
    return list(claims.values())


def _read(path: str | os.PathLike[str]) -> list[Claim]:
    try:
        content = strict_yaml.read(path)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); correct `claims:` in the config") from None
    except UserError as error:
        raise UserError(f"{error}; quote text that contains : or #") from None
    if not isinstance(content, list):
        raise UserError(f"{path} contains {_kind(content)}; allowed: a list of claims, each starting with “- id: …”")
    claims: list[Claim] = []
    for position, entry in enumerate(content):
        claim = _claim(entry, f"{path}: ", position, os.fspath(path))
        if claim.id in {other.id for other in claims}:
            raise UserError(f"{path}: two claims have the id {claim.id!r}; give one of them another id")
        claims.append(claim)
    return claims


def _claim(entry: Any, where: str, position: int, file: str) -> Claim:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}entry {position + 1} is {_kind(entry)}; allowed: a mapping with {', '.join(REQUIRED)}")
    name = entry.get("id")
    where += f"claim {name!r}" if isinstance(name, str) and name else f"entry {position + 1}"
    unknown = [key for key in entry if key not in KEYS]
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(KEYS)}")
    missing = [key for key in REQUIRED if key not in entry]
    if missing:
        raise UserError(f"{where}: {missing[0]} is missing ({KEYS[missing[0]]})")
    for key in entry:
        for value in _items(entry[key], key, where):
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"{where}: {key} has {_kind(value)}; allowed: text, quoted if necessary ({KEYS[key]})")
    if not entry["comparisons"]:
        raise UserError(f"{where}: comparisons is an empty list; allowed: one or more ({KEYS['comparisons']})")
    family = entry.get("family")
    if family is not None and family not in FAMILIES:
        raise UserError(f"{where}: family is {family!r}; allowed: {', '.join(FAMILIES)}")
    parts = []
    for text in entry["comparisons"]:
        try:
            parts.append(expressions.parse(text, family))
        except UserError as error:
            raise UserError(f"{where}: comparison {error}") from None
    texts = {key: " ".join(entry[key].split()) for key in ("id", "claim", "source")}
    for key, text in texts.items():
        if text.startswith(FORMULA):
            raise UserError(f"{where}: {key} begins with {text[0]} like a spreadsheet formula; put a word before it")
    remarks = tuple(" ".join(text.split()) for text in entry.get("contradictions", ()))
    return Claim(**texts, comparisons=tuple(parts), contradictions=remarks, file=file)


def _items(value: Any, key: str, where: str) -> list[Any]:
    if key not in LISTS:
        return [value]
    if not isinstance(value, list):
        raise UserError(f"{where}: {key} is {_kind(value)}; allowed: a list of texts ({KEYS[key]})")
    return value


def _kind(value: Any) -> str:
    """Return the name of the type of `value` for messages."""
    if value is None:
        return "nothing"
    for kind, name in ((dict, "a mapping"), (list, "a list"), (str, "text")):
        if isinstance(value, kind):
            return name
    return f"{value!r}"
