"""`slimdiff clean`: results that nothing asks for any more."""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from slimdiff.cli.cells import RESULTS, Results
from slimdiff.cli.config import Configs, Presets, cells_of, read_config, sources, trainings_of
from slimdiff.cli.console import console, size, table
from slimdiff.config.cells import run_path
from slimdiff.errors import UserError

RECENT_S = 120.0  # a state that was written since belongs to a training that may still run, perhaps elsewhere
CELL_STAGES = ("compress", "sample", "score", "profile", "row")  # whose logs bear a cell's name


@dataclass
class Orphan:
    """A cell or a training that is not asked for."""

    kind: str  # cell, training
    name: str
    paths: list[str] = field(default_factory=list)
    n_bytes: int = 0
    kept: str = ""  # why it must not be deleted


def clean(
    presets: Presets = None,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Cells and trainings that the matrix no longer asks for.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them. Without this they are listed only.")] = False,
    results: Results = RESULTS,
    config: Configs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """List or delete results that nothing asks for.

    Name the presets of every run whose results you want to keep: what neither config.yaml alone nor one of them on
    top of it asks for is an orphan, and goes with its logs. Nothing is deleted without --yes.
    """
    if not orphans:
        raise typer.BadParameter("say what to clean: --orphans")
    if not results.is_dir():
        raise UserError(f"--results {results} is no folder: name the folder that a run wrote into")
    paths = sources(presets, config)
    if not paths:
        raise UserError("there is no config.yaml here, so every result would be an orphan: name one with --config")
    wanted_cells, wanted_trainings = asked_for(paths)
    found = find_orphans(results, wanted_cells, wanted_trainings, time.time())
    if yes:
        for orphan in found:
            if not orphan.kept:
                delete(results, orphan)
    if as_json:
        print(
            json.dumps({"config": list(map(str, paths)), "deleted": yes, "orphans": list(map(asdict, found))}, indent=1)
        )
    else:
        _print_orphans(found, " + ".join(map(str, paths)), yes)


def asked_for(paths: Sequence[Path]) -> tuple[set[str], set[str]]:
    """Names of the cells and trainings that the base alone or with any one preset on top of it asks for.

    Raises:
        UserError: one of them asks for no cell at all.
    """
    base, *overlays = paths
    cells: set[str] = set()
    trainings: set[str] = set()
    for group in [[base], *([base, overlay] for overlay in overlays)]:
        config = read_config(group)
        requested = cells_of(config, group)
        if not requested:
            raise UserError(f"{' + '.join(map(str, group))} asks for no cell at all: every result would be an orphan")
        cells.update(requested)
        trainings.update(trainings_of(config, group))
    return cells, trainings


def find_orphans(results: Path, cells: set[str], trainings: set[str], now: float) -> list[Orphan]:
    """What lies under `results` and is in neither set, the largest first."""
    found = []
    for kind, roots, wanted in (("cell", ("cells",), cells), ("training", ("train", "state/train"), trainings)):
        names = {
            path.relative_to(results / root).as_posix()
            for root in roots
            for path in (results / root).glob(run_path("*", "*", "*", "*"))
            if path.is_dir()
        }
        found += [_orphan(results, kind, roots, name, now) for name in sorted(names - wanted)]
    return sorted(found, key=lambda orphan: -orphan.n_bytes)


def delete(results: Path, orphan: Orphan) -> None:
    """Remove the orphan's folders, its logs and the folders above them that are then empty."""
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
    stages = CELL_STAGES if kind == "cell" else ("train", "finetune")
    paths = [results / root / name for root in roots]
    paths += [results / "logs" / stage / f"{name}.log" for stage in stages]
    paths += [results / "benchmarks" / stage / f"{name}.jsonl" for stage in stages]
    for path in paths:
        if path.exists():
            orphan.paths.append(str(path))
            orphan.n_bytes += sum(file.lstat().st_size for file in _files(path))
            if path.resolve() != results.resolve() / path.relative_to(results):
                orphan.kept = f"{path} is a link or lies behind one"
    if kind == "training" and not orphan.kept and _runs(results / "state" / "train" / name, now):
        orphan.kept = "it is being trained"
    return orphan


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if not file.is_dir())
    else:
        yield path


def _runs(state: Path, now: float) -> bool:
    """Whether somebody trains here: the lock is held, or, where locks of other machines are not seen, lately wrote."""
    status, lock = state / "status.json", state / "lock"
    if status.exists() and now - status.stat().st_mtime < RECENT_S:
        return True
    if not lock.exists():
        return False
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _print_orphans(found: Sequence[Orphan], source: str, deleted: bool) -> None:
    terminal = console()
    if not found:
        terminal.print(f"no orphans: {source} asks for all that is there")
        return
    shown = table("size", "", "")
    for column in shown.columns[1:]:
        column.justify = "left"
    for orphan in found:
        remark = f"  kept: {orphan.kept}" if orphan.kept else ""
        shown.add_row(size(orphan.n_bytes), orphan.kind, f"{orphan.name}{remark}")
    terminal.print(shown)
    gone = [orphan for orphan in found if not orphan.kept]
    total = size(sum(orphan.n_bytes for orphan in gone))
    if deleted:
        terminal.print(f"deleted {len(gone)}, {total}")
    else:
        terminal.print(f"{len(gone)} that {source} does not ask for, {total}: --yes deletes them")
