"""What a schema cannot express: names and files that must exist, numbers that must divide, keys that conflict."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from slimdiff.config.lookup import Config


class Problem(NamedTuple):
    """A mistake in a config."""

    path: tuple[str | int, ...]  # keys and list positions from the top of the config
    text: str  # follows the dotted path in the message, as in "is 1.3; allowed: …"


def suggest(name: str, known: Mapping[str, Any]) -> str:
    """Return the known names as a list, with the one closest to `name`."""
    close = difflib.get_close_matches(name, known, n=1)
    return ", ".join(known) + (f" (did you mean {close[0]}?)" if close else "")


def check_known(name: str, config: Config, kind: str, path: tuple[str | int, ...]) -> Iterator[Problem]:
    """Yield a problem at `path` if the config's section `kind` has no entry `name`."""
    if name not in config[kind]:
        yield Problem(path, f"is {name!r}; allowed: {suggest(name, config[kind])}; correct it, or add it under {kind}")
