"""`slimdiff matrix`: the matrix so far, while a run goes on or after one in which jobs failed.

It reads rows and writes into another folder, without Snakemake, so it disturbs no run and needs no lock.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from slimdiff.cli.cells import RESULTS, Results
from slimdiff.cli.config import BASE, Configs, Presets, read_config, sources
from slimdiff.cli.console import console, figure, table
from slimdiff.cli.run import find_root
from slimdiff.config import resolve
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
)  # columns that are printed
LISTED = 20  # missing cells named before it says how many more there are
LAST_BYTES = 4096  # of a log, in which its last line is looked for
# The stages of a cell in their order, and what each writes last; a training's come before them.
STAGES = {"compress": "model.safetensors", "sample": "samples.npz", "score": "score.json", "profile": "profile.json"}
PAPER = Path("workflow/resources/paper_reference.csv")


@dataclass
class SoFar:
    """The rows that are there, in the order of the matrix, and why each other cell has none."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # DATASET/MODEL/OPTIMIZATION/seedN → how far it is


def matrix(
    presets: Presets = None,
    results: Results = RESULTS,
    config: Configs = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A folder for the matrix, claims, tables and page so far; not that of the run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Show or write the matrix so far.

    At any time, also beside a run: the rows that are there, and why the other cells have none yet.
    """
    paths = sources(presets, config)
    if not paths:
        raise UserError(
            f"there is no {BASE} here: go to your clone, or name the files that a run was given as --config"
        )
    if not results.is_dir():
        raise UserError(
            f"--results {results} is no folder: begin with `slimdiff run`, or name the folder that a run wrote into"
        )
    requested = read_config(paths)
    try:
        found = gather(results, requested)
    except (KeyError, TypeError):
        raise UserError(
            f"{', '.join(map(str, paths))}: not a configuration that a run could use; "
            "`slimdiff run --dry-run` says what is wrong with it"
        ) from None
    if out is not None:
        write(found, results, requested, out)
    if as_json:
        print(json.dumps({"rows": found.rows, "missing": found.missing}, indent=1))
    else:
        _print(found, out)


def gather(results: Path, config: Mapping[str, Any]) -> SoFar:
    """The rows below `results` of the cells that `config` asks for.

    A row counts when its samples and the record of its training lie beside it: Snakemake takes those away first where
    it makes a cell anew.
    """
    from slimdiff.analysis import matrix as analysis

    trainings = resolve.matrix_settings(config)["trainings"]
    found = SoFar()
    for cell in expand(config["matrix"]):
        name = cell.path
        training = run_path(cell.dataset, cell.model, trainings[cell.optimization], cell.seed)
        folder = results / "cells" / cell.path
        needed = (folder / "row.json", folder / "samples.npz", results / "train" / training / "train.json")
        if not all(path.exists() for path in needed):
            found.missing[name] = whereabouts(results, name, training)
            continue
        try:
            found.rows += analysis.read_rows(results / "cells", [cell], trainings)
        except UserError as error:  # it was taken away just now, or it is of other settings
            found.missing[name] = str(error)
    return found


def whereabouts(results: Path, cell: str, training: str) -> str:
    """Which stage a cell without a row has come to, and the last that this stage's log says."""
    stages = {stage: results / "cells" / cell / name for stage, name in STAGES.items()}
    first = "finetune" if (results / "logs" / "finetune" / f"{training}.log").exists() else "train"
    for stage, made in {first: results / "train" / training / "train.json", **stages}.items():
        if made.exists():
            continue
        log = results / "logs" / stage / f"{training if stage == first else cell}.log"
        if not log.exists():
            return f"waits for {stage}"
        last = last_line(log)
        return f"{stage} began and has not ended; {log} ends with: {last}" if last else f"{stage} began, {log} is empty"
    return "waits for its row"


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        lines = file.read().decode(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def write(found: SoFar, results: Path, config: Mapping[str, Any], out: Path) -> None:
    """Write matrix.parquet, claims.json, tables/ and report.html of the rows so far into `out`.

    Raises:
        UserError: there is no row yet, or `out` is the folder of the run.
    """
    from slimdiff.analysis import findings
    from slimdiff.analysis import matrix as analysis
    from slimdiff.analysis.claims import file as claimfile
    from slimdiff.analysis.claims import verdicts
    from slimdiff.report.page import build
    from slimdiff.report.tables import write as tables

    if out.resolve() == results.resolve():
        raise UserError(
            f"--out {out} is the run's own folder, which the run writes: name another, such as {out}/so-far"
        )
    if not found.rows:
        raise UserError(f"no cell under {results / 'cells'} has a row yet: ask again later, or see `slimdiff status`")
    root = find_root(Path.cwd())
    source = analysis.provenance(resolve.provenance(config), "rows so far") | {"missing": found.missing}
    analysis.write_matrix(out / "matrix.parquet", analysis.to_frame(found.rows), source)
    matrix, paper = analysis.read_matrix(out / "matrix.parquet"), analysis.read_paper(root / PAPER)
    claims = claimfile.read(path if (path := Path(name)).is_absolute() else root / name for name in config["claims"])
    record = verdicts.to_json(matrix, verdicts.evaluate_claims(matrix, paper, claims))
    files.write_json(out / "claims.json", record)
    statistics = findings.find(matrix)
    tables.write_tables(matrix, statistics, paper, record, out / "tables")
    folders = (out / "tables", results / "cells", results / "train", results / "benchmarks")
    files.write_text(out / "report.html", build.build(matrix, statistics, paper, record, *folders))


def _print(found: SoFar, out: Path | None) -> None:
    terminal = console()
    shown = table("cell", *SHOWN, "status")
    for row in found.rows:
        name = run_path(row["dataset"], row["model"], row["optimization"], row["seed"])
        state = row["status"] if row["status"] == "ok" else f"{row['status']}: {row['reason']}"
        shown.add_row(Text(name), *(figure(row[column]) for column in SHOWN), Text(state))
    if found.rows:
        terminal.print(shown)
    total = len(found.rows) + len(found.missing)
    failed = sum(row["status"] == "failed" for row in found.rows)
    summary = (
        f"\n{len(found.rows)} of {total} cells are there, {failed} of them failed; {len(found.missing)} are missing"
    )
    terminal.print(Text(summary + (f"\nwritten into {out}" if out else "")))
    for name, state in list(found.missing.items())[:LISTED]:
        terminal.print(Text(f"{name}  {state}"))
    if len(found.missing) > LISTED:
        terminal.print(f"… `slimdiff matrix --json` lists all {len(found.missing)}")
