"""Values as text: foreign text on one safe line, and numbers, sizes and durations for people."""

import math
import unicodedata

NOTHING = "–"


def one_line(text: object) -> str:
    """Return `text` on one line: spaces for line breaks and tabs, escapes such as `\\x1b` for invisible characters.

    Control characters could move a terminal's cursor, and marks of writing direction could disguise a file name.
    """
    spaced = "".join(" " if character in "\t\n\r" else character for character in str(text))
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in spaced
    )


def comparable(name: str) -> str:
    """Return `name` as readers compare names: accents in one encoding (NFC), single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def significant(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits and no exponent (90.9, 151, 1.09); a dash for None or NaN."""
    if value is None or math.isnan(value):
        return NOTHING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}".replace("-", "−")


def size(n_bytes: float | None) -> str:
    """Return bytes with three significant digits and a decimal unit: 4.14 MB, 97.0 kB."""
    if n_bytes is None or math.isnan(n_bytes):
        return NOTHING
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= factor:
            return f"{significant(n_bytes / factor)} {unit}"
    return f"{n_bytes:.0f} bytes"


def duration(seconds: float | None) -> str:
    """Return seconds as 7.9 s, 6 min 42 s, or 2 h 05 min."""
    if seconds is None or math.isnan(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
