"""`slimdiff matrix`: the rows so far, during a run or after jobs failed.

Reads rows and writes into another folder without Snakemake, so it needs no lock and cannot disturb a run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from slimdiff.catalog.stages import CELL_STAGES, TRAINING_STAGES
from slimdiff.cli.cells import RESULTS, Results
from slimdiff.cli.config import BASE, Configs, Presets, read_config, sources
from slimdiff.cli.console import console, format_value, table
from slimdiff.cli.run import find_root
from slimdiff.config import resolve
from slimdiff.config.axes import expand_axes
from slimdiff.config.cells import expand, run_path
from slimdiff.errors import UserError
from slimdiff.io import files

SHOWN = (
    "fid_indomain",
    "fid_indomain_pct",
    "size_gzip_bytes",
    "inference_ms_per_image",
    "speedup",
    "train_s",
)
MAX_LISTED = 20  # missing cells to list
LAST_BYTES = 4096  # end of a log that is searched for the last line
PAPER = Path("workflow/resources/paper_reference.csv")


@dataclass
class SoFar:
    """The rows written so far, in the order of the matrix, and the state of the other cells."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # DATASET/MODEL/OPTIMIZATION/seedN → state


def matrix(
    presets: Presets = None,
    results: Results = RESULTS,
    config: Configs = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for matrix, claims, tables and page so far; not the folder of the run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or write the matrix so far.

    Works at any time, even during a run: shows the rows so far, and why the other cells have none.
    """
    paths = sources(presets, config)
    if not paths:
        raise UserError(f"no {BASE} here: change to your clone, or name the run's files with --config")
    if not results.is_dir():
        raise UserError(f"--results {results} is not a folder: start with `slimdiff run`, or name the folder of a run")
    merged = read_config(paths)
    try:
        merged = expand_axes(merged)
        so_far = gather(results, merged)
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f"{', '.join(map(str, paths))}: invalid configuration; `slimdiff run --dry-run` says why"
        ) from None
    if out is not None:
        write(so_far, results, merged, out)
    if as_json:
        print(json.dumps({"rows": so_far.rows, "missing": so_far.missing}, indent=1))
    else:
        _print(so_far, out)


def gather(results: Path, config: Mapping[str, Any]) -> SoFar:
    """Return the rows under `results` of the cells in the matrix of `config`.

    A row counts only with its samples and its training's record, which Snakemake deletes first when it remakes a cell.
    """
    from slimdiff.analysis.matrix import read_rows

    trainings = resolve.matrix_settings(config)["trainings"]
    so_far = SoFar()
    for cell in expand(config["matrix"]):
        name = cell.path
        training = run_path(cell.dataset, cell.model, trainings[cell.optimization], cell.seed)
        folder = results / "cells" / cell.path
        needed = (folder / "row.json", folder / "samples.npz", results / "train" / training / "train.json")
        if not all(path.exists() for path in needed):
            so_far.missing[name] = describe_progress(results, name, training)
            continue
        try:
            so_far.rows += read_rows(results / "cells", [cell], trainings)
        except UserError as error:  # just deleted, or of other settings
            so_far.missing[name] = str(error)
    return so_far


def describe_progress(results: Path, cell: str, training: str) -> str:
    """Return the stage that a cell without a row has reached, with the last line of its log."""
    stages = {stage: results / "cells" / cell / name for stage, name in CELL_STAGES.items()}
    logs = results / "logs"
    first = next((stage for stage in TRAINING_STAGES if (logs / stage / f"{training}.log").exists()), "train")
    for stage, output in {first: results / "train" / training / "train.json", **stages}.items():
        if output.exists():
            continue
        log = results / "logs" / stage / f"{training if stage == first else cell}.log"
        if not log.exists():
            return f"waiting for {stage}"
        last = last_line(log)
        return (
            f"{stage} has started and not finished; {log} ends with: {last}"
            if last
            else f"{stage} has started, {log} is empty"
        )
    return "waiting for its row"


def last_line(log: Path) -> str:
    """Return the last non-empty line of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        lines = file.read().decode(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def write(so_far: SoFar, results: Path, config: Mapping[str, Any], out: Path) -> None:
    """Write matrix.parquet, claims.json, tables/ and report.html of the rows so far into `out`.

    Raises:
        UserError: no rows exist, or `out` is the folder of the run.
    """
    from slimdiff.analysis import findings
    from slimdiff.analysis.claims import file, verdicts
    from slimdiff.analysis.decisions import Margins
    from slimdiff.analysis.matrix import provenance, read_matrix, read_paper, to_frame, write_matrix
    from slimdiff.report.page import build
    from slimdiff.report.tables.write import write_tables

    if out.resolve() == results.resolve():
        raise UserError(f"--out {out} is the folder of the run: name another, such as {out}/so-far")
    if not so_far.rows:
        raise UserError(f"no cell under {results / 'cells'} has a row yet: try again later, or see `slimdiff status`")
    root = find_root(Path.cwd())
    source = provenance(resolve.provenance(config), "rows so far") | {"missing": so_far.missing}
    write_matrix(out / "matrix.parquet", to_frame(so_far.rows), source)
    matrix, paper = read_matrix(out / "matrix.parquet"), read_paper(root / PAPER)
    claims = file.read(path if (path := Path(name)).is_absolute() else root / name for name in config["claims"])
    margins = Margins(**resolve.claims_settings(config)["margins"])
    record = verdicts.to_json(matrix, verdicts.evaluate_claims(matrix, paper, claims, margins), margins)
    files.write_json(out / "claims.json", record)
    statistics = findings.find(matrix, margins)
    write_tables(matrix, statistics, paper, record, out / "tables")
    folders = (out / "tables", results / "cells", results / "train", results / "benchmarks")
    files.write_text(out / "report.html", build.build(matrix, statistics, paper, record, *folders))


def _print(so_far: SoFar, out: Path | None) -> None:
    from slimdiff.analysis.decisions import DISTURBED
    from slimdiff.analysis.statistics import TIMES

    terminal = console()
    shown = table("cell", *SHOWN, "status")
    for row in so_far.rows:
        name = run_path(row["dataset"], row["model"], row["optimization"], row["seed"])
        state = row["status"] if row["status"] == "ok" else f"{row['status']}: {row['reason']}"
        lost = TIMES if row["disturbed"] else ()
        values = [DISTURBED if column in lost else format_value(row[column]) for column in SHOWN]
        shown.add_row(Text(name), *values, Text(state))
    if so_far.rows:
        terminal.print(shown)
    total = len(so_far.rows) + len(so_far.missing)
    failed = sum(row["status"] == "failed" for row in so_far.rows)
    summary = f"\n{len(so_far.rows)} of {total} cells done, {failed} of them failed; {len(so_far.missing)} missing"
    terminal.print(Text(summary + (f"\nwritten to {out}" if out else "")))
    for name, state in list(so_far.missing.items())[:MAX_LISTED]:
        terminal.print(Text(f"{name}  {state}"))
    if len(so_far.missing) > MAX_LISTED:
        terminal.print(f"… `slimdiff matrix --json` lists all {len(so_far.missing)}")
