"""`slimdiff clean`: delete results that no configuration requests."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from slimdiff.catalog.stages import CELL_STAGES, TRAINING_STAGES
from slimdiff.cli.cells import RESULTS, Results
from slimdiff.cli.config import Configs, Presets, cells_of, read_config, sources, trainings_of
from slimdiff.cli.console import console, table
from slimdiff.config.cells import run_path
from slimdiff.errors import UserError
from slimdiff.io.text import size
from slimdiff.runtime.locks import lock

RECENT_S = 120.0  # a training that wrote its state within this time may be running, perhaps on another machine
LOGGED_STAGES = (*CELL_STAGES, "row")  # folders of logs named after cells


@dataclass
class Orphan:
    """A cell or a training that no configuration requests."""

    kind: str  # cell, training
    name: str
    paths: list[str] = field(default_factory=list)
    n_bytes: int = 0
    kept: str = ""  # why it is kept


def clean(
    presets: Presets = None,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Cells and trainings that are no longer in a matrix.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them instead of listing them.")] = False,
    results: Results = RESULTS,
    config: Configs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List or delete results that no configuration requests.

    Name the presets of all runs whose results you want to keep. Cells and trainings that neither config.yaml alone nor
    with one of the presets requests are orphans. --yes deletes them with their logs.
    """
    if not orphans:
        raise typer.BadParameter("name what to clean: --orphans")
    if not results.is_dir():
        raise UserError(f"--results {results} is not a folder: name the folder of a run")
    paths = sources(presets, config)
    if not paths:
        raise UserError("no config.yaml here, so every result would be an orphan: name one with --config")
    wanted_cells, wanted_trainings = requested_by(paths)
    orphan_list = find_orphans(results, wanted_cells, wanted_trainings, time.time())
    if yes:
        for orphan in orphan_list:
            if not orphan.kept:
                delete(results, orphan)
    if as_json:
        print(
            json.dumps(
                {"config": list(map(str, paths)), "deleted": yes, "orphans": list(map(asdict, orphan_list))}, indent=1
            )
        )
    else:
        _print_orphans(orphan_list, " + ".join(map(str, paths)), yes)


def requested_by(paths: Sequence[Path]) -> tuple[set[str], set[str]]:
    """Return the names of the cells and trainings that the base requests, alone or with any one overlay.

    Raises:
        UserError: one of these configurations requests no cell.
    """
    base, *overlays = paths
    cells: set[str] = set()
    trainings: set[str] = set()
    for group in [[base], *([base, overlay] for overlay in overlays)]:
        config = read_config(group)
        requested = cells_of(config, group)
        if not requested:
            raise UserError(f"{' + '.join(map(str, group))} requests no cell: every result would be an orphan")
        cells.update(requested)
        trainings.update(trainings_of(config, group))
    return cells, trainings


def find_orphans(results: Path, cells: set[str], trainings: set[str], now: float) -> list[Orphan]:
    """Return the cells and trainings under `results` that are in neither set, largest first."""
    orphan_list = []
    for kind, roots, wanted in (("cell", ("cells",), cells), ("training", ("train", "state/train"), trainings)):
        names = {
            path.relative_to(results / root).as_posix()
            for root in roots
            for path in (results / root).glob(run_path("*", "*", "*", "*"))
            if path.is_dir()
        }
        orphan_list += [_orphan(results, kind, roots, name, now) for name in sorted(names - wanted)]
    return sorted(orphan_list, key=lambda orphan: -orphan.n_bytes)


def delete(results: Path, orphan: Orphan) -> None:
    """Delete the orphan's folders and logs, and parent folders that become empty."""
    for text in orphan.paths:
        path = Path(text)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        for parent in path.parents[:3]:
            if parent == results or any(parent.iterdir()):
                break
            parent.rmdir()


def _orphan(results: Path, kind: str, roots: Sequence[str], name: str, now: float) -> Orphan:
    orphan = Orphan(kind, name)
    stages = LOGGED_STAGES if kind == "cell" else TRAINING_STAGES
    paths = [results / root / name for root in roots]
    paths += [results / "logs" / stage / f"{name}.log" for stage in stages]
    paths += [results / "benchmarks" / stage / f"{name}.jsonl" for stage in stages]
    for path in paths:
        if path.exists():
            orphan.paths.append(str(path))
            orphan.n_bytes += sum(file.lstat().st_size for file in _files(path))
            if path.resolve() != results.resolve() / path.relative_to(results):
                orphan.kept = f"{path} is a link or behind one"
    if kind == "training" and not orphan.kept and _runs(results / "state" / "train" / name, now):
        orphan.kept = "training is running"
    return orphan


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if not file.is_dir())
    else:
        yield path


def _runs(state: Path, now: float) -> bool:
    """Return whether a training uses `state`: it wrote recently, perhaps on another machine, or holds the lock."""
    status, held = state / "status.json", state / "lock"
    if status.exists() and now - status.stat().st_mtime < RECENT_S:
        return True
    if not held.exists():
        return False
    with held.open("r+") as file:
        return lock(file, note=True) is False


def _print_orphans(orphan_list: Sequence[Orphan], source: str, deleted: bool) -> None:
    terminal = console()
    if not orphan_list:
        terminal.print(f"no orphans: {source} requests everything")
        return
    shown = table("size", "", "")
    for column in shown.columns[1:]:
        column.justify = "left"
    for orphan in orphan_list:
        remark = f"  kept: {orphan.kept}" if orphan.kept else ""
        shown.add_row(size(orphan.n_bytes), orphan.kind, f"{orphan.name}{remark}")
    terminal.print(shown)
    deletable = [orphan for orphan in orphan_list if not orphan.kept]
    total = size(sum(orphan.n_bytes for orphan in deletable))
    if deleted:
        terminal.print(f"deleted {len(deletable)}, {total}")
    else:
        terminal.print(f"{len(deletable)} orphans of {source}, {total}: --yes deletes them")
