"""Figures of samples: their cells, their images, their layout, and their text without images."""

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
import synthetic
from builders import SOURCE
from PIL import Image

from slimdiff.analysis import matrix as results
from slimdiff.config.cells import Cell
from slimdiff.io.samples import Samples, write_samples
from slimdiff.report import contents
from slimdiff.report.figures import contact_sheet, style
from slimdiff.report.figures import samples as figures
from slimdiff.report.selection import Placeholder, placeholders, sample_cells
from slimdiff.stages import claims, report

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "workflow" / "resources" / "claims.yaml"
GALLERIES = {gallery.name: gallery for gallery in contents.GALLERIES}
FAMILIES = {name: model["family"] for name, model in synthetic.CONFIG["models"].items()}
BEST = "groups-2+l1-10"
CLASSES = ("zero", "one", "two")


def put_samples(root: Path, cell: Cell, images: np.ndarray, labels: Sequence[int] = (), **changes: Any) -> None:
    """Write the samples file of `cell` as the stage `sample` does."""
    values: dict[str, Any] = {"classes": CLASSES, "sampler": {}, "network_evaluations": 1.0, **changes}
    path = root / cell.path / "samples.npz"
    write_samples(path, Samples(images, np.array(labels, np.int64), **values))


def plain_images(n: int, channels: int = 1, size: int = 8) -> np.ndarray:
    """Return images; every pixel of image i is i."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, channels, size, size))


def rows_of(cells: Iterable[Cell], **changes: Any) -> list[dict[str, Any]]:
    return [synthetic.row(c.optimization, c.seed, dataset=c.dataset, model=c.model, **changes) for c in cells]


def data(chart: alt.VConcatChart) -> list[dict[str, Any]]:
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def shown(chart: alt.VConcatChart) -> list[np.ndarray]:
    """Return the pictures in `chart`."""
    urls = [row["url"] for row in data(chart) if "url" in row]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def heads(chart: alt.VConcatChart) -> list[str]:
    """Return title and subtitle of each panel."""
    titles = [panel["title"] for block in chart.to_dict()["vconcat"] for panel in block["hconcat"] if "title" in panel]
    return [" ".join([*title["text"], "|", *title["subtitle"]]) for title in titles]


def subtitle(chart: alt.VConcatChart) -> str:
    return " ".join(chart.to_dict()["title"]["subtitle"])


def middles(picture: np.ndarray, columns: int, rows: int, pitch: float) -> list[list[int]]:
    """Return the value of each image's centre, column by column."""
    height = (len(picture) + contact_sheet.GAP) / rows
    middle = (height - contact_sheet.GAP) / 2
    return [
        [int(picture[int(row * height + middle), int((column + 0.5) * pitch)]) for row in range(rows)]
        for column in range(columns)
    ]


def test_the_first_seed_that_the_matrix_lists_is_shown() -> None:
    cells = [Cell("mnist", "ncsn", recipe, seed) for recipe in ("groups-2", "baseline") for seed in (3, 0)]
    found = [place.cell for place in placeholders(GALLERIES["figure-5"], cells, FAMILIES)]
    assert found[:2] == [Cell("mnist", "ncsn", "baseline", 3), Cell("mnist", "ncsn", "groups-2", 3)]


def test_figure_5_shows_baseline_and_best_recipe_of_every_model() -> None:
    recipes = ("baseline", "groups-2", BEST)
    cells = [Cell(d, m, r, 0) for d in ("mnist", "digits") for m in ("ddpm", "ncsn-wide", "ncsn") for r in recipes]
    found = [place.cell for place in placeholders(GALLERIES["figure-5"], cells, FAMILIES)]
    expected = [
        ("ncsn-wide", "baseline"),
        ("ncsn-wide", "groups-2"),
        ("ncsn", "baseline"),
        ("ncsn", "groups-2"),
        ("ddpm", "baseline"),
        ("ddpm", BEST),
    ]
    assert found == [Cell(d, model, recipe, 0) for d in ("mnist", "digits") for model, recipe in expected]


def test_figure_6_prefers_the_papers_best_recipe() -> None:
    cells = [Cell("mnist", "ddpm", recipe, 1) for recipe in ("ema", "baseline", "groups-2", BEST)]
    cells += [Cell("digits", "ddpm", "baseline", 2), Cell("photos", "ddpm", "ema", 0), Cell("mnist", "ncsn", BEST, 0)]
    assert placeholders(GALLERIES["figure-6"], cells, FAMILIES) == [
        Placeholder("mnist", "ddpm", (BEST, "baseline"), Cell("mnist", "ddpm", BEST, 1)),
        Placeholder("digits", "ddpm", (BEST, "baseline"), Cell("digits", "ddpm", "baseline", 2)),
        Placeholder("photos", "ddpm", (BEST, "baseline"), None),
    ]


def test_a_model_of_another_family_is_not_shown_instead() -> None:
    """Even if the model has the name of the family."""
    cells = [Cell("mnist", "ddpm", "baseline", 0)]
    found = placeholders(GALLERIES["figure-6"], cells, {"ddpm": "ncsn"})
    assert [slot.cell for slot in found] == [None]


def test_rules_request_the_samples_that_the_figures_read(tmp_path: Path) -> None:
    optimizations = ["ema", "baseline", "groups-2", BEST]
    matrix = [
        {"dataset": "mnist", "model": "ncsn", "optimizations": optimizations, "seeds": [1, 0]},
        {"dataset": "digits", "model": "ddpm", "optimizations": optimizations, "seeds": [5]},
    ]
    requested = sample_cells({**synthetic.CONFIG, "matrix": matrix})
    assert set(requested) == {
        Cell("mnist", "ncsn", "baseline", 1),
        Cell("mnist", "ncsn", "groups-2", 1),
        Cell("digits", "ddpm", "baseline", 5),
        Cell("digits", "ddpm", BEST, 5),
    }
    assert len(requested) == 4
    for cell in requested:
        put_samples(tmp_path, cell, plain_images(9), [0, 1, 2] * 3)
    cells = [Cell(e["dataset"], e["model"], o, s) for e in matrix for o in optimizations for s in e["seeds"]]
    read = {head for spec in contents.GALLERIES for head in heads(draw(rows_of(cells), tmp_path, spec.name))}
    names = {f"{c.dataset}, {c.model}: {c.optimization}, seed {c.seed}" for c in requested}
    assert {head.partition(" |")[0] for head in read} == names


def draw(rows: list[dict[str, Any]], root: Path, name: str) -> alt.VConcatChart:
    return figures.figure(synthetic.matrix(rows), root, GALLERIES[name])


def test_rules_select_cells_without_numpy_pandas_or_torch() -> None:
    code = (
        "import sys, slimdiff.report.selection, slimdiff.report.contents;"
        "print(*{'numpy', 'pandas', 'torch', 'altair', 'PIL'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == ""


def test_the_first_images_are_shown_in_reading_order(tmp_path: Path) -> None:
    cell = Cell("mnist", "ncsn", "baseline", 0)
    put_samples(tmp_path, cell, plain_images(70))
    [picture] = shown(draw(rows_of([cell]), tmp_path, "figure-5"))
    pitch = 96 + contact_sheet.GAP  # images of 8 pixels are enlarged to 96
    columns = middles(picture, figures.COLUMNS, figures.ROWS, pitch)
    assert columns == [[column + 10 * row for row in range(5)] for column in range(10)]


def test_each_class_has_the_first_of_its_images_below_its_name(tmp_path: Path) -> None:
    cell = Cell("mnist", "ddpm", "baseline", 0)
    labels = [2, 2, 0, 1, 0, 1, 2, 0, 1] + [0] * 12 + [1] * 12 + [2] * 12  # in arbitrary order
    put_samples(tmp_path, cell, plain_images(len(labels)), labels)
    chart = draw(rows_of([cell]), tmp_path, "figure-6")
    names = sorted((row["x"], row["name"]) for row in data(chart) if "name" in row)
    assert [name for _, name in names] == list(CLASSES)
    [picture] = shown(chart)
    columns = middles(picture, 3, figures.IMAGES_PER_CLASS, figures.CLASS_PITCH_PX)
    for label, column in enumerate(columns):
        assert column == [i for i, own in enumerate(labels) if own == label][: figures.IMAGES_PER_CLASS]
    places = [figures.DENSITY * x for x, _ in names]
    assert places == pytest.approx([(column + 0.5) * figures.CLASS_PITCH_PX for column in range(3)])


def test_only_the_classes_that_fit_are_shown(tmp_path: Path) -> None:
    cell = Cell("mnist", "ddpm", "baseline", 0)
    names = np.array([f"class {number}" for number in range(40)])
    put_samples(tmp_path, cell, plain_images(80, size=64), [*range(40)] * 2, classes=names)
    chart = draw(rows_of([cell]), tmp_path, "figure-6")
    assert [row["name"] for row in data(chart) if "name" in row] == list(names[: figures.MAX_CLASSES])
    [picture] = shown(chart)
    assert picture.shape[1] <= 2000


def test_titles_name_the_cell_and_its_score_or_why_it_failed(tmp_path: Path) -> None:
    good, bad = (Cell("mnist", "ddpm", recipe, 4) for recipe in ("baseline", BEST))
    put_samples(tmp_path, good, plain_images(6), [0, 1, 2] * 2)
    put_samples(tmp_path, bad, np.zeros((0, 1, 8, 8), np.uint8), status="failed", reason="loss is NaN")
    rows = rows_of([good], fid_indomain_pct=12.345) + rows_of([bad], status="failed")
    base, best = heads(draw(rows, tmp_path, "figure-5"))
    assert base == "mnist, ddpm: baseline, seed 4 | in-domain FID 12.35 %" or base.endswith("12.34 %")
    assert best == f"mnist, ddpm: {BEST}, seed 4 | failed: train: loss is NaN at step 12"
    labelled = draw(rows, tmp_path, "figure-6")
    assert heads(labelled) == [best]
    assert not shown(labelled)
    assert "no images" in [row.get("text") for row in data(labelled)]


def test_degenerate_images_are_shown_if_they_exist(tmp_path: Path) -> None:
    cell = Cell("mnist", "ncsn", "baseline", 0)
    put_samples(tmp_path, cell, plain_images(1), status="failed", reason="all images are alike")
    chart = draw(rows_of([cell], status="failed", reason="sample: all images are alike"), tmp_path, "figure-5")
    assert len(shown(chart)) == 1
    assert "failed: sample: all images are alike" in heads(chart)[0]


def test_images_without_labels_have_no_columns(tmp_path: Path) -> None:
    cell = Cell("mnist", "ddpm", "baseline", 0)
    put_samples(tmp_path, cell, plain_images(6))
    chart = draw(rows_of([cell]), tmp_path, "figure-6")
    assert not shown(chart)
    assert "no labels" in [row.get("text") for row in data(chart)]


def test_what_the_matrix_lacks_is_named(tmp_path: Path) -> None:
    cell = Cell("mnist", "ncsn", "baseline", 0)
    put_samples(tmp_path, cell, plain_images(6))
    rows = rows_of([cell])
    chart = draw(rows, tmp_path, "figure-5")
    assert len(heads(chart)) == 1
    lacking = f"Not in the matrix: mnist, ncsn: groups-2; mnist, ddpm: baseline; mnist, ddpm: {BEST}."
    assert lacking in subtitle(chart)
    empty = draw(rows, tmp_path, "figure-6")
    assert f"Not in the matrix: mnist, ddpm: {BEST} or baseline." in subtitle(empty)
    assert "The matrix holds no cell of this figure." in [row.get("text") for row in data(empty)]
    style.save(empty, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")


def test_only_the_models_that_fit_are_shown(tmp_path: Path) -> None:
    cells = [Cell(f"photos-{number}", "ddpm", "baseline", 0) for number in range(8)]
    for place, cell in enumerate(cells[: style.MAX_PANELS]):  # the others are not read
        put_samples(tmp_path, cell, plain_images(6) + np.uint8(place), [0, 1, 2] * 2)
    chart = draw(rows_of(cells), tmp_path, "figure-6")
    assert len(shown(chart)) == style.MAX_PANELS
    assert "No room here: photos-6, ddpm; photos-7, ddpm." in subtitle(chart)


def test_small_images_are_enlarged_pixel_by_pixel() -> None:
    image = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 2) * 60
    sheet = contact_sheet.sheet([image], tile=11)
    assert sheet.shape == (10, 10 + contact_sheet.GAP, 1)
    inside = sheet[:, contact_sheet.GAP // 2 : -contact_sheet.GAP // 2, 0]
    assert np.array_equal(inside, np.kron(image[0, 0], np.ones((5, 5), np.uint8)))
    assert (sheet[:, : contact_sheet.GAP // 2] == contact_sheet.WHITE).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_are_shrunk(channels: int) -> None:
    sheet = contact_sheet.sheet([plain_images(3, channels, 300)[2:]], tile=96)
    assert sheet.shape == (96, 96 + contact_sheet.GAP, channels)
    assert (sheet[:, 4:90] == 2).all()


def test_colours_are_kept(tmp_path: Path) -> None:
    cell = Cell("mnist", "ncsn", "baseline", 0)
    colour = np.array([200, 100, 50], np.uint8)
    put_samples(tmp_path, cell, np.broadcast_to(colour[None, :, None, None], (1, 3, 8, 8)))
    [picture] = shown(draw(rows_of([cell]), tmp_path, "figure-5"))
    assert picture[40, 40].tolist() == colour.tolist()


def test_fewer_images_than_places_are_drawn() -> None:
    assert [len(column) for column in contact_sheet.first_columns(plain_images(13), 10, 5)] == [2, 2, 2, *[1] * 7]
    assert [len(column) for column in contact_sheet.first_columns(plain_images(3), 10, 5)] == [1, 1, 1]
    samples = Samples(plain_images(4), np.array([2, 2, 2, 0]), CLASSES, sampler={}, network_evaluations=1.0)
    assert {name: len(images) for name, images in contact_sheet.class_columns(samples, 10, 10).items()} == {
        "zero": 1,
        "two": 3,
    }
    assert contact_sheet.sheet(list(contact_sheet.class_columns(samples, 10, 10).values()), 8).shape == (32, 24, 1)


def test_the_stage_writes_everything_and_html_fetches_nothing(tmp_path: Path) -> None:
    cells = [Cell("mnist", "ncsn", recipe, 0) for recipe in ("baseline", "groups-2", "groups-max", "l1-30")]
    cells += [Cell("mnist", "ddpm", "baseline", 0)]
    for cell in cells:
        put_samples(tmp_path / "cells", cell, plain_images(6, size=28), [0, 1, 2] * 2)
    matrix = tmp_path / "matrix.parquet"
    results.write_matrix(matrix, synthetic.frame(rows_of(cells)), {"config": synthetic.CONFIG})
    paper = ROOT / "workflow" / "resources" / "paper_reference.csv"
    tables, figures = tmp_path / "tables", tmp_path / "figures"
    record, statistics = tmp_path / "claims.json", tmp_path / "findings.json"
    claims.main(
        [
            "--settings",
            json.dumps({"margins": asdict(synthetic.MARGINS)}),
            "--matrix",
            str(matrix),
            "--paper",
            str(paper),
            "--claims",
            str(CLAIMS),
            "--out",
            str(record),
            "--out-findings",
            str(statistics),
        ]
    )
    inputs = ["--matrix", str(matrix), "--paper", str(paper), "--claims", str(record), "--findings", str(statistics)]
    inputs += ["--cells", str(tmp_path / "cells"), "--code", "abc"]
    inputs += ["--trainings", str(tmp_path / "train"), "--benchmarks", str(tmp_path / "benchmarks")]
    report.main([*inputs, "--out-tables", str(tables), "--out-figures", str(figures)])
    expected = {f"{name}.{suffix}" for name in contents.TABLE_NAMES for suffix in contents.TABLE_FORMATS}
    assert {path.name for path in tables.iterdir()} == expected
    expected = {f"{name}.{suffix}" for name in contents.FIGURE_NAMES for suffix in contents.FIGURE_FORMATS}
    assert {path.name for path in figures.iterdir()} == expected
    for name in contents.FIGURE_NAMES:
        assert (figures / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<script src=" not in (figures / f"{name}.html").read_text(encoding="utf-8")
    assert json.dumps("groups-max") in (figures / "pareto.html").read_text(encoding="utf-8")
    for name in GALLERIES:
        assert "data:image/png;base64," in (figures / f"{name}.svg").read_text(encoding="utf-8")
        with Image.open(figures / f"{name}.png") as picture:
            assert picture.width <= 2200
