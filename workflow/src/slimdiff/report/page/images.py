"""Samples on the page: one contact sheet per cell, which the script cuts into images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slimdiff.analysis.columns import KEY
from slimdiff.analysis.measures import BASELINE
from slimdiff.config.cells import Cell
from slimdiff.io.samples import read_samples
from slimdiff.io.text import significant
from slimdiff.report import contents, selection
from slimdiff.report.figures import contact_sheet
from slimdiff.report.tables.markdown import missing

COLUMNS = 10  # of a contact sheet


@dataclass(frozen=True)
class ContactSheets:
    """The cells whose samples the page holds, as its script reads them."""

    cells: list[dict[str, Any]]
    omitted: int  # cells left out
    first: int  # index of the cell shown above at first
    second: int  # and below

    def groups(self) -> dict[str, list[tuple[int, dict[str, Any]]]]:
        """Return the cells with their indices by data set and model, in the order of the matrix."""
        groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for index, cell in enumerate(self.cells):
            groups.setdefault(f"{cell['dataset']}, {cell['model']}", []).append((index, cell))
        return groups


def read(frame: pd.DataFrame, cells: Path) -> ContactSheets:
    """Return the first samples of `selection.pictured` cells, up to the limits in `contents`.

    Each cell is {id, dataset, model, recipe, seed, url (PNG), images, width, height (of one image), labels, scores}.

    Args:
        frame: the matrix.
        cells: folder of the cells.
    """
    rows = {Cell(*(row[name] for name in KEY)): row for row in frame.to_dict("records")}
    sheets: list[dict[str, Any]] = []
    n_bytes = 0
    for cell in selection.pictured(list(rows)):
        samples = read_samples(cells / cell.path / "samples.npz")
        images = samples.images[: contents.PICTURE_IMAGES]
        if not len(images):
            continue
        columns = contact_sheet.first_columns(images, COLUMNS, len(images))
        tile = min(contents.PICTURE_PX, max(images.shape[2:]))  # shrink large images, enlarge none
        sheet = contact_sheet.sheet(columns, tile, gap=0)
        url = contact_sheet.data_url(sheet)
        n_bytes += len(url)
        if n_bytes > contents.MAX_PICTURE_BYTES:
            break
        sheets.append(
            {
                "id": cell.path,
                "dataset": cell.dataset,
                "model": cell.model,
                "recipe": cell.optimization,
                "seed": int(cell.seed),
                "noise": int(cell.seed if missing(rows[cell]["sampling_seed"]) else rows[cell]["sampling_seed"]),
                "url": url,
                "images": len(images),
                "width": sheet.shape[1] // len(columns),
                "height": sheet.shape[0] // len(columns[0]),
                "labels": [samples.classes[label] for label in samples.labels[: len(images)]],
                "scores": _scores(rows[cell]),
            }
        )
    return ContactSheets(sheets, len(rows) - len(sheets), *_first_pair(sheets))


def _scores(row: Mapping[Any, Any]) -> str:
    """Return the scores of a cell, or why it failed."""
    if row["status"] == "failed":
        return f"failed: {row['reason']}"
    parts = [] if missing(row["fid_indomain"]) else [f"in-domain FID {significant(row['fid_indomain'])}"]
    if not missing(row["class_accuracy"]):
        parts.append(f"class accuracy {100 * row['class_accuracy']:.0f} %")
    if not missing(row["psnr"]):
        parts.append(f"PSNR to `{BASELINE}` {row['psnr']:.1f} dB")
    return ", ".join(parts)


def _first_pair(sheets: list[dict[str, Any]]) -> tuple[int, int]:
    """Return a baseline and another recipe of its model and seed, L1-pruned if possible; (0, 0) without a pair."""
    for first, sheet in enumerate(sheets):
        if sheet["recipe"] == BASELINE:
            others = [
                index
                for index, other in enumerate(sheets)
                if index != first and all(other[key] == sheet[key] for key in ("dataset", "model", "seed"))
            ]
            if others:
                return first, next((index for index in others if "l1" in sheets[index]["recipe"]), others[0])
    return 0, 0
