"""The `slimdiff` command: look at results, draw samples from a cell, hold cells against each other.

It only reads what runs have written, and needs no knowledge of the workflow. Torch is loaded by `sample` alone.
"""

import difflib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slimdiff import config as configuration
from slimdiff import files
from slimdiff.analysis.columns import COLUMNS
from slimdiff.errors import UserError
from slimdiff.families import SAMPLER_CONSTANTS

STALE_S = 120.0  # a running training reports far more often than this
LISTED = 20  # cells named by `status` before it says how many more there are
MACHINE = ("device", "cpu_model", "gpu_model", "threads", "torch_version")
PROVENANCE = ("code", "settings", "started_at")

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=(__doc__ or "").strip())
Results = Annotated[Path, typer.Option("--results", help="The folder that runs write into.")]


@dataclass
class Survey:
    """What is there and what is not; cells are named DATASET/MODEL/OPTIMIZATION/seedN, trainings likewise."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # cell → reason
    missing: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)  # on disk, but not in the matrix
    trainings_finished: list[str] = field(default_factory=list)
    trainings_running: dict[str, dict[str, Any]] = field(default_factory=dict)  # training → its last report
    trainings_stopped: dict[str, dict[str, Any]] = field(default_factory=dict)


@app.command()
def status(
    results: Results = Path("results"),
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", help="What the matrix asks for; presets go on top in order. [default: config.yaml]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Which cells are done, failed or missing, and how far running trainings are."""
    if not results.is_dir():
        raise UserError(f"--results {results} is no folder: run `make` first, or name the folder that a run wrote into")
    sources = config if config is not None else [path for path in [Path("config.yaml")] if path.exists()]
    found = survey(results, read_matrix(sources) if sources else None, time.time())
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        _print_survey(found, " + ".join(map(str, sources)))


@app.command()
def sample(
    cell: Annotated[str, typer.Argument(help="DATASET/MODEL/OPTIMIZATION/seedN, its folder, or a model.safetensors.")],
    out: Annotated[Path, typer.Option("--out", help="The picture to write (.png).")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Image i depends on this and on i alone.")] = 0,
    sampler: Annotated[str | None, typer.Option("--sampler", help="Another sampler than the cell's own.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Another number of steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", min=0.0, help="Another scale of classifier-free guidance.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="A class to ask for, by name or number; several take turns. [default: all]"),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda. [default: cuda if present]")] = None,
    results: Results = Path("results"),
) -> None:
    """Draw images from a cell's model into one picture: a column for each class, or a grid as square as may be."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out} must end in .png")
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device is {device!r}; allowed: cpu, cuda")
    model = Path(cell) if Path(cell).is_file() else find_cell(cell, results) / "model.safetensors"

    import torch

    from slimdiff.checkpoint import load
    from slimdiff.devices import pick_device
    from slimdiff.images import write_png
    from slimdiff.sampling import grid

    chosen = pick_device(gpu=int(device != "cpu"), threads=torch.get_num_threads())
    if device == "cuda" and chosen.type != "cuda":
        raise UserError("--device cuda: torch finds no CUDA device here; leave --device out to use the CPU")
    loaded = load(model, chosen)
    own = loaded.settings["sampler"]["method"]
    if steps is None and sampler not in (None, own) and "steps" in SAMPLER_CONSTANTS.get(sampler, ()):
        raise UserError(f"--sampler {sampler} needs --steps: how many {own} takes in this cell says nothing about it")
    labels = find_labels(label, loaded.settings["dataset"]["classes"]) if label else None
    start = time.perf_counter()
    drawn = loaded.sample(n, seed=seed, sampler=sampler, steps=steps, guidance=guidance, labels=labels)
    seconds = time.perf_counter() - start
    if len(drawn.images):
        # One column for each class that takes its turn, else as square as may be.
        turns = len(labels) if labels else loaded.classes
        write_png(out, grid(drawn.images, columns=min(n, turns) if turns > 1 else round(n**0.5)))
    if drawn.reason:
        raise UserError(f"{model}: {drawn.reason}" + (f"; the images are in {out}" if len(drawn.images) else ""))
    print(
        f"{out}: {n} images on {chosen.type} in {seconds:.1f} s, {drawn.network_evaluations:g} network evaluations each"
    )


@app.command()
def compare(
    cells: Annotated[list[str], typer.Argument(help="Two cells or more; ratios are to the first.")],
    results: Results = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as one JSON object.")] = False,
) -> None:
    """The metrics of cells side by side, each with its ratio to the first cell's."""
    if len(cells) < 2:
        raise UserError(f"compare takes two cells or more, got {len(cells)}; `slimdiff status` lists them")
    rows = {cell: read_row(find_cell(cell, results)) for cell in cells}
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_comparison(rows)


def find_labels(asked: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The numbers of the classes `asked` for by name or number.

    Raises:
        UserError: there is no such class.
    """
    numbers = {**{str(index): index for index in range(len(classes))}, **{name: i for i, name in enumerate(classes)}}
    for label in asked:
        if label not in numbers:
            known = ", ".join(f"{index} {name}" if name != str(index) else name for index, name in enumerate(classes))
            raise UserError(f"--label {label} is no class of this model; allowed: {known}")
    return [numbers[label] for label in asked]


def survey(results: Path, asked: Sequence[str] | None, now: float) -> Survey:
    """What `results` holds, against the cells `asked` for (None: whatever is there); `now` in seconds since 1970."""
    found = Survey()
    present = {name: read_row(results / "cells" / name) for name in _listed(results / "cells", "row.json")}
    for name in asked if asked is not None else sorted(present):
        if name not in present:
            found.missing.append(name)
        elif present[name]["status"] == "ok":
            found.done.append(name)
        else:
            found.failed[name] = str(present[name]["reason"])
    found.unasked = sorted(set(present) - set(asked)) if asked is not None else []
    found.trainings_finished = _listed(results / "train", "train.json")
    for name in _listed(results / "state" / "train", "status.json"):
        if name in found.trainings_finished:
            continue
        report = files.read_json(results / "state" / "train" / name / "status.json")
        age_s = now - datetime.fromisoformat(report["updated_at"]).timestamp()
        (found.trainings_running if age_s < STALE_S else found.trainings_stopped)[name] = report
    return found


def read_matrix(paths: Sequence[Path]) -> list[str]:
    """The names of the cells that a config file asks for, with the presets after it laid on top."""
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"--config {path} does not exist") from None
        except yaml.YAMLError as error:
            raise UserError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise UserError(f"--config {path} must hold a mapping, not {type(content).__name__}")
        merged.update(content)  # of all keys only `matrix` is read, a list, which presets replace
    try:
        cells = configuration.expand(merged["matrix"])
    except (KeyError, TypeError):
        raise UserError(
            f"{', '.join(map(str, paths))}: key 'matrix' must be a list of dataset, model, optimizations and seeds; "
            "a preset without one goes on top of --config config.yaml"
        ) from None
    return [f"{cell.dataset}/{cell.model}/{cell.optimization}/seed{cell.seed}" for cell in cells]


def find_cell(cell: str, results: Path) -> Path:
    """The folder of `cell`: its path, the path of a file in it, or its name under `results`.

    Raises:
        UserError: there is none; names that look alike are offered.
    """
    for folder in (Path(cell), Path(cell).parent, results / "cells" / cell):
        if (folder / "row.json").is_file() or (folder / "model.safetensors").is_file():
            return folder
    names = sorted(set(_listed(results / "cells", "row.json") + _listed(results / "cells", "model.safetensors")))
    if not names:
        raise UserError(f"no cell {cell!r}: there are none under {results / 'cells'}; run `make`, or name --results")
    close = difflib.get_close_matches(cell, names, n=2, cutoff=0.85)
    hint = f"did you mean {' or '.join(close)}?" if close else f"`slimdiff status` names the {len(names)} there are"
    raise UserError(f"no cell {cell!r} under {results / 'cells'}: {hint}")


def read_row(folder: Path) -> dict[str, Any]:
    """A cell's row of the matrix."""
    row: dict[str, Any] = files.read_json(folder / "row.json")
    return row


def _listed(root: Path, name: str) -> list[str]:
    """Folders under `root`, four levels down, that hold a file `name`."""
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob(f"*/*/*/seed*/{name}"))


def _console() -> Console:
    """Rich fits tables to a terminal; into a pipe or a file they go in full width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=250)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position else "left", overflow="fold")
    return table


def _print_survey(found: Survey, source: str) -> None:
    console = _console()
    total = len(found.done) + len(found.failed) + len(found.missing)
    counts = f"{len(found.done)} done, {len(found.failed)} failed"
    if source:
        counts += f", {len(found.missing)} missing of the {total} that {source} asks for"
    if found.unasked:
        counts += f"; {len(found.unasked)} more that it does not"
    console.print(f"cells      {counts}")
    running, stopped = found.trainings_running, found.trainings_stopped
    console.print(
        f"trainings  {len(found.trainings_finished)} finished, {len(running)} running, {len(stopped)} stopped"
    )
    if running or stopped:
        table = _table("training", "step", "of", "loss", "images/s", "left")
        for name, report in {**running, **stopped}.items():
            left = _duration(report["eta_s"]) if name in running else "stopped: the next run goes on from here"
            figures = (report["step"], report["steps"], report["loss"], report["images_per_s"])
            table.add_row(name, *map(_figure, figures), left)
        console.print()
        console.print(table)
    failed = [f"{name}  {reason}" for name, reason in found.failed.items()]
    for heading, lines in (("failed", failed), ("missing", found.missing)):
        if lines:
            console.print(f"\n{heading}", style="bold")
            console.print(Text("\n".join(lines[:LISTED])))  # a reason may hold brackets, which are markup elsewhere
    if max(len(found.failed), len(found.missing)) > LISTED:
        console.print("… `slimdiff status --json` lists all")


def _print_comparison(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """One line per column that was measured; of names only those that differ, since they explain the figures."""
    console = _console()
    first, *others = rows
    table = _table("", first, *(heading for name in others for heading in (name, "ratio")))
    for column in COLUMNS:
        values = [row.get(column.name) for row in rows.values()]
        measured = column.dtype != "string" and column.name not in ("seed", *MACHINE)
        if column.name in PROVENANCE or (len(set(values)) == 1 and (not measured or values[0] is None)):
            continue
        others_shown = [(_figure(value), _ratio(value, values[0]) if measured else "") for value in values[1:]]
        table.add_row(column.name, _figure(values[0]), *(part for pair in others_shown for part in pair))
    console.print(table)
    for names, what in ((MACHINE, "times and memory"), (("n_samples",), "fid and rfid")):
        differing = [name for name in names if len({row.get(name) for row in rows.values()} - {None}) > 1]
        if differing:
            console.print(f"{what} do not compare: {', '.join(differing)} differ{'s' * (len(differing) == 1)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _figure(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if _is_number(value) else str(value)


def _ratio(value: Any, base: Any) -> str:
    return f"{value / base:.3g}×" if _is_number(value) and _is_number(base) and base else "–"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def main() -> None:
    """Run the command; what the user can mend is one line and exit code 1."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
