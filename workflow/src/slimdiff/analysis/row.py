"""One cell's records become one flat row. Standard library only: there is one such job per cell."""

from collections.abc import Mapping
from typing import Any

from slimdiff.analysis.columns import COLUMNS, check_row
from slimdiff.config.cells import run_path
from slimdiff.errors import UserError
from slimdiff.io import settings

# The records of a cell in the order in which they come to be, and the stage that a failure in each is laid to:
# scoring passes on what sampling said of its images, and names itself where it is the one that failed.
RECORDS = {"train": "train", "score": "sample", "profile": "profile"}


def merge(cell: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The row of `cell` from its `records`, with exactly the columns of the matrix.

    Args:
        cell: dataset, model, optimization, training, seed, engine, settings (a mapping).
        records: what the stages `train`, `score` and `profile` wrote, by name. What a record lacks is null.

    Raises:
        UserError: a record holds a value that the matrix has no room for.
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
        raise UserError(f"the records of {place} do not make a row: {problem}; delete that cell's folder and run again")
    return row


def first_failure(records: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Stage and reason of the first record whose status is not ok, or None."""
    for name, stage in RECORDS.items():
        if records[name].get("status") != "ok":
            return f"{records[name].get('stage', stage)}: {records[name].get('reason') or 'no reason was given'}"
    return None
