"""Figures of samples: the first images in a cell's file, never selected by quality."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from slimdiff.analysis.columns import KEY
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.paper import families
from slimdiff.config.cells import Cell
from slimdiff.io.samples import Samples, read_samples
from slimdiff.report.contents import GALLERIES, GallerySpec
from slimdiff.report.figures import contact_sheet, style
from slimdiff.report.figures.contact_sheet import Images
from slimdiff.report.figures.style import CHARACTER_PX, FONT_PX
from slimdiff.report.selection import placeholders

DENSITY = style.PNG_PPI // 72  # pixels of a picture per unit of the chart; the PNG then shows each pixel once
COLUMNS, ROWS, TILE_PX = 10, 5, 96
# One column per class, wide enough for most names of classes.
MAX_CLASSES, IMAGES_PER_CLASS, CLASS_TILE_PX, CLASS_PITCH_PX = 12, 10, 144, 152
MIN_WIDTH_PX = 360  # of a panel, for its title
HEADING_PX = 22  # height of the class names
FID_NOTE = "In-domain FID is in % of the variance of the real images, over all images of the cell."
FIRST = f"The first {COLUMNS * ROWS} images in the file of each cell. {FID_NOTE}"
BY_CLASS = f"The first {IMAGES_PER_CLASS} images of each requested class, for at most {MAX_CLASSES} classes. {FID_NOTE}"


def write_all(matrix: Matrix, cells: Path, folder: Path) -> None:
    """Write every figure of samples into `folder`; `cells` is the folder of the cells."""
    for spec in GALLERIES:
        style.save_all(figure(matrix, cells, spec), folder, spec.name)


def figure(matrix: Matrix, cells: Path, spec: GallerySpec) -> alt.VConcatChart:
    """Return the panels of `spec`, one row per data set and model."""
    records = matrix.frame[[*KEY, "status", "reason", "fid_indomain_pct"]].to_dict("records")
    rows = {Cell(row["dataset"], row["model"], row["optimization"], int(row["seed"])): row for row in records}
    places = placeholders(spec, list(rows), families(matrix))
    blocks: dict[str, list[Cell]] = {}
    for place in places:
        if place.cell:
            blocks.setdefault(f"{place.dataset}, {place.model}", []).append(place.cell)
    panels = [
        alt.hconcat(*(_panel(cell, rows[cell], cells, spec.by_class) for cell in block), spacing=20)
        for block in itertools.islice(blocks.values(), style.MAX_PANELS)
    ]
    subtitle = style.wrap(BY_CLASS if spec.by_class else FIRST)
    subtitle += style.enumerate_names("Not in the matrix", [str(place) for place in places if place.cell is None])
    subtitle += style.enumerate_names("No room here", list(blocks)[style.MAX_PANELS :])
    empty = alt.hconcat(style.placeholder("The matrix holds no cell of this figure.", 2 * MIN_WIDTH_PX))
    return style.vconcat(panels or [empty], spec.title, subtitle)


def _panel(cell: Cell, row: Mapping[Any, Any], cells: Path, by_class: bool) -> alt.LayerChart:
    samples = read_samples(cells / cell.path / "samples.npz")
    if not len(samples.images):
        panel = style.placeholder("no images", MIN_WIDTH_PX)
    elif not by_class:
        columns = contact_sheet.first_columns(samples.images, COLUMNS, ROWS)
        panel = _picture_panel(contact_sheet.sheet(columns, TILE_PX))
    elif not len(samples.labels):
        panel = style.placeholder("no labels", MIN_WIDTH_PX)
    else:
        panel = _class_panel(samples)
    title = style.panel_title(
        _wrap(f"{cell.dataset}, {cell.model}: {cell.optimization}, seed {cell.seed}", panel.width),
        subtitle=_wrap(_outcome(row), panel.width),
        subtitleFontSize=FONT_PX,
        subtitleColor=style.GREY,
    )
    return panel.properties(title=title, view=alt.ViewBackground(stroke=None))


def _class_panel(samples: Samples) -> alt.LayerChart:
    """Return a column of images below the name of each class."""
    columns = contact_sheet.class_columns(samples, MAX_CLASSES, IMAGES_PER_CLASS)
    pitch = CLASS_PITCH_PX / DENSITY
    names = pd.DataFrame({"name": list(columns), "x": [(place + 0.5) * pitch for place in range(len(columns))]})
    text = alt.Chart(names).mark_text(fontSize=FONT_PX - 1, limit=pitch - 2)
    headings = text.encode(x=alt.X("x:Q", scale=None, axis=None), y=alt.value(HEADING_PX / 2), text="name:N")
    return _picture_panel(contact_sheet.sheet(list(columns.values()), CLASS_TILE_PX, CLASS_PITCH_PX), [headings])


def _picture_panel(picture: Images, headings: Sequence[alt.Chart] = ()) -> alt.LayerChart:
    """Return `picture` as a panel, below `headings` if there are any."""
    height, width = (side / DENSITY for side in picture.shape[:2])
    top = HEADING_PX if headings else 0
    image = alt.Chart(pd.DataFrame({"url": [contact_sheet.data_url(picture)]})).mark_image(
        width=width, height=height, align="left", baseline="top"
    )
    layers = [image.encode(x=alt.value(0), y=alt.value(top), url="url:N"), *headings]
    return alt.LayerChart(layer=layers, width=max(width, MIN_WIDTH_PX), height=top + height)


def _outcome(row: Mapping[Any, Any]) -> str:
    """Return the FID of a cell, or why it failed."""
    if row["status"] == "failed":
        return f"failed: {row['reason']}"
    fid = row["fid_indomain_pct"]
    return "in-domain FID –" if pd.isna(fid) else f"in-domain FID {fid:.2f} %"


def _wrap(text: str, width: float) -> list[str]:
    """Return `text` in lines that fit into `width` pixels of the chart."""
    return textwrap.wrap(text, int(width / CHARACTER_PX))
