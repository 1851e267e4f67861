"""One mistake in a configuration, and where it is."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from slimdiff.config.resolve import Config


class Problem(NamedTuple):
    """What is wrong, and where."""

    path: tuple[str | int, ...]  # keys and list positions from the top of the configuration
    text: str  # goes on from the dotted path, as in "is 1.3; allowed: …"


def offer(name: str, known: Mapping[str, Any]) -> str:
    """The known names, and which of them `name` may have been meant to be."""
    close = difflib.get_close_matches(name, known, n=1)
    return ", ".join(known) + (f" (did you mean {close[0]}?)" if close else "")


def unknown(name: str, config: Config, kind: str, path: tuple[str | int, ...]) -> Iterator[Problem]:
    if name not in config[kind]:
        yield Problem(path, f"is {name!r}; allowed: {offer(name, config[kind])}; correct it, or add it under {kind}")
