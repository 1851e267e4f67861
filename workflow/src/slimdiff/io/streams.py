"""Output for terminals and locales that lack characters: plain ones in their place, never an error."""

import codecs
import io
import sys
from typing import TextIO

# What tables and messages use beyond ASCII. Anything else, such as a file's name, becomes escapes (\u0416).
PLAIN = str.maketrans({"–": "-", "−": "-", "→": "->", "×": "x", "…": "...", "±": "+-", "·": "-", "≥": ">=", "≤": "<="})
HANDLER = "slimdiff-plain"


def make_tolerant(*streams: TextIO) -> None:
    """Make text streams (none given: standard output and error) print plain characters where theirs are lacking."""
    codecs.register_error(HANDLER, _replace)
    for stream in streams or (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test's or a notebook's stream has no encoding of its own
            stream.reconfigure(errors=HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end].translate(PLAIN)
    return lacking.encode("ascii", "backslashreplace").decode("ascii"), error.end
