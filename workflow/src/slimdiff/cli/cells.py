"""Cells in a folder of results: names, folders and records, without torch."""

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from slimdiff.config.cells import run_path
from slimdiff.errors import UserError
from slimdiff.io import records

RESULTS = Path("results")
MODEL_SUFFIXES = (".safetensors", ".packed")


def complete_cell(context: typer.Context, incomplete: str) -> list[str]:
    """Return the cells that start with `incomplete`, for shell completion."""
    return [name for name in cell_names(context.params.get("results") or RESULTS) if name.startswith(incomplete)]


Results = Annotated[Path, typer.Option("--results", help="Folder of results.")]
CellName = Annotated[
    str,
    typer.Argument(
        metavar="CELL",
        help="DATASET/MODEL/OPTIMIZATION/seedN, the cell's folder, or a file in it.",
        autocompletion=complete_cell,
        show_default=False,
    ),
]
CellNames = Annotated[
    list[str],
    typer.Argument(
        metavar="CELL CELL...",
        help="Two or more cells; ratios are relative to the first.",
        autocompletion=complete_cell,
        show_default=False,
    ),
]


def folders_with(name: str, root: Path) -> list[str]:
    """Return the DATASET/MODEL/…/seedN folders under `root` that hold a file `name`."""
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob(run_path("*", "*", "*", f"*/{name}")))


def cell_names(results: Path) -> list[str]:
    """Return the cells that have a row or a model."""
    return sorted(
        {name for file in ("row.json", "model.safetensors") for name in folders_with(file, results / "cells")}
    )


def find_cell(cell: str, results: Path) -> Path:
    """Return the folder of `cell`: its path, the path of a file in it, or its name under `results`.

    Raises:
        UserError: no such cell; the message suggests similar names.
    """
    for folder in (Path(cell), Path(cell).parent, results / "cells" / cell):
        if (folder / "row.json").is_file() or (folder / "model.safetensors").is_file():
            return folder
    names = cell_names(results)
    if not names:
        raise UserError(f"no cell {cell!r}: {results / 'cells'} is empty. Start with `slimdiff run`, or set --results")
    close = difflib.get_close_matches(cell, names, n=2, cutoff=0.85)
    hint = f"did you mean {' or '.join(close)}?" if close else f"`slimdiff status` lists all {len(names)}"
    raise UserError(f"no cell {cell!r} under {results / 'cells'}: {hint}")


def find_model(cell: str, results: Path) -> Path:
    """Return the model file of `cell`, or `cell` itself if it is the path of a model file."""
    return Path(cell) if Path(cell).suffix in MODEL_SUFFIXES else find_cell(cell, results) / "model.safetensors"


def cell_name(folder: Path) -> str:
    """Return a cell's name: the last four parts of its folder's path."""
    return "/".join(folder.resolve().parts[-4:])


def read_row(folder: Path) -> dict[str, Any]:
    """Return a cell's row of the matrix."""
    return records.read_json(folder / "row.json")


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in `path`, None if the file is missing."""
    return records.read_json(path) if path.is_file() else None
