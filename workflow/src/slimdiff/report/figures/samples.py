"""The figures of samples that the specs declare: images from the cells' files, never picked."""

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
from slimdiff.report import contents
from slimdiff.report.contents import GallerySpec
from slimdiff.report.figures import contact_sheet, style
from slimdiff.report.figures.contact_sheet import Images
from slimdiff.report.figures.style import CHARACTER_PX, FONT_PX
from slimdiff.report.selection import placeholders

DENSITY = style.PNG_PPI // 72  # pixels of a picture per unit of the chart: one each in the PNG
COLUMNS, ROWS, TILE = 10, 5, 96  # first images; a tile in pixels of the picture
# A column for each class: wide enough for most names of classes.
CLASSES, PER_CLASS, CLASS_TILE, CLASS_PITCH = 12, 10, 144, 152
LEAST_PX = 360  # width that a panel without images, or with few, has for its title
HEADING_PX = 22  # height of the names of classes
FIRST = f"The first {COLUMNS * ROWS} images of each cell in the order of its file, none picked. rFID is that of all."
BY_CLASS = (
    f"For each class, but no more than {CLASSES}, the first {PER_CLASS} images that the model was asked for, none "
    "picked. rFID is that of all images."
)


def write_all(matrix: Matrix, cells: Path, folder: Path) -> None:
    """Write every gallery of the specs into `folder`, in every format; `cells` is the folder of the cells."""
    for spec in contents.GALLERIES:
        chart = gallery(matrix, cells, spec)
        for suffix in contents.FIGURE_FORMATS:
            style.save(chart, folder / f"{spec.name}.{suffix}")


def gallery(matrix: Matrix, cells: Path, spec: GallerySpec) -> alt.VConcatChart:
    """The panels of `spec`, those of one data set and model beside each other."""
    rows = _rows(matrix.frame)
    places = placeholders(spec, list(rows), families(matrix))
    blocks: dict[str, list[Cell]] = {}
    for place in places:
        if place.cell:
            blocks.setdefault(f"{place.dataset}, {place.model}", []).append(place.cell)
    panels = []
    for block in itertools.islice(blocks.values(), style.MOST_PANELS):
        drawn = [_panel(cell, rows[cell], cells, spec.by_class) for cell in block]
        panels.append(alt.hconcat(*drawn, spacing=20))
    subtitle = style.lines(BY_CLASS if spec.by_class else FIRST)
    subtitle += style.listed("Not in the matrix", [str(place) for place in places if place.cell is None])
    subtitle += style.listed("No room here", list(blocks)[style.MOST_PANELS :])
    empty = alt.hconcat(style.sentence("The matrix holds no cell whose images belong here.", 2 * LEAST_PX))
    return style.stack(panels or [empty], spec.title, subtitle)


def _rows(frame: pd.DataFrame) -> dict[Cell, Mapping[Any, Any]]:
    """What a panel says of each cell, in the order of the matrix."""
    records = frame[[*KEY, "status", "reason", "fid_indomain_pct"]].to_dict("records")
    return {Cell(row["dataset"], row["model"], row["optimization"], int(row["seed"])): row for row in records}


def _panel(cell: Cell, row: Mapping[Any, Any], cells: Path, by_class: bool) -> alt.LayerChart:
    samples = read_samples(cells / cell.path / "samples.npz")
    if not len(samples.images):
        panel = style.sentence("no images", LEAST_PX)
    elif not by_class:
        panel = _pictured(contact_sheet.sheet(contact_sheet.first_columns(samples.images, COLUMNS, ROWS), TILE))
    elif not len(samples.labels):
        panel = style.sentence("its images have no labels", LEAST_PX)
    else:
        panel = _classes(samples)
    head = alt.TitleParams(
        _wrapped(f"{cell.dataset}, {cell.model}: {cell.optimization}, seed {cell.seed}", panel.width),
        subtitle=_wrapped(_outcome(row), panel.width),
        anchor="start",
        fontSize=FONT_PX + 1,
        subtitleFontSize=FONT_PX,
        subtitleColor=style.GREY,
    )
    return panel.properties(title=head, view=alt.ViewBackground(stroke=None))


def _classes(samples: Samples) -> alt.LayerChart:
    """A column of images below the name of each class."""
    columns = contact_sheet.class_columns(samples, CLASSES, PER_CLASS)
    pitch = CLASS_PITCH / DENSITY
    names = pd.DataFrame({"name": list(columns), "x": [(place + 0.5) * pitch for place in range(len(columns))]})
    text = alt.Chart(names).mark_text(fontSize=FONT_PX - 1, limit=pitch - 2)
    headings = text.encode(x=alt.X("x:Q", scale=None, axis=None), y=alt.value(HEADING_PX / 2), text="name:N")
    return _pictured(contact_sheet.sheet(list(columns.values()), CLASS_TILE, CLASS_PITCH), [headings])


def _pictured(picture: Images, headings: Sequence[alt.Chart] = ()) -> alt.LayerChart:
    """`picture` as a panel, below `headings` where there are some."""
    height, width = (side / DENSITY for side in picture.shape[:2])
    top = HEADING_PX if headings else 0
    image = alt.Chart(pd.DataFrame({"url": [contact_sheet.data_url(picture)]})).mark_image(
        width=width, height=height, align="left", baseline="top"
    )
    layers = [image.encode(x=alt.value(0), y=alt.value(top), url="url:N"), *headings]
    return alt.LayerChart(layer=layers, width=max(width, LEAST_PX), height=top + height)


def _outcome(row: Mapping[Any, Any]) -> str:
    """How the cell ended, as its title says it."""
    if row["status"] == "failed":
        return f"failed: {row['reason']}"
    return "rFID –" if pd.isna(row["fid_indomain_pct"]) else f"rFID {row['fid_indomain_pct']:.2f} %"


def _wrapped(text: str, width: float) -> list[str]:
    """`text` in lines that fit into `width` pixels of the chart."""
    return textwrap.wrap(text, int(width / CHARACTER_PX))
