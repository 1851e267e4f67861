"""Plain scalars that YAML 1.1 and YAML 1.2 read differently, such as 010, 1:40, 1e-3, no and <<.

PyYAML, and so Snakemake, reads YAML 1.1; many other libraries and editors read 1.2. YAML 1.2 is its core schema
(yaml.org/spec/1.2.2, chapter 10.3). YAML 1.1 is PyYAML, and in values the bools y and n, which PyYAML leaves out.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

Reader = Callable[[str], Any]
CORE_SCHEMA: tuple[tuple[str, Reader], ...] = (  # pattern and value of a plain scalar in YAML 1.2; others are text
    ("null|Null|NULL|~|", lambda text: None),
    ("true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    ("[-+]?[0-9]+", int),
    ("0o[0-7]+", lambda text: int(text[2:], 8)),
    ("0x[0-9a-fA-F]+", lambda text: int(text[2:], 16)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", lambda text: float(text.replace(".", ""))),
)
BOOLS_11 = {"y": True, "Y": True, "n": False, "N": False}  # yaml.org/type/bool.html
SUSPECTS = frozenset("0123456789+-.yYnNoO=<")  # first characters of what differs
TAG = "tag:yaml.org,2002:"
RESOLVER = yaml.resolver.Resolver()
DATE = object()  # the reading of a date, valid or not
MERGE = object()  # the reading of <<, which takes over the keys of another mapping
ERROR = object()  # the reading of a scalar that is an error
MAX_SHOWN = 40  # characters of a scalar in a message


def problem(text: str, is_key: bool = False) -> str | None:
    """Return both readings of a plain scalar, as in "is 010, which YAML 1.1 reads as …"; None if they are equal."""
    if text[:1] not in SUSPECTS or (is_key and text in BOOLS_11):
        return None
    old, new = _read_11(text), _read_12(text)
    if type(old) is type(new) and (old == new or (isinstance(old, float) and math.isnan(old) and math.isnan(new))):
        return None
    if len(text) > MAX_SHOWN:
        return f"is {text[: MAX_SHOWN - 1]}…, which YAML 1.1 and YAML 1.2 read differently; write it in quotes"
    written = " or ".join(dict.fromkeys([*_ways_to_write(old, text), *_ways_to_write(new, text)]))
    return f"is {text}, which YAML 1.1 reads as {_describe(old)} and YAML 1.2 as {_describe(new)}; write {written}"


def _read_11(text: str) -> Any:
    if text in BOOLS_11:
        return BOOLS_11[text]
    tag = RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    if tag in (f"{TAG}timestamp", f"{TAG}merge"):
        return DATE if tag == f"{TAG}timestamp" else MERGE
    try:
        return yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text))
    except (ValueError, yaml.YAMLError):  # 0x_, =, an integer of thousands of digits
        return ERROR


def _read_12(text: str) -> Any:
    try:
        return next((read(text) for pattern, read in CORE_SCHEMA if re.fullmatch(pattern, text)), text)
    except ValueError:
        return ERROR


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return _plain(value)
    return "a date" if value is DATE else "a merge key" if value is MERGE else "an error"


def _ways_to_write(value: Any, text: str) -> Iterator[str]:
    """Yield how to write `value` for both versions; nothing for what no key takes."""
    if isinstance(value, str):
        yield f"'{text}'"
    elif isinstance(value, int | float):
        yield _plain(value)


def _plain(value: int | float) -> str:
    """Return a number or a bool as both versions read it: 1.0e-10, not Python's 1e-10."""
    if isinstance(value, bool):
        return str(value).lower()
    if not math.isfinite(value):
        return ".inf" if value > 0 else "-.inf"
    mantissa, e, exponent = repr(value).partition("e")
    return (mantissa if "." in mantissa or not e else f"{mantissa}.0") + e + exponent
