"""`slimdiff show`: all records of one cell."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from slimdiff.analysis.columns import COLUMNS, KEY
from slimdiff.cli.cells import RESULTS, CellName, Results, cell_name, find_cell, read_record
from slimdiff.cli.console import console, format_value, table
from slimdiff.config.cells import run_path
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.text import size

INDENT = (0, 0, 0, 2)
PARSED = ("settings", "code")  # columns that hold JSON
UNMEASURED = (*KEY, "training", "sampler", "engine", "engine_precision", "status", "reason", "started_at", *PARSED)


def show(
    cell: CellName,
    results: Results = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show all records of a cell: measurements, settings, provenance, files."""
    records = gather(find_cell(cell, results))
    if as_json:
        print(json.dumps(records, indent=1))
    else:
        console().print(Group(*_render(records)))


def gather(folder: Path) -> dict[str, Any]:
    """Return the records of a cell; None for records that are not written yet.

    `row` is the cell's row of the matrix, `model` its checkpoint's header, `training` a summary of its training's
    record, if that is in the same results.
    """
    row = read_record(folder / "row.json")
    if row is not None:
        row |= {key: json.loads(row[key]) for key in PARSED if row.get(key)}
    model = folder / "model.safetensors"
    picture = folder / "grid.png"
    return {
        "cell": cell_name(folder),
        "folder": str(folder),
        "row": row,
        "model": read_header(model, "model") if model.is_file() else None,
        "score": read_record(folder / "score.json"),
        "profile": read_record(folder / "profile.json"),
        "training": _training(folder, row),
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        "picture": str(picture) if picture.is_file() else None,
    }


def _training(folder: Path, row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a summary of the record of the cell's training."""
    if row is None or len(folder.resolve().parents) < 5:
        return None
    results = folder.resolve().parents[4]
    name = run_path(row["dataset"], row["model"], row["training"], row["seed"])
    record = read_record(results / "train" / name / "train.json")
    if not record:
        return None
    curve = record.get("loss_curve") or []
    return {
        "name": name,
        "steps": record.get("steps"),
        "last_loss": curve[-1]["loss"] if curve else None,
        "interruptions": record.get("interruptions"),
        "precision": record.get("precision"),
    }


def _render(records: Mapping[str, Any]) -> Iterator[RenderableType]:
    row, header, training = records["row"] or {}, records["model"] or {}, records["training"] or {}
    yield Text(records["cell"], style="bold")
    state = row.get("status") or header.get("status") or "unknown"
    reason = row.get("reason") or header.get("reason")
    yield Text(f"{state}: {reason}" if reason else state, style="red" if state == "failed" else "")
    if not row:
        yield Text("not measured yet: no row.json")

    measured = table("measurement", "value", "unit")
    measured.add_column("meaning", justify="left", overflow="fold")
    for column in COLUMNS:
        value = row.get(column.name)
        if column.name not in UNMEASURED and value is not None:
            measured.add_row(column.name, Text(format_value(value)), column.unit, Text(column.meaning, style="dim"))
    if measured.row_count:
        yield from (Text(), measured)

    settings = row.get("settings") or {key: header[key] for key in ("model", "training", "steps") if key in header}
    if settings:
        yield Text("\nsettings", style="bold")
        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100).rstrip()
        yield Padding(Text(text), INDENT, expand=False)

    facts = {
        "training": row.get("training"),
        "started": row.get("started_at"),
        "steps": training.get("steps"),
        "last loss": training.get("last_loss"),
        "interruptions": training.get("interruptions"),
        "code": ", ".join(f"{stage} {digest}" for stage, digest in (row.get("code") or {}).items()),
        "extractors": (records["score"] or {}).get("extractors_sha256"),
        "tensors": header.get("sha256"),
    }
    yield Text("\nprovenance", style="bold")
    provenance = table("", "")
    provenance.columns[1].justify = "left"
    provenance.show_header = False
    for name, fact in facts.items():
        if fact not in (None, ""):
            provenance.add_row(name, Text(format_value(fact)))
    yield Padding(provenance, INDENT, expand=False)

    yield Text("\nfiles", style="bold")
    yield Padding(Text(records["folder"]), INDENT, expand=False)
    listing = table("", "")
    listing.show_header = False
    for name, n_bytes in records["files"].items():
        listing.add_row(name, size(n_bytes))
    yield Padding(listing, INDENT, expand=False)
    yield Text(f"\npicture    {records['picture'] or 'none'}")
