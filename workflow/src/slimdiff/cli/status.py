"""`slimdiff status`: what a folder of results holds, against what was asked for."""

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

from slimdiff.cli.cells import RESULTS, Results, listed, read_row
from slimdiff.cli.config import Configs, Presets, cells_of, read_config, sources
from slimdiff.cli.console import console, duration, figure, table
from slimdiff.errors import UserError
from slimdiff.io import files

STALE_S = 120.0  # a running training reports every ten seconds, more rarely only where one step takes longer
REFRESH_S = 2.0
LISTED = 20  # cells named before it says how many more there are
BAR_WIDTH = 30
PARTS = {"model.safetensors": "model", "samples.npz": "samples", "score.json": "score", "profile.json": "profile"}


@dataclass
class Survey:
    """What is there and what is not; cells are named DATASET/MODEL/OPTIMIZATION/seedN, trainings likewise."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # cell → reason
    missing: list[str] = field(default_factory=list)
    begun: dict[str, list[str]] = field(default_factory=dict)  # of the missing → what is there already
    unasked: list[str] = field(default_factory=list)  # on disk, but not in the matrix
    trainings_finished: list[str] = field(default_factory=list)
    trainings_running: dict[str, dict[str, Any]] = field(default_factory=dict)  # training → its last report
    trainings_stopped: dict[str, dict[str, Any]] = field(default_factory=dict)

    def is_empty(self) -> bool:
        """Whether nothing was begun."""
        begun = self.begun or self.trainings_finished or self.reports()
        return not (self.done or self.failed or self.unasked or begun)

    def reports(self) -> dict[str, dict[str, Any]]:
        """Of the trainings that have begun and not ended, the running ones first."""
        return {**self.trainings_running, **self.trainings_stopped}


def status(
    presets: Presets = None,
    results: Results = RESULTS,
    config: Configs = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Show what is done, failed, missing or running.

    Of a training that runs: its step, its loss and how long it will take.
    """
    if not results.is_dir():
        raise UserError(
            f"--results {results} is no folder: begin with `slimdiff run`, or name the folder that a run wrote into"
        )
    paths = sources(presets, config)
    requested = cells_of(read_config(paths), paths) if paths else None
    source = " + ".join(map(str, paths))
    if watch:
        _watch(results, requested, source, as_json)
        return
    now = time.time()
    found = survey(results, requested, now)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        terminal = console()
        terminal.print(Group(*_shown(found, source, now, bars=terminal.is_terminal)))


def survey(results: Path, requested: Sequence[str] | None, now: float) -> Survey:
    """What `results` holds, against the cells `asked` for (None: whatever is there); `now` in seconds since 1970."""
    found = Survey()
    present = {name: read_row(results / "cells" / name) for name in listed(results / "cells", "row.json")}
    for name in requested if requested is not None else sorted(present):
        if name not in present:
            found.missing.append(name)
            if parts := [part for file, part in PARTS.items() if (results / "cells" / name / file).exists()]:
                found.begun[name] = parts
        elif present[name]["status"] == "ok":
            found.done.append(name)
        else:
            found.failed[name] = str(present[name]["reason"])
    found.unasked = sorted(set(present) - set(requested)) if requested is not None else []
    found.trainings_finished = listed(results / "train", "train.json")
    for name in listed(results / "state" / "train", "status.json"):
        path = results / "state" / "train" / name / "status.json"
        if name in found.trainings_finished or not path.exists():  # a training that ends takes its state away
            continue
        report = files.read_json(path)
        running = now - _reported_at(report) < STALE_S
        (found.trainings_running if running else found.trainings_stopped)[name] = report
    return found


def _reported_at(report: dict[str, Any]) -> float:
    return datetime.fromisoformat(report["updated_at"]).timestamp()


def _watch(results: Path, requested: Sequence[str] | None, source: str, as_json: bool) -> None:
    terminal = console()
    if as_json:
        raise typer.BadParameter("--watch is for people and --json for programs: choose one")
    if not terminal.is_terminal:
        raise UserError("--watch needs a terminal: leave it out, or ask for --json as often as you like")
    with contextlib.suppress(KeyboardInterrupt), Live(console=terminal, auto_refresh=False) as live:
        while True:
            now = time.time()
            live.update(Group(*_shown(survey(results, requested, now), source, now, bars=True)), refresh=True)
            time.sleep(REFRESH_S)


def _shown(found: Survey, source: str, now: float, bars: bool) -> Iterator[RenderableType]:
    """The lines of a survey."""
    total = len(found.done) + len(found.failed) + len(found.missing)
    counts = f"{len(found.done)} done, {len(found.failed)} failed"
    if source:
        counts += f", {len(found.missing)} missing of the {total} that {source} asks for"
    if found.begun:
        counts += f" ({len(found.begun)} begun)"
    if found.unasked:
        counts += f"; {len(found.unasked)} more that it does not"
    yield Text(f"cells      {counts}")
    if bars and total:
        yield ProgressBar(total=total, completed=total - len(found.missing), width=BAR_WIDTH)
    running, stopped = found.trainings_running, found.trainings_stopped
    yield Text(f"trainings  {len(found.trainings_finished)} finished, {len(running)} running, {len(stopped)} stopped")
    if found.is_empty():
        yield Text("\nnothing was run into this folder yet: `slimdiff run` begins")
    if found.reports():
        yield Text()
        yield _trainings(found, now, bars)
    failed = [f"{name}  {reason}" for name, reason in found.failed.items()]
    begun = [f"{name}  {', '.join(parts)}" for name, parts in found.begun.items()]
    untouched = [name for name in found.missing if name not in found.begun]
    for heading, lines in (("failed", failed), ("begun, with what is there", begun), ("missing", untouched)):
        if lines:
            yield Text(f"\n{heading}", style="bold")
            yield Text("\n".join(lines[:LISTED]))  # a reason may hold brackets, which are markup elsewhere
    if max(len(found.failed), len(begun), len(untouched)) > LISTED:
        yield Text("… `slimdiff status --json` lists all")


def _trainings(found: Survey, now: float, bars: bool) -> RenderableType:
    shown = table("training", *([""] * bars), "step", "of", "loss", "images/s", "last report", "left")
    for name, report in found.reports().items():
        left = duration(report["eta_s"]) if name in found.trainings_running else "stopped: the next run goes on"
        bar = ProgressBar(total=report["steps"], completed=report["step"], width=BAR_WIDTH)
        figures = (report["step"], report["steps"], report["loss"], report["images_per_s"])
        age = f"{duration(max(0.0, now - _reported_at(report)))} ago"
        shown.add_row(Text(name), *([bar] * bars), *map(figure, figures), age, left)
    return shown
