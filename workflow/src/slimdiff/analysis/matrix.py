"""The matrix: one row per cell, as a DataFrame with constant dtypes and as a Parquet file with provenance."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from slimdiff import __version__
from slimdiff.analysis.columns import COLUMNS, KEY, PAPER_COLUMNS, RENAMED_COLUMNS, check_row
from slimdiff.config.cells import Cell
from slimdiff.errors import UserError
from slimdiff.io import files, records, settings
from slimdiff.io.text import one_line

FOOTER_KEY = b"slimdiff"
ROWS_KEY = "rows_sha256"  # in the footer
LIBRARIES = ("altair", "numpy", "pandas", "pyarrow", "scipy")
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"  # as in the config schema
NO_FORMULA = r"(?![=+\-@\t\r]).*"  # a spreadsheet runs a cell that begins with one of these
_ARROW = {"string": pa.string(), "boolean": pa.bool_(), "Int64": pa.int64(), "Float64": pa.float64()}


@dataclass(frozen=True)
class Matrix:
    """The results of a run.

    Units and provenance are fields and not in `frame.attrs`, which pandas copies deeply for every column and selection.
    """

    frame: pd.DataFrame  # one row per cell, with exactly COLUMNS
    units: Mapping[str, str]  # column → unit, of the columns that have one
    provenance: Mapping[str, Any]  # code, config, machine, versions and date, as `provenance` returns them

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the run; empty if the provenance lacks it."""
        config: Mapping[str, Any] = self.provenance.get("config", {})
        return config


UNITS = {column.name: column.unit for column in COLUMNS if column.unit}


def row_path(root: Path, cell: Cell) -> Path:
    """Return the path of the row of `cell`; `root` is the folder of all cells."""
    return root / cell.path / "row.json"


def read_rows(root: Path, cells: Iterable[Cell], trainings: Mapping[str, str]) -> list[dict[str, Any]]:
    """Read the rows of exactly `cells`, in their order.

    Args:
        root: the folder of all cells.
        trainings: optimization → the training it uses.

    Raises:
        UserError: a row is missing, malformed or of another cell. The message names the file.
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
    """Return `rows` as a frame with exactly COLUMNS and nullable dtypes.

    Raises:
        UserError: two rows are of one cell, or a text is one that no run writes.
    """
    frame = pd.DataFrame(
        {column.name: pd.array([row[column.name] for row in rows], dtype=column.dtype) for column in COLUMNS}
    )
    duplicates = frame.duplicated(list(KEY))
    if duplicates.any():
        cell = "/".join(str(value) for value in frame.loc[duplicates, list(KEY)].iloc[0])
        raise UserError(f"cell {cell} is listed twice in `matrix:` of the config; list each once")
    _reject_tampered(frame)
    return frame


def _reject_tampered(frame: pd.DataFrame) -> None:
    """Raise UserError for names that are not safe as paths and for texts that a spreadsheet would run as formulas."""
    for column in COLUMNS:
        if column.dtype != "string":
            continue
        texts = frame[column.name].dropna()
        allowed = NAME if column.name in (*KEY, "training") else NO_FORMULA
        wrong = texts[~texts.str.fullmatch(allowed, flags=re.DOTALL)]
        if len(wrong):
            raise UserError(
                f"column {column.name} has {one_line(wrong.iloc[0])[:60]!r}, which no run writes; the matrix is "
                "tampered with or damaged: delete it and run again"
            )


def provenance(config: Mapping[str, Any], code: str) -> dict[str, Any]:
    """Return the origin of a matrix as JSON values: code (`code` is a fingerprint), config, machine, versions, date."""
    return {
        "slimdiff": __version__,
        "git_commit": _git_commit(),
        "code": code,
        "config": dict(config),
        "written_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "cpu_count": os.cpu_count()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
    }


def write_matrix(path: Path, frame: pd.DataFrame, source: Mapping[str, Any]) -> None:
    """Write `frame` atomically as Parquet with the unit and meaning of each column and provenance `source`."""
    fields = [
        pa.field(column.name, _ARROW[column.dtype], metadata={"unit": column.unit, "meaning": column.meaning})
        for column in COLUMNS
    ]
    table = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=False)
    footer = settings.canonical(records.add_digest({**source, ROWS_KEY: rows_digest(table)}))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), FOOTER_KEY: footer})
    with files.atomic(path) as temporary:
        pq.write_table(table, temporary)


def read_matrix(path: str | os.PathLike[str]) -> Matrix:
    """Read the matrix in `path`. Columns that are newer than the file are null.

    Raises:
        UserError: the file is missing or damaged, or has unknown columns or other types.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct the path, or run the workflow to make it") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{path} is not readable Parquet ({' '.join(str(error).split())}); allowed: a matrix.parquet. If a run "
            "wrote it, delete it and run again"
        ) from None
    types = {field.name: field.type for field in table.schema}
    expected = {column.name: _ARROW[column.dtype] for column in COLUMNS}
    required = {column.name for column in COLUMNS if column.required}
    if len(types) != len(table.schema) or not types.items() <= expected.items() or not required <= types.keys():
        renamed = sorted(types.keys() & RENAMED_COLUMNS.keys())
        hint = f" ({renamed[0]} is now called {RENAMED_COLUMNS[renamed[0]]})" if renamed else ""
        raise UserError(
            f"{path} has other columns than slimdiff {__version__} writes{hint}; allowed: a matrix of this version; "
            "run again, or read it with the version that wrote it"
        )
    source = _read_footer(path, table)
    missing = dict.fromkeys(expected.keys() - types.keys())
    return Matrix(to_frame([row | missing for row in table.to_pylist()]), UNITS, source)


def schema_problem(path: str | os.PathLike[str]) -> str | None:
    """Return how the columns of the matrix in `path` differ from those that this version writes; None: in nothing.

    `read_matrix` also reads older matrices, with null for newer columns.
    """
    types = {field.name: field.type for field in pq.read_schema(path)}
    expected = {column.name: _ARROW[column.dtype] for column in COLUMNS}
    lacks, unknown = [name for name in expected if name not in types], [name for name in types if name not in expected]
    other = [name for name in types if name in expected and types[name] != expected[name]]
    said = {"lacks": lacks, "has unknown": unknown, "has other types in": other}
    return "; ".join(f"{words} {', '.join(names)}" for words, names in said.items() if names) or None


def rows_digest(table: pa.Table) -> str:
    """Return the SHA-256 of the values of a matrix."""
    return hashlib.sha256(json.dumps(table.to_pydict(), sort_keys=True).encode()).hexdigest()


def _read_footer(path: str | os.PathLike[str], table: pa.Table) -> dict[str, Any]:
    """Check the digest of the rows and return the provenance in the footer; {} for a file without one."""
    try:
        footer = json.loads((table.schema.metadata or {}).get(FOOTER_KEY, b"{}"))
        rows = rows_digest(table)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from None
    source = records.check_digest(path, footer)
    if source.pop(ROWS_KEY, rows) != rows:
        raise UserError(f"{path} is damaged (its rows do not have the digest in its footer); delete it and run again")
    return source


def read_paper(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the paper's numbers: one row per line of its tables, with PAPER_COLUMNS.

    Raises:
        UserError: the file is missing or has other columns or types.
    """
    try:
        frame = pd.read_csv(path, dtype={column.name: column.dtype for column in PAPER_COLUMNS})
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; it is part of slimdiff: restore it with git") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is not the table of the paper's numbers ({error}); restore it with git") from None
    if list(frame.columns) != [column.name for column in PAPER_COLUMNS]:
        raise UserError(f"{path} must have the columns {', '.join(c.name for c in PAPER_COLUMNS)}; restore it with git")
    return frame


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of this file's repository, with "-dirty" after edits of tracked files; None outside git.

    The file must be tracked: an installed copy in somebody else's repository is not of that commit.
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
