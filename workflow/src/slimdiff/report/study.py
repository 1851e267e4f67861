"""A finished run as a folder of docs/results: its tables and figures that hold something, and a page about them.

The page belongs to its author, except for a block between two comments, which says what was run, when, where, by which
code and at what cost. It is made from the matrix and the benchmark records, and replaced when the study is published.
"""

import datetime
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from slimdiff.analysis import differences
from slimdiff.analysis import paper as comparison
from slimdiff.analysis.columns import KEY
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE, PACKED, REFERENCE
from slimdiff.catalog.stages import CELL_STAGES, TRAINING_STAGES
from slimdiff.config.cells import Cell
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.settings import canonical
from slimdiff.io.text import duration
from slimdiff.report import contents
from slimdiff.report.figures import samples, style, timeline
from slimdiff.report.figures.write import draw
from slimdiff.report.selection import placeholders
from slimdiff.report.tables.markdown import NOTHING, grid
from slimdiff.report.tables.write import write_tables

PAGE, MATRIX, CLAIMS = "README.md", "matrix.parquet", "claims.json"
GRID = "grid"  # file names of a cell's first images start with it
BEGIN = "<!-- written by slimdiff publish from here -->"
END = "<!-- written by slimdiff publish to here -->"
GALLERY_SCALE = 0.625  # of the published pictures of samples
COLORS = 256  # of a published PNG, without dithering
FORMATS = ("svg", "png")  # of a figure of numbers
TITLES = {  # file names without their suffix, but for the matrix → what the files hold, in the order of the page
    MATRIX: "every number: one row per cell, with settings, code and machine",
    "claims": "verdicts on the claims",
    "differences": "every recipe against its reference, with findings",
    "proxies": "how cheap numbers rank pruned modules",
    "variance": "how much each source of randomness moves a score",
    contents.CELLS: "one line per cell",
    contents.TIMELINE: contents.TIMELINE_TITLE,
    **{table.name: "the paper's tables, its numbers next to ours" for table in contents.TABLES},
    **{figure.name: figure.title for figure in contents.FIGURES},
    **{gallery.name: gallery.title for gallery in contents.GALLERIES},
    GRID: "the first hundred images of each model's baseline and of its smallest file, first seed, not selected",
}


def write(
    folder: Path,
    matrix: Matrix,
    findings: Findings,
    paper: pd.DataFrame,
    claims: Mapping[str, Any],
    jobs: pd.DataFrame,
    cells: Path,
) -> None:
    """Write claims.json, and the tables and figures that hold something, into the empty `folder`.

    Args:
        claims: the record of the verdicts, from `verdicts.to_json`.
        jobs: from `timeline.read_jobs`.
        cells: folder of the cells, with the samples of the galleries and the grid of each baseline and smallest file.
            A cell whose row came from another run has none there, so the pictures show others or leave it out.
    """
    files.write_json(folder / CLAIMS, claims)
    write_tables(matrix, findings, paper, claims, folder)
    tables = set(_tables(matrix, findings, paper))
    for path in folder.iterdir():
        if path.suffix == ".csv" or (path.suffix == ".md" and path.stem not in tables):
            path.unlink()  # numbers are in the matrix
    for name, chart in _charts(matrix, findings, paper, jobs, tables):
        for suffix in FORMATS:
            style.save(chart, folder / f"{name}.{suffix}")
        shrink(folder / f"{name}.png")
    drawn = [(cells / cell.path / "samples.npz").is_file() for cell in _cells(matrix)]
    pictured = replace(matrix, frame=matrix.frame[drawn])
    for spec in contents.GALLERIES:
        if any(place.cell for place in placeholders(spec, _cells(pictured), comparison.families(pictured))):
            style.save(samples.figure(pictured, cells, spec), folder / f"{spec.name}.png")
            shrink(folder / f"{spec.name}.png", GALLERY_SCALE)
    for cell in _pictured(pictured, findings):
        name = "-".join([GRID, *([cell.dataset] if matrix.frame["dataset"].nunique() > 1 else [])])
        shrink(cells / cell.path / "grid.png", 1.0, folder / f"{name}-{cell.model}-{cell.optimization}.png")


def written(name: str) -> bool:
    """Return whether a file `name` of a study's folder is one that `write` or the caller can write."""
    stem, suffix = Path(name).stem, Path(name).suffix
    made = {PAGE, MATRIX, CLAIMS}
    return name in made or (stem in TITLES and suffix in (".md", *(f".{kind}" for kind in FORMATS))) or _is_grid(name)


def shrink(path: Path, scale: float = 1.0, out: Path | None = None) -> None:
    """Write the picture in `path`, `scale` times as large and in COLORS colours, to `out` or in its place."""
    with Image.open(path) as picture:
        small = picture if picture.mode == "L" else picture.convert("RGB")
        if scale != 1.0:
            width, height = (round(scale * side) for side in picture.size)
            small = small.resize((width, height), Image.Resampling.LANCZOS)
        if small.mode == "RGB":
            small = small.quantize(COLORS, dither=Image.Dither.NONE)
        with files.atomic(out or path) as temporary:
            small.save(temporary, format="PNG", optimize=True)


def page(name: str, block: str, existing: str | None) -> str:
    """Return the text of a study's page: `existing` with `block` in the place of the old one, or below its title.

    Raises:
        UserError: `existing` has one of the two comments without the other, or one of them twice.
    """
    if existing is None:
        return f"# {name}\n\n{block}\n"
    counts = existing.count(BEGIN), existing.count(END)
    before, _, rest = existing.partition(BEGIN)
    if counts == (0, 0):
        title, _, rest = existing.partition("\n")
        return f"{title}\n\n{block}\n{rest}"
    if counts != (1, 1) or END not in rest:
        raise UserError(
            f"{name}/{PAGE} has {counts[0]} times {BEGIN!r} and {counts[1]} times {END!r}; allowed: one of each in "
            "this order, or none. Delete what is left of the old block, and publish again"
        )
    return before + block + rest.partition(END)[2]


def block(
    study: str,
    preset: str | None,
    matrix: Matrix,
    findings: Findings,
    claims: Mapping[str, Any],
    jobs: pd.DataFrame,
    names: Collection[str],
) -> str:
    """Return the generated part of the page of a study.

    Args:
        study: its name on the command line.
        preset: path of its overlay from the root of the clone; None: config.yaml alone.
        names: of the files in its folder.
    """
    run = "slimdiff run" if preset is None else f"slimdiff run {study}"
    option = " --so-far" if matrix.provenance.get("missing") else ""
    command = f"```sh\n{run}\nslimdiff publish {study}{option}\n```"
    facts = [*facts_of_matrix(preset, matrix, findings, claims), ("time", _time(jobs, _expected_jobs(matrix.frame)))]
    rows = [[what, text] for what, text in facts]
    listed = [[", ".join(f"[{one}]({one})" for one in own), title] for title, own in _by_title(names).items()]
    return "\n\n".join([BEGIN, command, grid(["what", "of this run"], rows), grid(["file", "holds"], listed), END])


def facts_of_matrix(
    preset: str | None, matrix: Matrix, findings: Findings, claims: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield what the matrix alone says of its run, as (what, text)."""
    frame, source = matrix.frame, matrix.provenance
    base = "[config.yaml](../../../config.yaml)"
    yield "configuration", base if preset is None else f"[{preset}](../../../{preset}) over {base}"
    for (dataset, model), own in frame.groupby(["dataset", "model"], sort=False):
        seeds, images = (_enumeration(sorted(own[name].dropna().unique())) for name in ("seed", "n_samples"))
        yield f"{dataset}, {model}", f"{own['optimization'].nunique()} recipes; seeds: {seeds}; images a cell: {images}"
    trainings = _trainings(frame)
    yield "trainings", f"{len(trainings)}; continued from another one: {sum('start' in own for own in trainings)}"
    missing = len(source.get("missing", {}))
    cells = f"{len(frame)} of {len(frame) + missing}, the others are not made yet" if missing else f"{len(frame)}"
    yield "cells", f"{cells}; failed: {(frame['status'] == 'failed').sum()}"
    timed = frame["inference_ms_per_image"].notna()
    disturbed, unknown = frame["disturbed"].fillna(False).sum(), (timed & frame["disturbed"].isna()).sum()
    yield "timed profiles", f"{timed.sum()}; disturbed by others: {disturbed}; not watched: {unknown}"
    found = Counter(own.images.finding for own in findings.differences[REFERENCE].values())
    yield "findings on images", _counts(found)
    yield "verdicts on claims", _counts(claims["verdicts"])
    runs = [source, *source.get("other_runs", [])]
    yield "commit", "; ".join(dict.fromkeys(_commit(run) for run in runs))
    parts = [
        _texts(frame["cpu_model"]),
        " or ".join(dict.fromkeys(f"{run['machine']['cpu_count']} cores" for run in runs)),
        _texts(frame["gpu_model"]) or "no GPU",
    ]
    yield "machine", ", ".join([*filter(None, parts), f"torch {_texts(frame['torch_version'])}"])
    started, ended = min(frame["started_at"].dropna(), default="unknown"), source["written_at"]
    yield "dates", f"first training {_minute(started)}, matrix {_minute(ended)}"


def _commit(source: Mapping[str, Any]) -> str:
    """Return the commit in the origin of a run, in seven digits."""
    commit, _, edited = (source.get("git_commit") or "unknown").partition("-")
    return commit[:7] + (", with uncommitted edits" if edited else "")


def _time(jobs: pd.DataFrame, expected: int) -> str:
    """Return the wall time and the processor time of the recorded jobs."""
    known = jobs["stage"].isin([*TRAINING_STAGES, *CELL_STAGES]).sum()
    totals = timeline.totals(jobs)
    each = zip(totals["stage"].astype(str), totals["cpu_seconds"].tolist(), strict=True)
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in each)
    processor = f"{duration(jobs['cpu_seconds'].sum())} of processor time ({stages})"
    lost = "" if known >= expected else f", of {known} of {expected} jobs, whose records alone were kept"
    if not jobs.attrs["started_at"]:
        return f"{processor}{lost}; wall time unknown, since the records were copied"
    wall = jobs.groupby("session")["end"].max().sum()
    return f"{duration(wall)} from the first job to the last, pauses left out; {processor}{lost}"


def _expected_jobs(frame: pd.DataFrame) -> int:
    """Return the number of jobs of the cells and of their trainings, as `timeline.read_jobs` counts them."""
    return len(frame) * len(CELL_STAGES) + len(frame[["dataset", "model", "training", "seed"]].drop_duplicates())


def _trainings(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the settings of every training behind the rows, each once."""
    chains = [json.loads(settings) for settings in frame["settings"]]
    return list({canonical(one): one for own in chains for one in (*own.get("starts", ()), own["train"])}.values())


def _tables(matrix: Matrix, findings: Findings, paper: pd.DataFrame) -> Iterator[str]:
    """Yield the names of the tables that hold something of this matrix."""
    yield from ("claims", "differences", contents.CELLS)
    for spec in contents.TABLES:
        frame = comparison.table(matrix, findings, paper, replace(spec, measures=()))
        others = ~frame["optimization"].isin([BASELINE, spec.baseline])
        if (others & (frame["status"] != comparison.NOT_RUN)).any():
            yield spec.name
    if (differences.table(matrix, findings, paper, contents.TABLES)["direction"] != "").any():
        yield "versus-paper"
    if len(findings.proxies):
        yield "proxies"
    if len(findings.variance):
        yield "variance"


def _charts(
    matrix: Matrix, findings: Findings, paper: pd.DataFrame, jobs: pd.DataFrame, tables: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """Yield name and chart of the figures of numbers that hold something; `tables` are those that do."""
    frames = {
        "sensitivity": findings.module_ratios,
        "sparsity": findings.sparse_recipes,
        "guidance": findings.guided_recipes,
    }
    for spec in contents.FIGURES:
        if spec.kind == "techniques":
            full = bool(set(spec.tables) & set(tables))
        else:
            full = bool(len(frames[spec.kind])) if spec.kind in frames else spec.kind == "pareto" or spec.name in tables
        if full:
            yield spec.name, draw(matrix, findings, paper, spec)
    if len(jobs):
        yield contents.TIMELINE, timeline.figure(jobs, contents.TIMELINE_TITLE)


def _pictured(matrix: Matrix, findings: Findings) -> Iterator[Cell]:
    """Yield the first cell of each model's baseline and of its recipe with the smallest file."""
    first = {(cell.dataset, cell.model, cell.optimization): cell for cell in reversed(_cells(matrix, failed=False))}
    for dataset, model in dict.fromkeys((cell.dataset, cell.model) for cell in _cells(matrix)):
        own = [recipe for recipe in first if recipe[:2] == (dataset, model)]
        sizes = {recipe: findings.summary(PACKED.column, recipe).mean for recipe in own}
        smallest = min((recipe for recipe in own if sizes[recipe] > 0), key=sizes.__getitem__, default=None)
        chosen = [(dataset, model, BASELINE), *([smallest] if smallest else [])]
        yield from dict.fromkeys(first[recipe] for recipe in chosen if recipe in first)


def _cells(matrix: Matrix, failed: bool = True) -> list[Cell]:
    frame = matrix.frame if failed else matrix.frame[matrix.frame["status"] == "ok"]
    keys = frame[list(KEY)].itertuples(index=False, name=None)
    return [Cell(dataset, model, recipe, int(seed)) for dataset, model, recipe, seed in keys]


def _is_grid(name: str) -> bool:
    return name.startswith(f"{GRID}-") and name.endswith(".png")


def _by_title(names: Collection[str]) -> dict[str, list[str]]:
    """Return title → names of the files that `write` writes, the matrix first, then as TITLES has them."""
    found: dict[str, list[str]] = {}
    for stem, title in TITLES.items():
        own = [one for one in sorted(names) if stem in (one, Path(one).stem) or (stem == GRID and _is_grid(one))]
        if own:
            found.setdefault(title, []).extend(own)
    return found


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in counts.items() if number) or NOTHING


def _texts(column: "pd.Series[str]") -> str:
    return ", ".join(map(str, column.dropna().unique()))


def _enumeration(numbers: Sequence[int]) -> str:
    """Return sorted whole numbers as text: 0 to 2 for three or more without a gap."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(f"{number:,}" for number in numbers) or NOTHING


def _minute(moment: str) -> str:
    """Return an ISO 8601 time as 2026-11-29 18:52 UTC."""
    try:
        return f"{datetime.datetime.fromisoformat(moment).astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return moment
