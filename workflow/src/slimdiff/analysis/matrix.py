"""The matrix: rows of cells, as a DataFrame with constant dtypes and as a Parquet file with its provenance."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import slimdiff
from slimdiff.analysis.columns import COLUMNS, KEY, PAPER_COLUMNS, check_row
from slimdiff.config.resolve import Cell
from slimdiff.errors import UserError
from slimdiff.io import files, records, settings
from slimdiff.io.text import one_line

FOOTER_KEY = b"slimdiff"
ROWS_KEY = "rows_sha256"  # in the footer
LIBRARIES = ("altair", "numpy", "pandas", "pyarrow", "scipy")
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # as in the schema of the configuration
NO_FORMULA = r"(?![=+\-@\t\r]).*"
_ARROW = {"string": pa.string(), "Int64": pa.int64(), "Float64": pa.float64()}


class Facts(dict[str, Any]):
    """What goes along with a frame in its `attrs`, for reading.

    pandas copies `attrs` deeply whenever it makes a frame or a column of another: with the settings of a thousand
    recipes, that took longer than all else (docs/scale.md).
    """

    def __deepcopy__(self, memo: Mapping[int, Any]) -> "Facts":
        return self


def folder(root: Path, cell: Cell) -> Path:
    """Where the files of `cell` lie under `root`, the folder of cells."""
    return root / cell.dataset / cell.model / cell.optimization / f"seed{cell.seed}"


def row_path(root: Path, cell: Cell) -> Path:
    """Where the row of `cell` lies under `root`."""
    return folder(root, cell) / "row.json"


def read_rows(root: Path, cells: Iterable[Cell], trainings: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of exactly `cells`, in their order; `trainings` says which training each optimization starts from.

    Raises:
        UserError: a row is missing, broken or another cell's. The message names the file.
    """
    rows = []
    for cell in cells:
        path = row_path(root, cell)
        row = records.read_json(path)
        problem = check_row(row)
        if problem is None:
            expected = {key: getattr(cell, key) for key in KEY} | {"training": trainings.get(cell.optimization)}
            wrong = [key for key, value in expected.items() if row[key] != value]
            problem = f"{wrong[0]} is {row[wrong[0]]!r}, expected {expected[wrong[0]]!r}" if wrong else None
        if problem:
            raise UserError(f"{path} is not a row of the matrix: {problem}; delete it and run again")
        rows.append(row)
    return rows


def to_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """`rows` with the constant columns and nullable dtypes; units in `attrs["units"]`."""
    frame = pd.DataFrame(
        {column.name: pd.array([row[column.name] for row in rows], dtype=column.dtype) for column in COLUMNS}
    )
    twice = frame.duplicated(list(KEY))
    if twice.any():
        cell = "/".join(str(value) for value in frame.loc[twice, list(KEY)].iloc[0])
        raise UserError(f"cell {cell} is listed twice in `matrix:` of the config; list each once")
    _refuse_forged(frame)
    frame.attrs["units"] = Facts({column.name: column.unit for column in COLUMNS if column.unit})
    return frame


def _refuse_forged(frame: pd.DataFrame) -> None:
    """Refuse names that would be other paths, and texts that a spreadsheet takes for formulas: no run writes them."""
    for column in COLUMNS:
        if column.dtype != "string":
            continue
        texts = frame[column.name].dropna()
        allowed = NAME if column.name in (*KEY, "training") else NO_FORMULA
        wrong = texts[~texts.str.fullmatch(allowed, flags=re.DOTALL)]
        if len(wrong):
            raise UserError(
                f"column {column.name} has {one_line(wrong.iloc[0])[:60]!r}, which no run writes; the matrix "
                "is forged or damaged: delete it and run again"
            )


def provenance(config: Mapping[str, Any], code: str) -> dict[str, Any]:
    """Where a matrix comes from, as JSON values: code (`code` is a fingerprint), config, machine, versions and date."""
    return {
        "slimdiff": slimdiff.__version__,
        "git_commit": _git_commit(),
        "code": code,
        "config": dict(config),
        "written_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "cpu_count": os.cpu_count()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
    }


def write_matrix(path: Path, frame: pd.DataFrame, source: Mapping[str, Any]) -> None:
    """Write `frame` atomically as Parquet: units and meanings with the columns, provenance `source` in the footer."""
    fields = [
        pa.field(column.name, _ARROW[column.dtype], metadata={"unit": column.unit, "meaning": column.meaning})
        for column in COLUMNS
    ]
    table = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
    footer = settings.canonical(records.seal({**source, ROWS_KEY: rows_digest(table)}))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), FOOTER_KEY: footer})
    with files.atomic(path) as temporary:
        pq.write_table(table, temporary)


def read_matrix(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The matrix in `path`; units in `attrs["units"]`, provenance in `attrs["provenance"]`.

    A file of an older slimdiff may lack columns that came later: they are null, as what a run did not measure.

    Raises:
        UserError: the file is missing, is no Parquet, or holds columns that slimdiff does not know or of other types.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the workflow to make it") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{path} is not readable Parquet ({' '.join(str(error).split())}); delete it and run again"
        ) from None
    found = {field.name: field.type for field in table.schema}
    known = {column.name: _ARROW[column.dtype] for column in COLUMNS}
    needed = {column.name for column in COLUMNS if column.required}
    if len(found) != len(table.schema) or not found.items() <= known.items() or not needed <= found.keys():
        raise UserError(
            f"{path} has other columns than slimdiff {slimdiff.__version__} writes; delete it and run again"
        )
    source = _read_footer(path, table)
    missing = dict.fromkeys(known.keys() - found.keys())
    frame = to_frame([row | missing for row in table.to_pylist()])
    frame.attrs["provenance"] = Facts(source)
    return frame


def rows_digest(table: pa.Table) -> str:
    """SHA-256 of the values of a matrix."""
    return hashlib.sha256(json.dumps(table.to_pydict(), sort_keys=True).encode()).hexdigest()


def _read_footer(path: str | os.PathLike[str], table: pa.Table) -> dict[str, Any]:
    """The provenance in a matrix's footer, after the digest of its rows was checked; {} where it has none."""
    try:
        footer = json.loads((table.schema.metadata or {}).get(FOOTER_KEY, b"{}"))
        rows = rows_digest(table)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from None
    source = records.unseal(path, footer)
    if source.pop(ROWS_KEY, rows) != rows:
        raise UserError(f"{path} is damaged (its rows do not have the digest in its footer); delete it and run again")
    return source


def read_paper(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The report's numbers, one row per line of its tables, with the dtypes of PAPER_COLUMNS."""
    try:
        frame = pd.read_csv(path, dtype={column.name: column.dtype for column in PAPER_COLUMNS})
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: it comes with slimdiff, fetch it from the repository") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not the table of the report's numbers ({error}); restore it with git") from None
    if list(frame.columns) != [column.name for column in PAPER_COLUMNS]:
        raise UserError(f"{path} must have the columns {', '.join(c.name for c in PAPER_COLUMNS)}; restore it with git")
    return frame


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of this file's repository, with "-dirty" where tracked files were edited; None outside git.

    The file must be tracked: an installed copy inside somebody's repository does not carry that repository's commit.
    """
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        edited = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if edited else "")
    except (OSError, subprocess.SubprocessError):
        return None
