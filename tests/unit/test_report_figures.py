"""Figures: their content, that any matrix can be drawn, and that they work offline."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pytest
import synthetic
from altair.utils import schemapi

from slimdiff.analysis import findings
from slimdiff.analysis import paper as comparison
from slimdiff.analysis.matrix import Matrix, read_paper
from slimdiff.report import contents
from slimdiff.report.figures import labels, style, write

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "workflow" / "resources" / "paper_reference.csv"
FIGURES = {figure.name: figure for figure in contents.FIGURES}
ELEVEN = [
    "baseline",
    "linear-8bit-frozen",
    *("random-10", "random-30", "l1-10", "l1-30", "l1-70", "random-30-middle"),
    *("groups-2", "groups-4", "groups-max"),
]
MATRICES = {
    "one cell": synthetic.full(1, ["baseline"]),
    "eleven recipes of one seed": synthetic.full(1, ELEVEN),
    "all recipes of three seeds": synthetic.full(3),
    "failed cells": synthetic.matrix(
        [
            synthetic.row(),
            synthetic.row("l1-30", 0),
            synthetic.row("l1-30", 1, status="failed"),
            synthetic.row("groups-2", status="failed"),
        ]
    ),
    "no baseline": synthetic.matrix([synthetic.row(status="failed"), synthetic.row("groups-2")]),
    "nothing timed": synthetic.matrix(
        synthetic.row(name, inference_ms_per_image=None, batch_size=None) for name in ("baseline", "l1-30")
    ),
    "nothing but failures": synthetic.matrix([synthetic.row(status="failed")]),
    "two data sets and three models": synthetic.matrix(
        synthetic.row(optimization, dataset=dataset, model=model)
        for dataset in ("mnist", "fashion_mnist")
        for model in ("ncsn", "ncsn-wide", "ddpm")
        for optimization in ("baseline", "groups-2")
    ),
    "eight data sets and many recipes": synthetic.matrix(
        synthetic.row(optimization, dataset=f"photos-{number}", model=model)
        for number in range(8)
        for model in ("ncsn", "ddpm")
        for optimization in ("baseline", *(f"mine-{place}" for place in range(23)))
    ),
}


@pytest.fixture(scope="module", autouse=True)
def checked_when_saved() -> Iterator[None]:
    """Let Altair check whole charts when they are saved, not also each of their parts when it is made."""
    with schemapi.debug_mode(False):
        yield


@pytest.fixture(scope="module")
def paper() -> pd.DataFrame:
    return read_paper(PAPER)


FOUND: dict[int, tuple[Matrix, findings.Findings]] = {}  # the matrix stays, so no other gets its id
DRAWN: dict[tuple[int, str], alt.VConcatChart] = {}


def draw(matrix: Matrix, paper: pd.DataFrame, name: str) -> alt.VConcatChart:
    """Return a figure of a matrix, drawn once for all tests."""
    if id(matrix) not in FOUND:
        FOUND[id(matrix)] = (matrix, findings.find(matrix, synthetic.MARGINS))
    if (id(matrix), name) not in DRAWN:
        DRAWN[id(matrix), name] = write.draw(matrix, FOUND[id(matrix)][1], paper, FIGURES[name])
    return DRAWN[id(matrix), name]


def records(chart: alt.VConcatChart) -> list[dict[str, Any]]:
    """Return all data of the chart."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())
def test_every_matrix_can_be_drawn(tmp_path: Path, paper: pd.DataFrame, matrix: Matrix, figure: str) -> None:
    path = tmp_path / f"{figure}.svg"
    style.save(draw(matrix, paper, figure), path)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r'(translate\(|d="|x="|y=")[^"]*NaN', text), "a mark without coordinates"
    assert FIGURES[figure].title in text


def test_figure_1_shows_ours_and_the_papers(paper: pd.DataFrame) -> None:
    matrix = MATRICES["failed cells"]
    texts = [str(row.get("text")) for row in records(draw(matrix, paper, "figure-1"))]
    assert "182.1" in texts
    assert "154.3  (−15 %)" in texts
    assert "failed" in texts
    assert texts.count("not run") == 14
    ours = matrix.frame.loc[matrix.frame["optimization"] == "baseline", "fid_indomain"].iloc[0]
    assert f"{ours:.1f}" in texts


def test_both_halves_span_the_same_ratio(paper: pd.DataFrame) -> None:
    """Only then do equal distances from the baselines mean equal relative changes."""
    chart = draw(MATRICES["eleven recipes of one seed"], paper, "figure-1").to_dict()
    ours, theirs = chart["vconcat"][0]["hconcat"]
    domains = [half["layer"][0]["encoding"]["x"]["scale"]["domain"] for half in (ours, theirs)]
    baselines = [
        chart["datasets"][half["layer"][0]["data"]["name"]][0]["value"] for half in (ours, theirs)
    ]  # the dashed line comes first
    assert baselines[1] == 182.1
    (low, high), (their_low, their_high) = domains
    assert low / baselines[0] == pytest.approx(their_low / 182.1)
    assert high / baselines[0] == pytest.approx(their_high / 182.1)


def test_intervals_need_several_seeds(paper: pd.DataFrame) -> None:
    def intervals(name: str) -> int:
        return sum("start" in row for row in records(draw(MATRICES[name], paper, "figure-1")))

    assert intervals("eleven recipes of one seed") == 0
    assert intervals("all recipes of three seeds") == len(synthetic.OPTIMIZATIONS)


@pytest.mark.parametrize("figure", ["figure-1", "figure-2"])
def test_many_recipes_do_not_crowd_a_figure(paper: pd.DataFrame, figure: str) -> None:
    model = {"figure-1": "ncsn", "figure-2": "ddpm"}[figure]
    rows = [synthetic.row(model=model, fid_indomain=40.0), synthetic.row("ema", model=model, fid_indomain=900.0)]
    rows += [synthetic.row(f"mine-{place:02}", model=model, fid_indomain=100.0 - place) for place in range(60)]
    rows += [synthetic.row("broken", model=model, status="failed")]
    chart = draw(synthetic.matrix(rows), paper, figure)
    shown = {row["optimization"] for row in records(chart) if "optimization" in row}
    assert {name for name in shown if name.startswith("mine")} == {f"mine-{place:02}" for place in range(40, 60)}
    assert "broken" not in shown
    listed = {line.optimization for name in FIGURES[figure].tables for line in lines_of(name, paper) if line.paper}
    assert listed <= shown
    subtitle = " ".join(chart.to_dict()["title"]["subtitle"])
    left_out = 42 if figure == "figure-1" else 41  # only the tables of the DDPM list `ema`
    assert f"{left_out} others are left out, see tables/cells.csv" in subtitle


def lines_of(name: str, paper: pd.DataFrame) -> list[comparison.Line]:
    table = next(table for table in contents.TABLES if table.name == name)
    return comparison.spec_lines(paper, table, table.families[0])


@pytest.mark.parametrize("figure", [name for name in FIGURES if name not in ("sensitivity", "sparsity", "guidance")])
def test_a_figure_is_limited_in_size(paper: pd.DataFrame, figure: str) -> None:
    chart = draw(MATRICES["eight data sets and many recipes"], paper, figure).to_dict()
    assert len(chart["vconcat"]) == style.MAX_PANELS
    subtitle = " ".join(chart["title"]["subtitle"])
    first = "photos-3" if figure == "versus-paper" else "photos-6"  # it has two panels for each data set
    assert re.search(rf"No room here, but in tables/cells\.csv: {first}[^;]*; photos-[^;]*", subtitle)
    assert re.search(r"photos-7[^;]*\.$|and \d+ more\.$", subtitle)
    assert max(map(len, chart["title"]["subtitle"])) <= style.LINE_CHARACTERS


def test_few_recipes_leave_nothing_out(paper: pd.DataFrame) -> None:
    for figure in FIGURES:
        subtitle = " ".join(draw(MATRICES["eleven recipes of one seed"], paper, figure).to_dict()["title"]["subtitle"])
        assert "left out" not in subtitle
        assert "No room" not in subtitle


def test_figure_2_is_about_the_ddpm(paper: pd.DataFrame) -> None:
    matrix = synthetic.matrix([synthetic.row(fid_indomain=123.4), synthetic.row(model="ddpm", fid_indomain=56.7)])
    drawn = records(draw(matrix, paper, "figure-2"))
    texts = [str(row.get("text")) for row in drawn]
    assert "56.7" in texts
    assert "123.4" not in texts
    assert "150.4" in texts
    assert "130.4  (−13 %)" in texts
    kinds = {row["optimization"]: row["kind"] for row in drawn if "kind" in row}
    assert (kinds["ema"], kinds["l1-10"], kinds["ema+l1-10"], kinds["groups-2"]) == (
        "EMA",
        "pruned",
        "several",
        "grouped",
    )


def test_our_changes_and_the_papers_share_an_axis(paper: pd.DataFrame) -> None:
    rows = [synthetic.row(seed=seed, fid_indomain=40.0 + seed) for seed in range(3)]
    rows += [synthetic.row("groups-2", seed, fid_indomain=20.0 + seed) for seed in range(3)]
    rows += [synthetic.row("l1-70", status="failed")]
    chart = draw(synthetic.matrix(rows), paper, "versus-paper").to_dict()
    drawn = [row for data in chart["datasets"].values() for row in data]
    points = {(row["optimization"], row["source"]): row["value"] for row in drawn if "value" in row and "source" in row}
    assert points["groups-2", "the paper"] == pytest.approx(0.0 + 150.90 / 150.38), "the last panel is the DDPM's"
    ours = [row for row in drawn if row.get("source") == "ours" and "start" in row]
    assert [row["optimization"] for row in ours] == ["groups-2"]
    assert ours[0]["start"] < points["groups-2", "ours"] < ours[0]["end"]
    assert ("l1-70", "ours") not in points
    assert ("baseline", "ours") not in points
    scales = [
        layer["encoding"]["x"]["scale"]["domain"]
        for panel in chart["vconcat"]
        for layer in panel["layer"]
        if "scale" in layer["encoding"].get("x", {})
    ]
    assert len(chart["vconcat"]) == 2
    assert all(scale == scales[0] for scale in scales)
    band = next(row for row in drawn if set(row) == {"start", "end"})
    assert (band["start"], band["end"]) == (0.8, 1.25)
    texts = [row.get("text") for row in drawn]
    assert "failed" in texts
    assert "−15 %" in texts


def test_the_fill_of_a_point_shows_its_family(paper: pd.DataFrame) -> None:
    both = draw(MATRICES["two data sets and three models"], paper, "pareto").to_dict()
    assert "filled for ncsn, hollow for ddpm" in " ".join(both["title"]["subtitle"])
    fills = [
        layer["encoding"]["fillOpacity"]
        for panel in both["vconcat"]
        for layer in panel["layer"]
        if "fillOpacity" in layer["encoding"]
    ]
    assert len(fills) == 2
    for fill in fills:
        assert fill["field"] == "family"
        assert dict(zip(fill["scale"]["domain"], fill["scale"]["range"], strict=True)) == {"ncsn": 1.0, "ddpm": 0.0}
    one = draw(MATRICES["eleven recipes of one seed"], paper, "pareto").to_dict()
    assert "family" not in " ".join(one["title"]["subtitle"])


def test_the_front_is_marked_and_failures_are_named(paper: pd.DataFrame) -> None:
    rows = [
        synthetic.row(fid_indomain=40.0, size_gzip_bytes=4_000_000),
        synthetic.row("groups-2", fid_indomain=30.0, size_gzip_bytes=2_500_000),
        synthetic.row("groups-4", fid_indomain=60.0, size_gzip_bytes=1_700_000),
        synthetic.row("l1-10", fid_indomain=41.0, size_gzip_bytes=3_900_000),
        synthetic.row("l1-30", status="failed"),
    ]
    chart = draw(synthetic.matrix(rows), paper, "pareto")
    front = {row["name"] for row in records(chart) if row.get("front") and "label_x" in row}
    assert front == {"groups-2", "groups-4"}
    assert any("l1-30" in line for line in chart.to_dict()["title"]["subtitle"])


def test_names_distinguish_two_models_of_one_data_set(paper: pd.DataFrame) -> None:
    chart = draw(MATRICES["two data sets and three models"], paper, "pareto")
    names = {row["name"] for row in records(chart) if "name" in row}
    assert {"ncsn: baseline", "ddpm: groups-2"} <= names
    assert len(chart.to_dict()["vconcat"]) == 2


@pytest.mark.parametrize("span", [(31.0, 88.0), (140.0, 390.0), (0.9, 4.4), (24.0, 150.0), (0.5, 900.0), (82.0, 140.0)])
def test_axes_name_a_handful_of_round_values(span: tuple[float, float]) -> None:
    ticks = style.LogAxis(*span).ticks()
    assert 3 <= len(ticks) <= 12
    assert all(span[0] <= tick <= span[1] for tick in ticks)


def test_pixels_and_values_are_inverse() -> None:
    axis = style.LogAxis(2.0, 50.0)
    assert axis.pixel(2.0, 300) == 0.0
    assert axis.pixel(50.0, 300) == pytest.approx(300.0)
    assert axis.value(axis.pixel(17.0, 300), 300) == pytest.approx(17.0)


def test_kinds_differ_in_colour_and_in_shape() -> None:
    colors, shapes = zip(*style.KINDS.values(), strict=True)
    assert len(set(colors)) == len(set(shapes)) == len(style.KINDS)


def test_names_cover_neither_points_nor_lines_nor_each_other() -> None:
    points = [(100.0 + 9 * i, 100.0 + 40 * math.sin(i)) for i in range(20)]
    widths = [60.0 + i for i in range(20)]
    wall = (0.0, 150.0, 400.0, 150.0)
    places = labels.place_boxes(points, widths, 13, (400, 300), [wall])
    boxes = [(p.left, p.middle - 6.5, p.left + w, p.middle + 6.5) for p, w in zip(places, widths, strict=True) if p]
    assert len(boxes) >= 12
    dots = [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    everything = [*boxes, *dots, wall]
    for box in boxes:
        assert 0 <= box[0] < box[2] <= 400
        assert 0 <= box[1] < box[3] <= 300
        for other in everything:
            apart = box[2] <= other[0] or box[0] >= other[2] or box[3] <= other[1] or box[1] >= other[3]
            assert other is box or apart


def test_a_name_far_from_its_point_gets_a_line() -> None:
    near, far = labels.place_boxes([(50, 50), (200, 150)], [40, 40], 13, (400, 300), [(150, 100, 250, 200)])
    assert near is not None
    assert not near.leader
    assert far is not None
    assert far.leader
    assert labels.place_boxes([(5, 5)], [500], 13, (400, 300)) == [None]


def test_every_output_has_a_caption_and_is_declared() -> None:
    rule = (ROOT / "workflow" / "rules" / "report.smk").read_text(encoding="utf-8")
    for name in (*contents.TABLE_NAMES, *contents.FIGURE_NAMES):
        assert (ROOT / "workflow" / "report" / f"{name}.rst").is_file()
    for names in ("TABLE_NAMES", "FIGURE_NAMES"):
        assert f"for name in {names}" in rule
