"""`slimdiff status`: which requested cells are done, failed, missing or running."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from slimdiff.catalog.stages import CELL_STAGES
from slimdiff.cli.cells import RESULTS, Results, folders_with, read_row
from slimdiff.cli.config import Configs, Presets, cells_of, read_config, sources
from slimdiff.cli.console import console, format_value, table
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.text import duration

STALE_S = 120.0  # running trainings report every ten seconds, or after each step if steps take longer
REFRESH_S = 2.0
MAX_LISTED = 20  # cells per heading
BAR_WIDTH = 30


@dataclass
class Survey:
    """The state of cells (DATASET/MODEL/OPTIMIZATION/seedN) and trainings (DATASET/MODEL/TRAINING/seedN)."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # cell → reason
    missing: list[str] = field(default_factory=list)
    started: dict[str, list[str]] = field(default_factory=dict)  # unfinished cell → files written so far
    unrequested: list[str] = field(default_factory=list)  # on disk, not in the matrix
    trainings_finished: list[str] = field(default_factory=list)
    trainings_running: dict[str, dict[str, Any]] = field(default_factory=dict)  # training → last report
    trainings_stopped: dict[str, dict[str, Any]] = field(default_factory=dict)

    def is_empty(self) -> bool:
        """Return whether nothing was started."""
        started = self.started or self.trainings_finished or self.reports()
        return not (self.done or self.failed or self.unrequested or started)

    def reports(self) -> dict[str, dict[str, Any]]:
        """Return the last report of each unfinished training, running ones first."""
        return {**self.trainings_running, **self.trainings_stopped}


def status(
    presets: Presets = None,
    results: Results = RESULTS,
    config: Configs = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which cells are done, failed, missing or running.

    For a running training: its step, loss and remaining time.
    """
    if not results.is_dir():
        raise UserError(f"--results {results} is not a folder: start with `slimdiff run`, or name the folder of a run")
    paths = sources(presets, config)
    requested = cells_of(read_config(paths), paths) if paths else None
    source = " + ".join(map(str, paths))
    if watch:
        _watch(results, requested, source, as_json)
        return
    now = time.time()
    state = survey(results, requested, now)
    if as_json:
        print(json.dumps(asdict(state), indent=1))
    else:
        terminal = console()
        terminal.print(Group(*_render(state, source, now, bars=terminal.is_terminal)))


def survey(results: Path, requested: Sequence[str] | None, now: float) -> Survey:
    """Compare `results` with the `requested` cells (None: all on disk); `now` in seconds since 1970."""
    state = Survey()
    present = {name: read_row(results / "cells" / name) for name in folders_with("row.json", results / "cells")}
    for name in requested if requested is not None else sorted(present):
        if name not in present:
            state.missing.append(name)
            files_so_far = [results / "cells" / name / file for file in CELL_STAGES.values()]
            if parts := [file.stem for file in files_so_far if file.exists()]:
                state.started[name] = parts
        elif present[name]["status"] == "ok":
            state.done.append(name)
        else:
            state.failed[name] = str(present[name]["reason"])
    state.unrequested = sorted(set(present) - set(requested)) if requested is not None else []
    state.trainings_finished = folders_with("train.json", results / "train")
    for name in folders_with("status.json", results / "state" / "train"):
        path = results / "state" / "train" / name / "status.json"
        if name in state.trainings_finished or not path.exists():  # a finished training deletes its state
            continue
        report = files.read_json(path)
        running = now - _reported_at(report) < STALE_S
        (state.trainings_running if running else state.trainings_stopped)[name] = report
    return state


def _reported_at(report: dict[str, Any]) -> float:
    return datetime.fromisoformat(report["updated_at"]).timestamp()


def _watch(results: Path, requested: Sequence[str] | None, source: str, as_json: bool) -> None:
    terminal = console()
    if as_json:
        raise typer.BadParameter("--watch and --json exclude each other")
    if not terminal.is_terminal:
        raise UserError("--watch needs a terminal: omit it, or call --json repeatedly")
    with contextlib.suppress(KeyboardInterrupt), Live(console=terminal, auto_refresh=False) as live:
        while True:
            now = time.time()
            live.update(Group(*_render(survey(results, requested, now), source, now, bars=True)), refresh=True)
            time.sleep(REFRESH_S)


def _render(state: Survey, source: str, now: float, bars: bool) -> Iterator[RenderableType]:
    """Yield the lines of a survey."""
    total = len(state.done) + len(state.failed) + len(state.missing)
    counts = f"{len(state.done)} done, {len(state.failed)} failed"
    if source:
        counts += f", {len(state.missing)} missing of {total} in {source}"
    if state.started:
        counts += f" ({len(state.started)} started)"
    if state.unrequested:
        counts += f"; {len(state.unrequested)} not in it"
    yield Text(f"cells      {counts}")
    if bars and total:
        yield ProgressBar(total=total, completed=total - len(state.missing), width=BAR_WIDTH)
    running, stopped = state.trainings_running, state.trainings_stopped
    yield Text(f"trainings  {len(state.trainings_finished)} finished, {len(running)} running, {len(stopped)} stopped")
    if state.is_empty():
        yield Text("\nthis folder is empty: start with `slimdiff run`")
    if state.reports():
        yield Text()
        yield _trainings(state, now, bars)
    failed = [f"{name}  {reason}" for name, reason in state.failed.items()]
    started = [f"{name}  {', '.join(parts)}" for name, parts in state.started.items()]
    untouched = [name for name in state.missing if name not in state.started]
    for heading, lines in (("failed", failed), ("started, with the files so far", started), ("missing", untouched)):
        if lines:
            yield Text(f"\n{heading}", style="bold")
            yield Text("\n".join(lines[:MAX_LISTED]))  # Text: a reason may hold brackets, which are markup in strings
    if max(len(state.failed), len(started), len(untouched)) > MAX_LISTED:
        yield Text("… `slimdiff status --json` lists all")


def _trainings(state: Survey, now: float, bars: bool) -> RenderableType:
    shown = table("training", *([""] * bars), "step", "of", "loss", "images/s", "last report", "left")
    for name, report in state.reports().items():
        left = duration(report["eta_s"]) if name in state.trainings_running else "stopped: the next run continues"
        bar = ProgressBar(total=report["steps"], completed=report["step"], width=BAR_WIDTH)
        values = (report["step"], report["steps"], report["loss"], report["images_per_s"])
        age = f"{duration(max(0.0, now - _reported_at(report)))} ago"
        shown.add_row(Text(name), *([bar] * bars), *map(format_value, values), age, left)
    return shown
