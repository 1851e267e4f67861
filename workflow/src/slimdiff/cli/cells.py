"""Cells in a folder of results: their names, their folders and their records. Nothing here loads torch."""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from slimdiff.config.cells import run_path
from slimdiff.errors import UserError
from slimdiff.io import records

RESULTS = Path("results")
MODEL_SUFFIXES = (".safetensors", ".packed")
MAX_HEADER_BYTES = 100 << 20  # what safetensors itself allows


def complete_cell(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell's completion: cells that begin so."""
    return [name for name in cell_names(context.params.get("results") or RESULTS) if name.startswith(incomplete)]


Results = Annotated[Path, typer.Option("--results", help="The folder that runs write into.")]
CellName = Annotated[
    str,
    typer.Argument(
        metavar="CELL",
        help="DATASET/MODEL/OPTIMIZATION/seedN, its folder, or a file in it.",
        autocompletion=complete_cell,
        show_default=False,
    ),
]
CellNames = Annotated[
    list[str],
    typer.Argument(
        metavar="CELL CELL...",
        help="Two cells or more; ratios are to the first.",
        autocompletion=complete_cell,
        show_default=False,
    ),
]


def listed(root: Path, name: str) -> list[str]:
    """Folders under `root`, four levels down, that hold a file `name`."""
    return sorted(
        path.parent.relative_to(root).as_posix() for path in root.glob(run_path("*", "*", "*", f"*/{name}"))
    )


def cell_names(results: Path) -> list[str]:
    """Every cell that has a row or a model."""
    return sorted({name for file in ("row.json", "model.safetensors") for name in listed(results / "cells", file)})


def find_cell(cell: str, results: Path) -> Path:
    """The folder of `cell`: its path, the path of a file in it, or its name under `results`.

    Raises:
        UserError: there is none; names that look alike are offered.
    """
    for folder in (Path(cell), Path(cell).parent, results / "cells" / cell):
        if (folder / "row.json").is_file() or (folder / "model.safetensors").is_file():
            return folder
    names = cell_names(results)
    if not names:
        raise UserError(
            f"no cell {cell!r}: there are none under {results / 'cells'}; `slimdiff run` makes some, or name --results"
        )
    close = difflib.get_close_matches(cell, names, n=2, cutoff=0.85)
    hint = f"did you mean {' or '.join(close)}?" if close else f"`slimdiff status` names the {len(names)} there are"
    raise UserError(f"no cell {cell!r} under {results / 'cells'}: {hint}")


def find_model(cell: str, results: Path) -> Path:
    """The model of `cell`, which may also be the path of any model's file."""
    return Path(cell) if Path(cell).suffix in MODEL_SUFFIXES else find_cell(cell, results) / "model.safetensors"


def name_of(folder: Path) -> str:
    """A cell's name: the last four parts of its folder's path."""
    return "/".join(folder.resolve().parts[-4:])


def read_row(folder: Path) -> dict[str, Any]:
    """A cell's row of the matrix."""
    return records.read_json(folder / "row.json")


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, None where there is no such file."""
    return records.read_json(path) if path.is_file() else None


def read_model_header(path: Path) -> dict[str, Any]:
    """What a model's file says of itself, without its tensors and without torch; they are not verified.

    Raises:
        UserError: the file is damaged or is no model.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        found: dict[str, Any] = json.loads(header["__metadata__"]["slimdiff"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged or no model ({error or type(error).__name__}): delete it and run again to rebuild it"
        ) from None
    return found
