"""Claims as their files hold them: workflow/resources/claims.yaml, and those that users bring.

Neither torch nor pandas: the rules read the files at every dry run, so that a mistake in one is told before any job.
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

KEYS = {  # of a claim, with what each holds
    "id": "a name that no other claim has",
    "claim": "the sentence that is claimed",
    "source": "where it is claimed: table, section, paper",
    "family": "family of the cells that name none",
    "comparisons": "what must hold, as docs/claims.md says",
    "contradictions": "where the source contradicts itself",
}
REQUIRED = ("id", "claim", "source", "comparisons")
LISTS = ("comparisons", "contradictions")
FORMULA = ("=", "+", "-", "@")  # with which a spreadsheet takes a text of a CSV table for a formula


@dataclass(frozen=True)
class Claim:
    """A sentence, and the comparisons that must all hold for it to be replicated."""

    id: str
    claim: str
    source: str
    comparisons: tuple[Expression, ...]
    contradictions: tuple[str, ...] = ()
    file: str = ""  # the name of the file that it stands in, as it was given


def read(paths: Iterable[str | os.PathLike[str]]) -> list[Claim]:
    """The claims of all files, in their order.

    Raises:
        UserError: a file is missing or no YAML, an entry is no claim, or an id stands twice. The message names the
            file, the claim, the text and what is allowed.
    """
    claims: dict[str, Claim] = {}
    for path in paths:
        for claim in _read(path):
            if claim.id in claims:
                other = claims[claim.id].file
                raise UserError(f"{path}: claim {claim.id!r} stands in {other} already; give one of them another id")
            claims[claim.id] = claim
    return list(claims.values())


def _read(path: str | os.PathLike[str]) -> list[Claim]:
    try:
        content = strict_yaml.read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); correct `claims:` in the config") from None
    except UserError as error:
        raise UserError(f"{error}; put texts with : or # in them in quotes") from None
    if not isinstance(content, list):
        raise UserError(f"{path} holds {_kind(content)}; allowed: a list of claims, each beginning with “- id: …”")
    found: list[Claim] = []
    for position, entry in enumerate(content):
        claim = _claim(entry, f"{path}: ", position, os.fspath(path))
        if claim.id in {other.id for other in found}:
            raise UserError(f"{path}: claim {claim.id!r} stands in it twice; give one of them another id")
        found.append(claim)
    return found


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
                raise UserError(f"{where}: {key} has {_kind(value)}; allowed: text, in quotes if need be ({KEYS[key]})")
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
            raise UserError(
                f"{where}: {key} begins with {text[0]}, as a spreadsheet's formula does; put a word before it"
            )
    remarks = tuple(" ".join(text.split()) for text in entry.get("contradictions", ()))
    return Claim(**texts, comparisons=tuple(parts), contradictions=remarks, file=file)


def _items(value: Any, key: str, where: str) -> list[Any]:
    if key not in LISTS:
        return [value]
    if not isinstance(value, list):
        raise UserError(f"{where}: {key} is {_kind(value)}; allowed: a list of texts ({KEYS[key]})")
    return value


def _kind(value: Any) -> str:
    """`value` as a message calls it."""
    if value is None:
        return "nothing"
    for kind, name in ((dict, "a mapping"), (list, "a list"), (str, "text")):
        if isinstance(value, kind):
            return name
    return f"{value!r}"
