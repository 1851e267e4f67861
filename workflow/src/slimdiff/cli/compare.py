"""`slimdiff compare`: measurements and images of several cells side by side."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimdiff.analysis.columns import COLUMNS
from slimdiff.cli.cells import RESULTS, CellNames, Results, find_cell, read_row
from slimdiff.cli.console import console, format_ratio, format_value, table
from slimdiff.errors import UserError
from slimdiff.io.files import atomic

if TYPE_CHECKING:
    from slimdiff.io.samples import Samples
    from slimdiff.report.figures.contact_sheet import Images

MACHINE = ("device", "cpu_model", "gpu_model", "threads", "torch_version")
PROVENANCE = ("code", "settings", "started_at")
COLUMNS_OF_IMAGES = 10
TILE = 64  # limit of an image's longer side, in pixels
CAPTION = 16  # height in pixels


def compare(
    cells: CellNames,
    results: Results = RESULTS,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Also write the samples into one PNG: image i of each cell under image i of the first."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images per cell in the PNG.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the measurements and images of cells.

    Shows the ratio of each number to the first cell's. --out draws the cells' images from the same noise side by side.
    """
    if len(cells) < 2:
        raise UserError(f"compare needs two or more cells, got {len(cells)}; `slimdiff status` lists them")
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
            print(f"{out}: the first images of each cell")
            for problem in noise_problems(rows):
                print(problem)


def noise_problems(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the reasons why images with the same index start from different noise; empty if they do not."""
    own = [(row.get("sampling_seed"), row.get("seed")) for row in rows.values()]
    seeds = {seed if sampling is None else sampling for sampling, seed in own}  # rows of older runs have one seed
    shapes = set()
    for row in rows.values():
        model = json.loads(row["settings"])["train"]["model"] if row.get("settings") else {}
        shapes.add((model.get("channels"), model.get("image_size")))
    problems = []
    if len(seeds) > 1:
        problems.append("images start from different noise: the seeds differ")
    if len(shapes) > 1:
        problems.append("images start from different noise: the models' image_size or channels differ")
    return problems


def _write_picture(path: Path, folders: Mapping[str, Path], n: int) -> None:
    from PIL import Image

    from slimdiff.io.samples import read_samples

    samples = {cell: read_samples(folder / "samples.npz") for cell, folder in folders.items()}
    picture = side_by_side(samples, n)
    with atomic(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def side_by_side(samples: Mapping[str, "Samples"], n: int) -> "Images":
    """Return the first `n` images of each cell in one picture (H, W, 3): blocks of ten, a captioned row per cell.

    Raises:
        UserError: a cell has no images, or the sizes differ.
    """
    import numpy as np

    from slimdiff.report.figures.contact_sheet import GAP, WHITE, sheet

    sizes = {cell: sampled.images.shape[2:] for cell, sampled in samples.items()}
    empty = [cell for cell, sampled in samples.items() if not len(sampled.images)]
    if empty:
        raise UserError(f"{empty[0]} has no images: omit it or --out")
    first = next(iter(sizes))
    for cell, shape in sizes.items():
        if shape != sizes[first]:
            raise UserError(
                f"images of {cell} are {shape[0]}×{shape[1]}, of {first} {sizes[first][0]}×{sizes[first][1]}: "
                "--out needs cells of one data set"
            )
    n = min(n, *(len(sampled.images) for sampled in samples.values()))
    pieces = []
    for start in range(0, n, COLUMNS_OF_IMAGES):
        for cell, sampled in samples.items():
            chosen = sampled.images[start : min(start + COLUMNS_OF_IMAGES, n)]
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
    """Print a line for each measured column, and for each name that differs between the cells."""
    terminal = console()
    first, *others = rows
    shown = table("", first, *(heading for name in others for heading in (name, "ratio")))
    for column in COLUMNS:
        values = [row.get(column.name) for row in rows.values()]
        measured = column.dtype in ("Int64", "Float64") and column.name not in ("seed", *MACHINE)
        if column.name in PROVENANCE or (len(set(values)) == 1 and (not measured or values[0] is None)):
            continue
        others_shown = [
            (format_value(value), format_ratio(value, values[0]) if measured else "") for value in values[1:]
        ]
        shown.add_row(column.name, format_value(values[0]), *(part for pair in others_shown for part in pair))
    terminal.print(shown)
    disturbed = [cell for cell, row in rows.items() if row.get("disturbed")]
    if disturbed:
        terminal.print(f"times do not count: other processes ran during the profile of {', '.join(disturbed)}")
    unwatched = [cell for cell, row in rows.items() if row.get("speedup") is not None and row.get("disturbed") is None]
    if unwatched:
        terminal.print(f"times decide nothing: whether other processes disturbed {', '.join(unwatched)} is unknown")
    for names, what in ((MACHINE, "times and memory"), (("n_samples",), "fid and fid_indomain_pct")):
        differing = [name for name in names if len({row.get(name) for row in rows.values()} - {None}) > 1]
        if differing:
            terminal.print(f"{what} do not compare: {', '.join(differing)} differ{'s' * (len(differing) == 1)}")
