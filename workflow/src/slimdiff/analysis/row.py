"""Merge the records of a cell into one flat row. Standard library only, because one job per cell does this."""

from collections.abc import Mapping
from typing import Any

from slimdiff.analysis.columns import COLUMNS, check_row
from slimdiff.config.cells import run_path
from slimdiff.errors import UserError
from slimdiff.io import settings

# Records of a cell in the order of the stages → the stage to name for a failure. The record of `score` passes on the
# failure of `sample`, and names itself in `stage` for its own.
RECORDS = {"train": "train", "score": "sample", "profile": "profile"}


def merge(cell: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the row of `cell`, with exactly the columns of the matrix.

    Args:
        cell: dataset, model, optimization, training, seed, engine, settings (a mapping).
        records: the records of `train`, `score` and `profile` by name. Values they lack are null.

    Raises:
        UserError: a record has a value of the wrong type.
    """
    sources = {**records, "cell": cell}
    row = {column.name: sources[column.source].get(column.name) if column.source else None for column in COLUMNS}
    reason = first_failure(records)
    row["status"] = "ok" if reason is None else "failed"
    row["reason"] = reason
    row["sampler"] = (records["score"].get("sampler") or {}).get("method")
    row["settings"] = settings.canonical(cell.get("settings", {}))
    row["code"] = settings.canonical({name: records[name].get("code") for name in RECORDS})
    problem = check_row(row)
    if problem:
        place = run_path(*(str(cell.get(key)) for key in ("dataset", "model", "optimization", "seed")))
        raise UserError(
            f"the records of {place} do not fit the matrix: {problem}; delete that cell's folder and run again"
        )
    return row


def first_failure(records: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the stage and reason of the first record that is not ok, or None."""
    for name, stage in RECORDS.items():
        if records[name].get("status") != "ok":
            return f"{records[name].get('stage', stage)}: {records[name].get('reason') or 'no reason given'}"
    return None
