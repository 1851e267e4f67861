"""Which classes a user wants sampled: by name, or by position."""

import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any

from slimdiff.errors import UserError
from slimdiff.io.text import comparable

NUMBER = "[0-9]{1,18}"  # an int of 4,300 digits or more cannot be read
RANGE = re.compile(f"({NUMBER})-({NUMBER})")


def find_classes(
    classes: Sequence[str],
    names: Sequence[str] = (),
    positions: Sequence[int] = (),
    labels: Sequence[str | int] = (),
) -> list[int]:
    """Return the positions of the requested classes: those given by name, then by position, then `labels`.

    Args:
        classes: the data set's class names, in order.
        labels: names as the options `--label` and `--labels` take them, which once took positions too.

    Raises:
        UserError: a name or position is unknown or of another type, or one of `labels` is the name of one class and
            the position of another.
    """
    for given, what in ((names, "names"), (positions, "positions"), (labels, "names")):
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):  # letters would be taken for names
            raise UserError(f"the classes to sample are {given!r}; allowed: a list of {what}, [{given!r}]")
    for name in names:
        if not isinstance(name, str):
            raise UserError(
                f"classes holds {name!r}; allowed: names, such as {classes[0]!r}. Positions are given as class_index"
            )
    found = [_by_name(name, classes) for name in names]
    for value in positions:
        position = _position(value)
        if position is None or not 0 <= position < len(classes):
            raise UserError(f"class position {value!r} is unknown to this model; allowed: 0 to {len(classes) - 1}")
        found.append(position)
    for label in map(str, labels):
        index = _by_name(label, classes)
        others = [other for position, other in enumerate(classes) if str(position) == label and position != index]
        if others:
            raise UserError(
                f"label {label} is ambiguous: the class of that name is --class {label} (classes in Python), the one "
                f"at that position, {others[0]!r}, is --class-index {label} (class_index)"
            )
        found.append(index)
    return found


def parse_labels(text: str, classes: Sequence[str]) -> list[str]:
    """Return the names in a list such as "0-4,7" or "cat,dog"; a name may itself hold a comma or a dash.

    Raises:
        UserError: a range runs backwards, or no name is given.
    """
    if text in classes:
        return [text]
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = None if part in classes else _range(part, "--labels")
        names += [part] if ends is None else map(str, range(ends[0], min(ends[1], ends[0] + len(classes)) + 1))
    if not names:
        raise UserError(f"--labels {text!r} names no class; allowed: {', '.join(classes)}")
    return names


def parse_positions(text: str, classes: Sequence[str]) -> list[int]:
    """Return the positions in a list such as "0-4,7", known or not; of a range only as many as there are classes.

    Raises:
        UserError: a part is neither a position nor a range of positions, or a range runs backwards.
    """
    positions: list[int] = []
    for part in (part.strip() for part in text.split(",")):
        if (ends := _range(part, "--class-index")) is not None:
            positions += range(ends[0], min(ends[1], ends[0] + len(classes)) + 1)
        elif re.fullmatch(NUMBER, part):
            positions.append(int(part))
        else:
            raise UserError(
                f"--class-index {part[:20]!r} is not a position; allowed: 0 to {len(classes) - 1}, or a range such as "
                "0-1. A class is named with --class"
            )
    return positions


def _position(value: Any) -> int | None:
    """Return an integer, also one of numpy's, as an int; None for everything else, such as True or 1.5."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _by_name(name: str, classes: Sequence[str]) -> int:
    """Return the position of the class `name`, or of the one that looks like it."""
    found = [position for position, own in enumerate(classes) if own == name]
    found = found or [position for position, own in enumerate(classes) if comparable(own) == comparable(name)]
    if not found:
        raise UserError(
            f"class {name!r} is unknown to this model; allowed: {', '.join(classes)}. Positions, from 0, are given "
            "with --class-index (class_index in Python)"
        )
    if len(found) > 1:
        raise UserError(
            f"class {name!r} is ambiguous, since {len(found)} classes have this name; give a position, "
            f"{' or '.join(map(str, found))}, with --class-index (class_index in Python)"
        )
    return found[0]


def _range(text: str, option: str) -> tuple[int, int] | None:
    """Return first and last of a range such as 0-4; None if `text` is something else."""
    match = RANGE.fullmatch(text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise UserError(f"{option} {text} runs backwards; write {last}-{first}")
    return first, last
