"""The images of cells that the page holds: of each cell one picture, from which its script cuts single images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slimdiff.analysis.columns import KEY
from slimdiff.config.cells import Cell
from slimdiff.io.samples import read_samples
from slimdiff.io.text import significant
from slimdiff.report import contents, selection
from slimdiff.report.figures import contact_sheet
from slimdiff.report.tables.markdown import missing

COLUMNS = 10  # of images in a picture


@dataclass(frozen=True)
class Pictures:
    """The cells whose images the page holds, as its script reads them, and how many it leaves out."""

    cells: list[dict[str, Any]]
    left_out: int
    first: int  # index of the cell that is shown at first
    second: int  # and of the one beside it

    def groups(self) -> dict[str, list[tuple[int, dict[str, Any]]]]:
        """The cells with their indices, by data set and model, in the order of the matrix."""
        found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for index, cell in enumerate(self.cells):
            found.setdefault(f"{cell['dataset']}, {cell['model']}", []).append((index, cell))
        return found


def read(frame: pd.DataFrame, cells: Path) -> Pictures:
    """The first images of `selection.pictured` below the folder `cells`, as many cells as fit into the page.

    Each is {id, dataset, model, recipe, seed, url (PNG), images, width, height (of one image), labels, told}.
    """
    rows = {Cell(*(row[name] for name in KEY)): row for row in frame.to_dict("records")}
    found: list[dict[str, Any]] = []
    held = 0
    pictured = selection.pictured(list(rows))
    for cell in pictured:
        samples = read_samples(cells / cell.path / "samples.npz")
        images = samples.images[: contents.PICTURE_IMAGES]
        if not len(images):
            continue
        picture = contact_sheet.contact(images, COLUMNS, contents.PICTURE_PX)
        url = contact_sheet.data_url(picture)
        held += len(url)
        if held > contents.MAX_PICTURE_BYTES:
            break
        lines = -(-len(images) // COLUMNS)
        found.append(
            {
                "id": cell.path,
                "dataset": cell.dataset,
                "model": cell.model,
                "recipe": cell.optimization,
                "seed": int(cell.seed),
                "url": url,
                "images": len(images),
                "width": picture.shape[1] // COLUMNS,
                "height": picture.shape[0] // lines,
                "labels": [samples.classes[label] for label in samples.labels[: len(images)]],
                "told": _told(rows[cell]),
            }
        )
    return Pictures(found, len(rows) - len(found), *_pair(found))


def _told(row: Mapping[Any, Any]) -> str:
    """What is said of a cell below its name."""
    if row["status"] == "failed":
        return f"failed: {row['reason']}"
    parts = [] if missing(row["fid_indomain"]) else [f"FID {significant(row['fid_indomain'])}"]
    if not missing(row["class_accuracy"]):
        parts.append(f"{100 * row['class_accuracy']:.0f} % show the class asked for")
    return ", ".join(parts)


def _pair(cells: list[dict[str, Any]]) -> tuple[int, int]:
    """A baseline and a pruned or other recipe of the same model and seed; 0 twice where there is no such pair."""
    for first, cell in enumerate(cells):
        if cell["recipe"] == "baseline":
            same = [
                index
                for index, other in enumerate(cells)
                if index != first and all(other[key] == cell[key] for key in ("dataset", "model", "seed"))
            ]
            if same:
                return first, next((index for index in same if "l1" in cells[index]["recipe"]), same[0])
    return 0, 0
