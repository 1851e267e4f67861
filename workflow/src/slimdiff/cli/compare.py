"""`slimdiff compare`: cells side by side, in figures and in images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimdiff.analysis.columns import COLUMNS
from slimdiff.cli.cells import RESULTS, CellNames, Results, find_cell, read_row
from slimdiff.cli.console import console, figure, ratio, table
from slimdiff.errors import UserError
from slimdiff.io.files import atomic

if TYPE_CHECKING:
    from slimdiff.report.figures.contact_sheet import Images, Samples

MACHINE = ("device", "cpu_model", "gpu_model", "threads", "torch_version")
PROVENANCE = ("code", "settings", "started_at")
COLUMNS_OF_IMAGES = 10
TILE = 64  # pixels of an image's longer side, at most
CAPTION = 16  # pixels of height


def compare(
    cells: CellNames,
    results: Results = RESULTS,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write their samples as one picture (.png): image i under image i."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many images of each cell the picture shows.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as one JSON object.")] = False,
) -> None:
    """Cells side by side, in figures and in images.

    Each figure stands with its ratio to the first cell's. --out draws what the same noise became in each cell.
    """
    if len(cells) < 2:
        raise UserError(f"compare takes two cells or more, got {len(cells)}; `slimdiff status` lists them")
    if out is not None and out.suffix.lower() != ".png":
        raise UserError(f"--out {out} must end in .png")
    rows = {cell: read_row(find_cell(cell, results)) for cell in cells}
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_comparison(rows)
    if out is not None:
        _write_picture(out, {cell: find_cell(cell, results) for cell in cells}, n)
        if not as_json:
            print(f"{out}: the first images of each cell, one under the other")
            for problem in noise_problems(rows):
                print(problem)


def noise_problems(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why images of the same number do not start from the same noise; nothing where they do."""
    seeds = {row.get("seed") for row in rows.values()}
    shapes = set()
    for row in rows.values():
        model = json.loads(row["settings"])["train"]["model"] if row.get("settings") else {}
        shapes.add((model.get("channels"), model.get("image_size")))
    problems = []
    if len(seeds) > 1:
        problems.append("images do not start from the same noise: seed differs")
    if len(shapes) > 1:
        problems.append("images do not start from the same noise: the models' image_size or channels differ")
    return problems


def _write_picture(path: Path, folders: Mapping[str, Path], n: int) -> None:
    from PIL import Image

    from slimdiff.report.figures.contact_sheet import read_samples

    samples = {cell: read_samples(folder / "samples.npz") for cell, folder in folders.items()}
    picture = side_by_side(samples, n)
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def side_by_side(samples: Mapping[str, "Samples"], n: int) -> "Images":
    """The first `n` images of each cell as one picture (H, W, 3): in each block of ten, a captioned row for each cell.

    Raises:
        UserError: a cell has no images, or images of another size than the others.
    """
    import numpy as np

    from slimdiff.report.figures.contact_sheet import GAP, WHITE, sheet

    sizes = {cell: found.images.shape[2:] for cell, found in samples.items()}
    empty = [cell for cell, found in samples.items() if not len(found.images)]
    if empty:
        raise UserError(f"{empty[0]} has no images: leave it or --out out")
    first = next(iter(sizes))
    for cell, shape in sizes.items():
        if shape != sizes[first]:
            raise UserError(
                f"images of {cell} are {shape[0]}×{shape[1]}, of {first} {sizes[first][0]}×{sizes[first][1]}: "
                "--out takes cells of one data set"
            )
    n = min(n, *(len(found.images) for found in samples.values()))
    pieces = []
    for start in range(0, n, COLUMNS_OF_IMAGES):
        for cell, found in samples.items():
            chosen = found.images[start : min(start + COLUMNS_OF_IMAGES, n)]
            strip = sheet([image[None] for image in chosen], TILE)
            pieces += [_caption(cell, strip.shape[1]), np.broadcast_to(strip, (*strip.shape[:2], 3))]
        pieces.append(np.full((GAP, 1, 3), WHITE, np.uint8))
    width = max(piece.shape[1] for piece in pieces)
    filled = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=WHITE) for p in pieces[:-1]]
    return np.concatenate(filled)


def _caption(text: str, width: int) -> "Images":
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    image = Image.new("RGB", (max(width, int(font.getlength(text)) + 4), CAPTION), "white")
    ImageDraw.Draw(image).text((2, 2), text, fill="black", font=font)
    return np.asarray(image)


def _print_comparison(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """One line per column that was measured; of names only those that differ, since they explain the figures."""
    terminal = console()
    first, *others = rows
    shown = table("", first, *(heading for name in others for heading in (name, "ratio")))
    for column in COLUMNS:
        values = [row.get(column.name) for row in rows.values()]
        measured = column.dtype != "string" and column.name not in ("seed", *MACHINE)
        if column.name in PROVENANCE or (len(set(values)) == 1 and (not measured or values[0] is None)):
            continue
        others_shown = [(figure(value), ratio(value, values[0]) if measured else "") for value in values[1:]]
        shown.add_row(column.name, figure(values[0]), *(part for pair in others_shown for part in pair))
    terminal.print(shown)
    for names, what in ((MACHINE, "times and memory"), (("n_samples",), "fid and fid_indomain_pct")):
        differing = [name for name in names if len({row.get(name) for row in rows.values()} - {None}) > 1]
        if differing:
            terminal.print(f"{what} do not compare: {', '.join(differing)} differ{'s' * (len(differing) == 1)}")
