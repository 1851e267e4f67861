"""`slimdiff publish`: a finished run as a folder of docs/results, and the page of the paper over all of them."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimdiff.analysis.columns import KEY
from slimdiff.cli.analyze import read_rules
from slimdiff.cli.cells import RESULTS, Results
from slimdiff.cli.config import BASE, complete_preset, read_config, sources
from slimdiff.cli.console import console
from slimdiff.cli.matrix import gather
from slimdiff.config import resolve
from slimdiff.config.axes import expand_axes
from slimdiff.config.cells import Cell, expand, run_path
from slimdiff.config.pretrained import fill_pretrained
from slimdiff.errors import UserError
from slimdiff.io import files, settings

if TYPE_CHECKING:
    from slimdiff.analysis.matrix import Matrix

DEFAULT = "default"  # name of the study of config.yaml alone
STUDIES, PAPER_PAGE = Path("docs/results"), "paper.md"


def publish(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]",
            help=f"A preset, such as slim, whose finished run is in --results; {DEFAULT}: config.yaml alone.",
            autocompletion=complete_preset,
            show_default=False,
        ),
    ] = None,
    results: Results = RESULTS,
    rows: Annotated[
        list[Path] | None,
        typer.Option(
            "--rows",
            metavar="MATRIX",
            help="Matrix of a run elsewhere, such as of other seeds, for cells that --results lacks; repeatable.",
        ),
    ] = None,
    so_far: Annotated[
        bool, typer.Option("--so-far", help="Publish the finished cells of a run that is not whole.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of the published studies.")] = STUDIES,
) -> None:
    """Publish a finished run: its matrix, tables, figures, verdicts and page, in OUT/STUDY.

    Replaces what is generated there, and keeps what you wrote in its README.md. Refuses results that are not whole,
    but for --so-far. Then, or alone without STUDY, writes OUT/paper.md: every number and claim of the paper over all
    studies in OUT.
    """
    if not BASE.is_file():
        raise UserError(f"no {BASE} here: change to your clone")
    if study is not None:
        _publish(study, results, rows or [], so_far, out)
    elif rows or so_far:
        option = f"--rows {rows[0]}" if rows else "--so-far"
        raise UserError(f"{option} needs a STUDY: slimdiff publish STUDY {option}")
    text = paper_page(out)
    files.write_text(out / PAPER_PAGE, text)
    console().print(f"{out / PAPER_PAGE}: {len(text.splitlines())} lines")


def paper_page(studies: Path) -> str:
    """Return the page of the paper's numbers over all matrices in the folder `studies`, by the rules of config.yaml."""
    from slimdiff.analysis import findings
    from slimdiff.analysis.claims import verdicts
    from slimdiff.analysis.matrix import read_matrix
    from slimdiff.report.tables import paper_rows

    paper, claims, margins = read_rules(read_config([BASE]), [BASE])
    read = []
    for path in sorted(studies.glob("*/matrix.parquet")):
        matrix = read_matrix(path)
        own = verdicts.evaluate_claims(matrix, paper, claims, margins)
        read.append(paper_rows.Study(path.parent.name, matrix, findings.find(matrix, margins), own))
    return paper_rows.page(read, paper, claims)


def _publish(study: str, results: Path, others: Sequence[Path], so_far: bool, out: Path) -> None:
    from slimdiff.analysis import findings
    from slimdiff.analysis.claims import verdicts
    from slimdiff.analysis.matrix import write_matrix
    from slimdiff.report import study as published
    from slimdiff.report.figures import timeline

    paths = sources([study] if study != DEFAULT else None, None)
    name, preset = (study, None) if study == DEFAULT else (paths[-1].stem, paths[-1].as_posix())
    config = read_config(paths)
    run = "slimdiff run" if preset is None else f"slimdiff run {study}"
    matrix = _read_run(results, others, so_far, config, paths, run)
    paper, claims, margins = read_rules(config, paths)
    record = verdicts.to_json(matrix, verdicts.evaluate_claims(matrix, paper, claims, margins), margins)
    found = findings.find(matrix, margins)
    jobs = timeline.read_jobs(results / "benchmarks", results / "train", matrix.frame)
    old = {path.name: path for path in (out / name).iterdir()} if (out / name).is_dir() else {}
    kept = [path for path in old.values() if not published.written(path.name)]
    with files.replace_folder(out / name) as fresh:
        write_matrix(fresh / published.MATRIX, matrix.frame, matrix.provenance)
        published.write(fresh, matrix, found, paper, record, jobs, results / "cells")
        names = {path.name for path in fresh.iterdir()}
        block = published.block(study, preset, matrix, found, record, jobs, names)
        existing = old[published.PAGE].read_text(encoding="utf-8") if published.PAGE in old else None
        files.write_text(fresh / published.PAGE, published.page(name, block, existing))
        for path in kept:
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, fresh / path.name)
    console().print(f"{out / name}: {len(matrix.frame)} cells, {len(names) + 1} files")
    if kept:
        console().print(f"kept, since publish does not write it: {', '.join(sorted(path.name for path in kept))}")


def _read_run(
    results: Path, others: Sequence[Path], partial: bool, config: dict[str, Any], paths: Sequence[Path], run: str
) -> "Matrix":
    """Return the matrix of the run of `config`, read from `paths`; `run` is the command that completes it.

    Args:
        others: matrices with rows of cells that `results` lacks.
        partial: whether cells may be missing.

    Raises:
        UserError: a cell is missing, was made with other settings or other code, or is not in the matrix.
    """
    from slimdiff.analysis.matrix import Matrix, read_matrix, to_frame

    folder = results / "cells"
    try:
        config = expand_axes(fill_pretrained(config))
        cells, so_far = expand(config["matrix"]), gather(results, config)
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{', '.join(map(str, paths))}: invalid configuration; `{run} --dry-run` says why") from None
    rows = {Cell(*(row[key] for key in KEY)): (row, folder) for row in so_far.rows}
    elsewhere, sources = _read_rows(others)
    missing = {cell.path: so_far.missing[cell.path] for cell in cells if cell not in rows and cell not in elsewhere}
    if missing and not (partial and len(missing) < len(cells)):
        name, state = next(iter(missing.items()))
        n_missing = f"{len(missing)} of {len(cells)} cells have no row in {', '.join(map(str, (folder, *others)))}"
        raise UserError(f"{n_missing}, such as {name} ({state}): finish the run with `{run}`")
    found = {cell: rows.get(cell) or elsewhere[cell] for cell in cells if cell.path not in missing}
    for cell, (row, place) in found.items():
        held = {**row, "settings": settings.parse(row["settings"], f"{place}: settings of {cell.path}")}
        for key, value, yielded in _differences(resolve.row_settings(config, **asdict(cell)), held):
            raise UserError(
                f"{cell.path} in {place} is of another configuration: its {key} is {settings.canonical(value)}, "
                f"{paths[-1]} yields {settings.canonical(yielded)}; `{run}` makes it anew"
            )
    for problem in _other_code([row for row, _ in found.values()]):
        places = " and ".join(dict.fromkeys(str(place) for _, place in found.values()))
        raise UserError(f"{places} have rows of different code: {problem}; `{run}` makes the outdated ones anew")
    matrix = read_matrix(results / "matrix.parquet")
    if not matrix.frame.equals(to_frame(so_far.rows)):
        raise UserError(f"{results / 'matrix.parquet'} does not hold the rows in {folder}: `{run}` makes it anew")
    if len(rows) == len(cells):
        return matrix
    source = {**matrix.provenance, "config": resolve.provenance(config), "other_runs": sources, "missing": missing}
    return Matrix(to_frame([row for row, _ in found.values()]), matrix.units, source)


def _read_rows(paths: Sequence[Path]) -> tuple[dict[Cell, tuple[dict[str, Any], Path]], list[dict[str, Any]]]:
    """Return cell → (row, its file) of the matrices in `paths`, of the first that has the cell, and their origins.

    Raises:
        UserError: a file is no matrix of this version.
    """
    from slimdiff.analysis.matrix import read_matrix, schema_problem

    rows: dict[Cell, tuple[dict[str, Any], Path]] = {}
    origins = []
    for path in paths:
        matrix = read_matrix(path)
        if problem := schema_problem(path):
            raise UserError(f"--rows {path} {problem}; allowed: a matrix of this version, so run it again")
        for values in matrix.frame.astype(object).where(matrix.frame.notna(), None).to_dict("records"):
            row = {str(column): value for column, value in values.items()}
            rows.setdefault(Cell(*(row[key] for key in KEY)), (row, path))
        for origin in (matrix.provenance, *matrix.provenance.get("other_runs", ())):
            origins.append({name: origin[name] for name in origin.keys() - {"config", "missing", "other_runs"}})
    return rows, origins


def _differences(expected: Any, held: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, held value and expected value where `held` differs; it may have more keys at the top."""
    if not (isinstance(expected, Mapping) and isinstance(held, Mapping)):
        if settings.canonical(expected) != settings.canonical(held):
            yield key, held, expected
        return
    for name in dict.fromkeys([*expected, *(held if key else ())]):
        yield from _differences(expected.get(name), held.get(name), f"{key}.{name}" if key else name)


def _other_code(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the stages whose code differs between two rows, with both. Fine-tuning is a stage of its own."""
    seen: dict[str, tuple[str, str]] = {}
    for row in rows:
        later = "starts" in settings.parse(row["settings"])
        for stage, code in settings.parse(row["code"]).items():
            stage = "finetune" if stage == "train" and later else stage
            cell = run_path(row["dataset"], row["model"], row["optimization"], row["seed"])
            first, place = seen.setdefault(stage, (code, cell))
            if code != first:
                yield f"{stage} is {first} in {place}, {code} in {cell}"
