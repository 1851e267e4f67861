"""The page: its content, its security policy, and its size."""

import base64
import datetime
import hashlib
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pagefolder
import pytest
import synthetic
from jsonschema import Draft202012Validator

from slimdiff.analysis import findings
from slimdiff.analysis.matrix import read_paper
from slimdiff.config.cells import Cell
from slimdiff.errors import UserError
from slimdiff.report import contents, selection
from slimdiff.report.figures import contact_sheet, pareto, timeline
from slimdiff.report.page import build, charts, images
from slimdiff.report.page.dot_plots import dot_plots

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
ROWS = [
    synthetic.row(),
    synthetic.row("l1-30"),
    synthetic.row("groups-2", status="failed", reason=f"train: {ATTACK}"),
    synthetic.row(model="ddpm", fid_indomain=20.0, class_accuracy=0.9),
    synthetic.row("l1-30", model="ddpm", fid_indomain=22.0),
]
CONFIG = synthetic.CONFIG | {"note": ATTACK}


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the text of each script and style."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in self.texts else ""
        if self._inside:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside][-1] += data
        else:
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page")
    pagefolder.write(place, ROWS, CONFIG, classes=("zero", ATTACK, "two"))
    pagefolder.build(place)
    return place


@pytest.fixture(scope="module")
def parsed(folder: Path) -> Tags:
    found = Tags()
    found.feed((folder / "report.html").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def data(parsed: Tags) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(parsed.texts["script"][0])
    return found


def test_text_of_users_is_escaped(parsed: Tags) -> None:
    assert ATTACK in parsed.text, "the reason and the configuration are shown as they are"
    assert [attrs.get("type") for tag, attrs in parsed.tags if tag == "script"] == ["application/json", None, None]
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]


def test_text_of_users_reaches_the_script_as_data(data: dict[str, Any]) -> None:
    requested = [cell["labels"][:3] for cell in data["cells"] if cell["model"] == "ddpm"]
    assert requested == [["zero", ATTACK, "two"]] * 2


def test_nothing_is_fetched(parsed: Tags) -> None:
    for tag, attrs in parsed.tags:
        for name in ("src", "href", "action", "data", "srcset"):
            assert attrs.get(name) is None or str(attrs[name]).startswith(("data:", "#")), (tag, attrs)
    for style in parsed.texts["style"]:
        assert "url(" not in style
        assert "@import" not in style


def test_the_policy_allows_only_these_scripts(parsed: Tags) -> None:
    (policy,) = [str(attrs["content"]) for tag, attrs in parsed.tags if attrs.get("http-equiv")]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in parsed.texts["script"][1:]]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(digests) == 2, "one library for all charts, and our own script"


def test_the_page_suits_phones_and_screen_readers(parsed: Tags) -> None:
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [attrs for _, attrs in parsed.tags]
    assert ("html", {"lang": "en"}) in parsed.tags
    assert [tag for tag, _ in parsed.tags].count("h1") == 1
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(attrs["href"])[1:] for tag, attrs in parsed.tags if tag == "a"}
    assert targets <= set(ids)
    for tag, attrs in parsed.tags:
        assert tag != "img" or "alt" in attrs
        assert "data-chart" not in attrs or attrs["aria-label"]


def test_the_page_holds_every_table_and_claim(folder: Path, parsed: Tags) -> None:
    ids = {attrs.get("id") for _, attrs in parsed.tags}
    assert set(contents.TABLE_NAMES) <= ids
    for claim in json.loads((folder / "claims.json").read_text(encoding="utf-8"))["claims"]:
        assert claim["claim"] in parsed.text


def test_the_summary_and_the_failed_cells_are_shown(parsed: Tags) -> None:
    text = " ".join(parsed.text.split())
    assert "1 of 5 cells failed, the first with “train: </script>" in text
    assert "mnist/ncsn/groups-2/seed0" in text
    assert "Not drawn, without a FID: mnist/ncsn/groups-2" in text


def test_charts_are_of_the_matrix(data: dict[str, Any]) -> None:
    points = {(point["model"], point["optimization"]): point for point in data["points"]["mnist"]}
    assert set(points) == {("ncsn", "baseline"), ("ncsn", "l1-30"), ("ddpm", "baseline"), ("ddpm", "l1-30")}
    assert points["ddpm", "l1-30"]["fid_indomain"] == 22.0
    assert points["ddpm", "l1-30"]["gmacs"] == pytest.approx(0.57), "30 million multiply-accumulates × 19 evaluations"
    assert data["cells"][points["ddpm", "l1-30"]["picture"]]["id"] == "mnist/ddpm/l1-30/seed0"
    costs = {chart["cost"] for chart in data["pareto"]["mnist"]}
    assert costs == {cost.column for cost in contents.COSTS}
    assert {chart["width"] for chart in data["pareto"]["mnist"]} == {width for width, _ in charts.WIDTHS}


def test_charts_are_valid_vega_lite(data: dict[str, Any]) -> None:
    """Against the JSON schema that altair ships."""
    import altair

    with (Path(altair.__file__).parent / "vegalite/v6/schema/vega-lite-schema.json").open(encoding="utf-8") as file:
        grammar = Draft202012Validator(json.load(file))
    for chart in data["losses"][0]["specs"]:
        assert not list(grammar.iter_errors(chart["spec"]))


def test_a_matrix_without_any_result_has_a_page(tmp_path: Path) -> None:
    pagefolder.write(tmp_path, [synthetic.row(status="failed"), synthetic.row("l1-30", status="failed")])
    html = pagefolder.build(tmp_path).read_text(encoding="utf-8")
    for sentence in ("No cell has both a FID and a cost yet", "No cell has samples", "All 2 cells failed"):
        assert sentence in html


def test_a_matrix_without_times_has_a_page(tmp_path: Path) -> None:
    untimed = {"inference_ms_per_image": None, "batch_size": None}
    pagefolder.write(tmp_path, [synthetic.row(**untimed), synthetic.row("l1-30", **untimed)])
    html = pagefolder.build(tmp_path).read_text(encoding="utf-8")
    assert "no time was measured" in html


def test_a_disturbed_recipe_is_not_drawn_in_latency(tmp_path: Path) -> None:
    rows = [synthetic.row(), synthetic.row("l1-30", disturbed=True), synthetic.row("l1-10")]
    pagefolder.write(tmp_path, rows)
    html = pagefolder.build(tmp_path).read_text(encoding="utf-8")
    assert re.search(r"in latency, .* every profile: mnist/ncsn/l1-30\.", html)
    matrix = synthetic.matrix(rows)
    points = pareto.points(pareto.recipes(matrix, findings.find(matrix, synthetic.MARGINS)))
    assert points["inference_ms_per_image"].isna().to_list() == [False, True, False]
    assert points["size_mb"].notna().all()


def test_a_page_of_many_cells_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every recipe's first seed is shown before any second one, and omitted cells are counted."""
    monkeypatch.setattr(selection, "MAX_PICTURED_CELLS", 5)
    rows = [synthetic.row(name, seed) for name in ("baseline", "l1-10", "l1-30") for seed in range(3)]
    matrix = pagefolder.write(tmp_path, rows)
    for cell in set(pagefolder.pictured(matrix)) ^ {
        Cell("mnist", "ncsn", row["optimization"], row["seed"]) for row in rows
    }:
        (tmp_path / "cells" / "/".join(pagefolder.place_of(cell)) / f"seed{cell.seed}" / "samples.npz").unlink()
    found = images.read(matrix.frame, tmp_path / "cells")
    assert [(cell["recipe"], cell["seed"]) for cell in found.cells] == [
        ("baseline", 0),
        ("l1-10", 0),
        ("l1-30", 0),
        ("baseline", 1),
        ("l1-10", 1),
    ]
    assert found.omitted == 4
    assert "samples of 4 more are in the folders of the cells" in pagefolder.build(tmp_path).read_text(encoding="utf-8")


def test_images_stop_at_the_size_limit_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = pagefolder.write(tmp_path, [synthetic.row(name) for name in ("baseline", "l1-10", "l1-30")])
    whole = images.read(matrix.frame, tmp_path / "cells")
    assert whole.omitted == 0
    monkeypatch.setattr(contents, "MAX_PICTURE_BYTES", len(whole.cells[0]["url"]) + len(whole.cells[1]["url"]))
    assert [cell["recipe"] for cell in images.read(matrix.frame, tmp_path / "cells").cells] == [
        "baseline",
        "l1-10",
    ]


def test_a_thousand_recipes_take_less_than_a_megabyte_of_charts() -> None:
    """Points are stored once, whatever the number of costs and widths."""
    rows = [synthetic.row(f"mine-{number}") for number in range(1000)]
    matrix = synthetic.matrix(rows)
    frame = pareto.points(pareto.recipes(matrix, findings.find(matrix, synthetic.MARGINS)))
    assert len(json.dumps(charts.pareto_charts(frame))) < 400_000
    assert len(json.dumps(frame.astype(object).where(frame.notna(), None).to_dict("records"))) < 600_000


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table-1\.md does not exist: run the stage `report`"):
        build._table(tmp_path / "table-1.md")


def test_the_first_images_form_one_picture() -> None:
    import numpy as np

    numbered = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 1, 4, 5), np.uint8)
    sheet = contact_sheet.sheet(contact_sheet.first_columns(numbered, 2, 2), 5, gap=0)
    assert sheet.shape == (8, 10, 1)
    assert sheet[0, 0, 0] == 0 and sheet[0, 5, 0] == 1 and sheet[4, 0, 0] == 2
    assert sheet[4, 5, 0] == contact_sheet.WHITE, "the sheet has no fourth image"
    large = np.zeros((1, 3, 100, 50), np.uint8)
    assert contact_sheet.sheet([large], 64, gap=0).shape == (64, 32, 3)


def test_dot_plots_place_ours_and_the_papers() -> None:
    rows = [synthetic.row(seed=seed, fid_indomain=40.0) for seed in range(3)]
    rows += [synthetic.row("l1-30", seed, fid_indomain=fid) for seed, fid in enumerate((80.0, 90.0, 100.0))]
    matrix = synthetic.matrix(rows)
    found, scale = dot_plots(matrix, findings.find(matrix, synthetic.MARGINS), read_paper(pagefolder.PAPER))
    assert [(block.model, block.ran) for block in found] == [("ncsn", True), ("ddpm", False)]
    lines = {row.recipe: row for row in found[0].rows}
    assert lines["baseline"].ours == lines["baseline"].paper == scale.baseline
    pruned = lines["l1-30"]
    assert pruned.low is not None and pruned.ours is not None and pruned.high is not None and pruned.paper is not None
    assert found[0].band[1] < pruned.low < pruned.ours < pruned.high <= 100
    assert 0 <= pruned.paper < scale.baseline, "the paper's 170.8 is below its baseline's 182.1"
    assert pruned.ratio.startswith("×2.24 [")
    assert pruned.fid.startswith("89.6 [")
    assert lines["random-10"].ours is None
    assert lines["random-10"].fid == "not run"


def test_the_timeline_matches_the_records(folder: Path) -> None:
    matrix = pagefolder.read_matrix(folder / "matrix.parquet")
    jobs = timeline.read_jobs(folder / "benchmarks", folder / "train", matrix.frame)
    assert jobs.attrs["started_at"] == [pagefolder.BEGAN.isoformat(timespec="seconds")]
    counts = jobs["stage"].astype(str).value_counts().to_dict()
    assert counts == {"train": 3, "sample": 5, "score": 5}
    assert jobs["end"].max() == pytest.approx(3 * 300 + 5 * 60), "they ran one after the other"
    assert set(jobs["lane"]) == {0}
    totals = timeline.totals(jobs).set_index("stage")
    assert totals.loc["sample", ["jobs", "seconds", "longest"]].tolist() == [5, 200.0, 40.0]
    assert list(totals.index) == ["train", "sample", "score"]


def test_parallel_jobs_have_lanes_and_a_pause_splits_the_timeline(tmp_path: Path) -> None:
    """Two parallel trainings, a third after the first one; scores half an hour later."""
    import os

    rows = [synthetic.row(name) for name in ("baseline", "groups-2", "groups-4")]
    matrix, began = synthetic.matrix(rows), pagefolder.BEGAN.timestamp()
    ends = {"train/mnist/ncsn/plain": (300, 300), "train/mnist/ncsn/groups-2": (400, 400)}
    ends |= {"train/mnist/ncsn/groups-4": (600, 290), "score/mnist/ncsn/baseline": (3000, 10)}
    for name, (end, seconds) in ends.items():
        path = tmp_path / "benchmarks" / name / "seed0.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"s": seconds, "cpu_time": "NA", "max_rss": None}), encoding="utf-8")
        os.utime(path, (began + end, began + end))
        if name.startswith("train"):
            record = tmp_path / name / "seed0" / "train.json"
            record.parent.mkdir(parents=True)
            start = datetime.datetime.fromtimestamp(began + end - seconds + 5, datetime.UTC).isoformat()
            record.write_text(json.dumps({"started_at": start}), encoding="utf-8")
    jobs = timeline.read_jobs(tmp_path / "benchmarks", tmp_path / "train", matrix.frame).set_index("job")
    assert jobs["session"].tolist() == [0, 0, 0, 1]
    lanes = jobs["lane"].to_dict()
    assert lanes["mnist/ncsn/groups-4/seed0"] == lanes["mnist/ncsn/plain/seed0"]
    assert {lanes["mnist/ncsn/groups-2/seed0"], lanes["mnist/ncsn/plain/seed0"]} == {0, 1}
    assert jobs.loc["mnist/ncsn/baseline/seed0", "start"] == 0.0
    # Copied without their dates, all end now, which contradicts the trainings' records.
    for path in (tmp_path / "benchmarks").rglob("*.jsonl"):
        path.touch()
    undated = timeline.read_jobs(tmp_path / "benchmarks", tmp_path / "train", matrix.frame)
    assert undated.attrs["started_at"] == []
    assert undated.loc[undated["stage"] == "train", "end"].max() == 300 + 400 + 290
    assert "start times are unknown" in timeline.caption(undated)


def test_records_of_other_matrices_are_left_out_and_broken_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "sample" / "mnist" / "ncsn" / "old" / "seed0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("nothing", encoding="utf-8")
    matrix = synthetic.matrix([synthetic.row()])
    assert timeline.read_jobs(tmp_path, tmp_path, matrix.frame).empty
    assert timeline.read_jobs(tmp_path / "missing", tmp_path, matrix.frame).empty
    own = path.parent.parent / "baseline" / "seed0.jsonl"
    own.parent.mkdir()
    own.write_text("[1]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"baseline/seed0\.jsonl is not a benchmark record"):
        timeline.read_jobs(tmp_path, tmp_path, matrix.frame)


def test_every_asset_is_an_input_of_the_rule() -> None:
    """Fingerprints cover Python alone."""
    assert {path.name for path in build.ASSETS.iterdir()} == set(contents.PAGE_ASSETS)
    rule = (pagefolder.ROOT / "workflow" / "rules" / "report.smk").read_text(encoding="utf-8")
    assert "for name in PAGE_ASSETS" in rule
    project = tomllib.loads((pagefolder.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "report/page/assets/*" in project["tool"]["setuptools"]["package-data"]["slimdiff"], (
        "installed copies have them"
    )
    template = (build.ASSETS / "page.html").read_text(encoding="utf-8")
    assert set(re.findall(r"\{\{ (\S+) \| safe \}\}", template)) == {"style", "table.body", "script"}
