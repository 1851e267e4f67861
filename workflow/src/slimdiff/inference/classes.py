"""Which classes a user wants sampled: by name, or by position."""

import re
from collections.abc import Sequence

from slimdiff.errors import UserError

RANGE = re.compile(r"(\d+)-(\d+)")


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
        UserError: a name or position is unknown, or one of `labels` is the name of one class and the position of
            another.
    """
    for given in (names, labels):
        if isinstance(given, str):  # whose letters would be taken for names
            raise UserError(f"the classes to sample are {given!r}; allowed: a list of names, [{given!r}]")
    found = [_by_name(name, classes) for name in names]
    for position in positions:
        if not 0 <= position < len(classes):
            raise UserError(f"class position {position} is unknown to this model; allowed: 0 to {len(classes) - 1}")
        found.append(int(position))
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
        UserError: a range runs backwards.
    """
    if text in classes:
        return [text]
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        ends = None if part in classes else _range(part, "--labels")
        names += [part] if ends is None else map(str, range(ends[0], min(ends[1], ends[0] + len(classes)) + 1))
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
        elif part.isdecimal():
            positions.append(int(part))
        else:
            raise UserError(
                f"--class-index {part!r} is not a position; allowed: 0 to {len(classes) - 1}, or a range such as 0-1. "
                "A class is named with --class"
            )
    return positions


def _by_name(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise UserError(
            f"class {name!r} is unknown to this model; allowed: {', '.join(classes)}. Positions, from 0, are given "
            "with --class-index (class_index in Python)"
        )
    if classes.count(name) > 1:
        positions = [str(position) for position, own in enumerate(classes) if own == name]
        raise UserError(
            f"class {name!r} is ambiguous, since {len(positions)} classes have this name; give a position, "
            f"{' or '.join(positions)}, with --class-index (class_index in Python)"
        )
    return classes.index(name)


def _range(text: str, option: str) -> tuple[int, int] | None:
    """Return first and last of a range such as 0-4; None if `text` is something else."""
    match = RANGE.fullmatch(text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise UserError(f"{option} {text} runs backwards; write {last}-{first}")
    return first, last
