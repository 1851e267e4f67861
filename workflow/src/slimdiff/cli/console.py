"""How commands print: tables, figures, and colours that a terminal alone sees."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPE_WIDTH = 250  # of tables that go into a pipe or a file, where nothing is cut


def console() -> Console:
    """Rich fits tables to a terminal; into a pipe or a file they go in full width and without colours."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[float, int], None] | None]:
    """A bar on the standard error while the block runs, and what to tell it: how much is done, of how much.

    Nothing where the standard error is no terminal: None is then what one calls.
    """
    terminal = Console(file=sys.stderr, highlight=False)
    if not terminal.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def table(*headings: str) -> Table:
    """A table without lines, its first column to the left and the others to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for position, heading in enumerate(headings):
        made.add_column(heading, justify="right" if position else "left", overflow="fold")
    return made


def is_number(value: Any) -> bool:
    """Whether `value` can be divided by another."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def figure(value: Any) -> str:
    """A value as a cell of a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if is_number(value) else str(value)


def ratio(value: Any, base: Any) -> str:
    """`value` in units of `base`."""
    return f"{value / base:.3g}×" if is_number(value) and is_number(base) and base else "–"


def duration(seconds: float | None) -> str:
    """Hours and minutes, or minutes and seconds."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(n_bytes: float) -> str:
    """Bytes in the largest decimal unit of which there is one."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"
