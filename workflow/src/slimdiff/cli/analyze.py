"""`slimdiff analyze`: findings, verdicts, tables and figures of a matrix alone, without the run that made it."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimdiff.cli.config import BASE, Configs, Presets, read_config, sources
from slimdiff.cli.console import console
from slimdiff.cli.matrix import PAPER
from slimdiff.cli.run import find_root
from slimdiff.config import resolve
from slimdiff.errors import UserError
from slimdiff.io import files

if TYPE_CHECKING:
    import pandas as pd

    from slimdiff.analysis.claims.file import Claim
    from slimdiff.analysis.decisions import Margins
    from slimdiff.analysis.findings import Findings
    from slimdiff.analysis.matrix import Matrix


def analyze(
    matrix: Annotated[Path, typer.Argument(help="A matrix.parquet.", show_default=False)],
    presets: Presets = None,
    config: Configs = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for claims.json, tables and figures, all in one folder.")
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write only the files that --out already holds, such as published ones.")
    ] = False,
) -> None:
    """Analyze a matrix: findings on its recipes, verdicts on claims.

    Claims and margins are those of the configuration. Needs no other file of the run, so a published matrix can be
    evaluated by the rules of this version.
    """
    from slimdiff.analysis import findings
    from slimdiff.analysis.claims import verdicts
    from slimdiff.analysis.matrix import read_matrix
    from slimdiff.analysis.measures import REFERENCE

    if update and (out is None or not out.is_dir()):
        given = "is missing" if out is None else f"{out} is not a folder"
        raise UserError(f"--out {given}, and --update needs the folder to update; omit --update to write all files")
    paths = sources(presets, config)
    if not paths:
        raise UserError(f"no {BASE} here: change to your clone, or name the run's files with --config")
    measured = read_matrix(matrix)
    paper, claims, margins = read_rules(read_config(paths), paths)
    record = verdicts.to_json(measured, verdicts.evaluate_claims(measured, paper, claims, margins), margins)
    found = findings.find(measured, margins)
    if out is not None:
        with tempfile.TemporaryDirectory() as folder:
            fresh = Path(folder)
            wanted = {path.name for path in out.iterdir()} if update else None
            _write(fresh, measured, found, paper, record, wanted)
            out.mkdir(parents=True, exist_ok=True)
            for path in fresh.iterdir():
                if wanted is None or path.name in wanted:
                    with files.atomic(out / path.name) as temporary:
                        shutil.copyfile(path, temporary)
    counts = {"claims": +Counter(record["verdicts"])}
    for kind in ("images", "size", "speed"):
        counts[kind] = Counter(getattr(own, kind).finding for own in found.differences[REFERENCE].values())
    for name, counted in counts.items():
        console().print(f"{name}: " + ", ".join(f"{number} {word}" for word, number in counted.most_common()))


def read_rules(config: Mapping[str, Any], paths: Sequence[Path]) -> tuple["pd.DataFrame", "list[Claim]", "Margins"]:
    """Return the paper's numbers, and the claims and margins of `config`, which was read from `paths`.

    Raises:
        UserError: the configuration lacks claims or margins, or the working folder is not in a clone.
    """
    from slimdiff.analysis.claims import file
    from slimdiff.analysis.decisions import Margins
    from slimdiff.analysis.matrix import read_paper

    root = find_root(Path.cwd())
    try:
        margins, names = Margins(**resolve.claims_settings(config)["margins"]), list(config["claims"])
    except (KeyError, TypeError):
        raise UserError(
            f"{', '.join(map(str, paths))}: keys claims and verdicts are missing or wrong; "
            "`slimdiff run --dry-run` says why"
        ) from None
    claims = file.read(os.path.relpath(root / name) for name in names)  # no path of this machine in published tables
    return read_paper(root / PAPER), claims, margins


def _write(
    folder: Path,
    matrix: "Matrix",
    found: "Findings",
    paper: "pd.DataFrame",
    record: dict[str, Any],
    wanted: set[str] | None,
) -> None:
    """Write claims.json, tables and figures into `folder`; of the figures only those in `wanted`, if given.

    These replace published ones, so their pictures are as small as those of `slimdiff publish`.
    """
    from slimdiff.report.contents import FIGURE_FORMATS, FIGURES
    from slimdiff.report.figures import style
    from slimdiff.report.figures.write import draw
    from slimdiff.report.study import shrink
    from slimdiff.report.tables.write import write_tables

    files.write_json(folder / "claims.json", record)
    write_tables(matrix, found, paper, record, folder)
    for spec in FIGURES:
        formats = [suffix for suffix in FIGURE_FORMATS if wanted is None or f"{spec.name}.{suffix}" in wanted]
        for suffix in formats:
            path = folder / f"{spec.name}.{suffix}"
            style.save(draw(matrix, found, paper, spec), path)
            if wanted is not None and suffix == "png":
                shrink(path)
