"""Output for terminals and pipes: tables, values, progress bars."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from slimdiff.io.text import NOTHING

PIPE_WIDTH = 250  # of tables in a pipe or file, so that nothing is truncated


def console() -> Console:
    """Return a console that fits tables to a terminal, or writes full-width plain text into a pipe or file."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


@contextlib.contextmanager
def progress_bar(task: str) -> Iterator[Callable[[float, int], None] | None]:
    """Show a bar on standard error; yield its update function (done, total), or None without a terminal."""
    terminal = Console(file=sys.stderr, highlight=False)
    if not terminal.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        task_id = bar.add_task(task, total=None)
        yield lambda done, total: bar.update(task_id, completed=done, total=total)


def table(*headings: str) -> Table:
    """Return a table without lines, the first column left-aligned and the others right-aligned."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    for position, heading in enumerate(headings):
        result.add_column(heading, justify="right" if position else "left", overflow="fold")
    return result


def is_number(value: Any) -> bool:
    """Return whether `value` is a number, booleans excluded."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def format_value(value: Any) -> str:
    """Return a value as the text of a table cell."""
    if value is None:
        return NOTHING
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if is_number(value) else str(value)


def format_ratio(value: Any, base: Any) -> str:
    """Return `value` / `base` as text."""
    return f"{value / base:.3g}×" if is_number(value) and is_number(base) and base else NOTHING
