"""Tables of our numbers and the paper's, in Markdown and CSV."""

import io
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from slimdiff.analysis import differences, findings
from slimdiff.analysis import paper as comparison
from slimdiff.analysis.claims import verdicts
from slimdiff.analysis.matrix import Matrix, read_paper
from slimdiff.analysis.measures import TableSpec
from slimdiff.report import contents
from slimdiff.report.figures import style
from slimdiff.report.tables import differences as differencetables
from slimdiff.report.tables import write

ROOT = Path(__file__).parents[2]
TABLES = {table.name: table for table in contents.TABLES}


@pytest.fixture(scope="module")
def paper() -> pd.DataFrame:
    return read_paper(ROOT / "workflow" / "resources" / "paper_reference.csv")


@pytest.fixture(scope="module")
def mixed() -> Matrix:
    """A matrix with recipes that ran, failed, half failed, and were not run."""
    rows = [synthetic.row(seed=seed, fid_indomain=fid) for seed, fid in enumerate((40.0, 42.0, 38.0))]
    rows += [synthetic.row("random-10", 0, fid_indomain=20.0), synthetic.row("random-10", 1, status="failed")]
    rows += [synthetic.row("random-30", status="failed"), synthetic.row("my-own", fid_indomain=9.0)]
    return synthetic.matrix(rows)


def table_of(matrix: Matrix, paper: pd.DataFrame, spec: TableSpec) -> pd.DataFrame:
    return comparison.table(matrix, findings.find(matrix, synthetic.MARGINS), paper, spec)


def differences_of(matrix: Matrix, paper: pd.DataFrame) -> pd.DataFrame:
    return differences.table(matrix, findings.find(matrix, synthetic.MARGINS), paper, contents.TABLES)


def line(frame: pd.DataFrame, optimization: str) -> pd.Series:
    found = frame[frame["optimization"] == optimization]
    assert len(found) == 1
    return found.iloc[0]


def markdown_line(text: str, optimization: str) -> list[str]:
    found = [row for row in text.splitlines() if row.startswith(f"| `{optimization}` |")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_table_1_holds_the_papers_recipes_and_ours(paper: pd.DataFrame) -> None:
    frame = table_of(synthetic.full(1), paper, TABLES["table-1"])
    assert frame["optimization"].tolist() == [
        "baseline",
        "linear-4bit-frozen",
        "linear-8bit-mixed",
        "linear-8bit-mixed+adam-8bit",
        "linear-8bit-frozen",
        "linear-8bit-frozen+adam-8bit",
        "linear-4bit",
        "linear-8bit",
        "adam-8bit",
    ]
    assert line(frame, "linear-8bit")["label"] == ""
    assert "then quantized" in line(frame, "linear-8bit")["note"]
    assert line(frame, "linear-8bit-mixed")["paper_fid"] == 182.233
    assert math.isnan(line(frame, "linear-8bit-frozen")["paper_fid"])


def test_tables_1_to_3_hold_the_papers_19_recipes(paper: pd.DataFrame) -> None:
    """The frozen reading of the 8-bit cells is not counted in addition to the mixed one."""
    extra = {name for table in contents.TABLES for name, _ in table.extra}
    names = {
        name
        for table in ("table-1", "table-2", "table-3")
        for name in table_of(synthetic.full(1), paper, TABLES[table])["optimization"]
    }
    assert len(names - (extra - {"random-70", "l1-50", "baseline"})) == 19


def test_table_5_has_the_recipe_without_a_number(paper: pd.DataFrame) -> None:
    frame = table_of(synthetic.matrix([synthetic.row(model="ddpm")]), paper, TABLES["table-5"])
    assert frame["optimization"].tolist() == [
        "baseline",
        "linear-8bit-mixed",
        "linear-8bit-mixed+adam-8bit",
        "ema+linear-8bit-mixed-sampled",
        "ema+linear-8bit-mixed",
        "linear-8bit-frozen",
        "linear-8bit-frozen+adam-8bit",
        "ema+linear-8bit-frozen",
        "linear-8bit",
        "linear-4bit",
        "ema+linear-8bit",
        "adam-8bit",
    ]
    for name in ("ema+linear-8bit-mixed-sampled", "ema+linear-8bit-frozen"):
        black = line(frame, name)
        assert "only black images" in black["note"]
        assert math.isnan(black["paper_fid"])
        assert black["kind"] == "several"
    assert line(frame, "baseline")["paper_fid"] == 150.38


def test_table_9_counts_each_family_from_its_own_baseline(paper: pd.DataFrame) -> None:
    rows = [synthetic.row(fid_indomain=40.0), synthetic.row("groups-2", fid_indomain=20.0)]
    rows += [
        synthetic.row(model="ddpm", fid_indomain=10.0),
        synthetic.row("groups-2+l1-10", model="ddpm", fid_indomain=8.0),
    ]
    rows += [synthetic.row("groups-2", model="ddpm", fid_indomain=1.0)]
    frame = table_of(synthetic.matrix(rows), paper, TABLES["table-9"])
    assert list(zip(frame["model"], frame["optimization"], strict=True)) == [
        ("ncsn", "baseline"),
        ("ncsn", "groups-2"),
        ("ddpm", "baseline"),
        ("ddpm", "groups-2+l1-10"),
    ]
    assert frame["fid_indomain_change_percent"].tolist() == pytest.approx([0.0, -50.0, 0.0, -20.0])
    printed = [0.0, 100 * (134.35 / 182.1 - 1), 0.0, 100 * (130.44 / 146.77 - 1)]
    assert frame["paper_fid_change_percent"].tolist() == pytest.approx(printed)


def test_table_9_lists_a_family_without_runs(paper: pd.DataFrame) -> None:
    frame = table_of(synthetic.matrix([synthetic.row(fid_indomain=40.0)]), paper, TABLES["table-9"])
    assert frame["status"].tolist() == ["ok", "not run", "not run", "not run"]
    assert frame["paper_fid"].tolist() == [182.1, 134.35, 146.77, 130.44]


def test_class_accuracy_is_a_fraction_in_csv_and_percent_in_markdown(paper: pd.DataFrame) -> None:
    rows = [synthetic.row(), synthetic.row(model="ddpm", class_accuracy=0.98765)]
    spec = TABLES["table-9"]
    frame = table_of(synthetic.matrix(rows), paper, spec)
    heading, *lines = [row.split(" | ") for row in write.to_markdown(frame, spec).splitlines() if " | " in row]
    place = heading.index("class accuracy (%)")
    shown = [row[place] for row in lines if row[0] == "| `baseline`"]
    assert shown == ["–", "98.8"]
    own = pd.read_csv(io.StringIO(write.to_csv(frame, spec.measures)))["class_accuracy"]
    assert own.dropna().tolist() == [0.988]
    assert not any("class accuracy" in heading for heading in (m.heading for m in TABLES["table-3"].measures))


def test_changes_are_relative_to_each_sides_own_baseline(paper: pd.DataFrame, mixed: Matrix) -> None:
    row = line(table_of(mixed, paper, TABLES["table-2"]), "random-10")
    assert row["fid_indomain"] == 20.0
    assert row["fid_indomain_change_percent"] == pytest.approx(-50.0)
    assert row["paper_fid"] == 162.357
    assert row["paper_fid_change_percent"] == pytest.approx(100 * (162.357 / 182.1 - 1))
    assert row["paper_size_bytes_change_percent"] == pytest.approx(100 * (4_021_665 / 4_147_037 - 1))


def test_every_line_has_a_status(paper: pd.DataFrame, mixed: Matrix) -> None:
    frame = table_of(mixed, paper, TABLES["table-2"])
    status = dict(zip(frame["optimization"], frame["status"], strict=True))
    assert status["baseline"] == "ok"
    assert status["random-10"] == "1 of 2 seeds failed: train: loss is NaN at step 12"
    assert status["random-30"] == "failed: train: loss is NaN at step 12"
    assert status["l1-10"] == "not run"
    assert math.isnan(line(frame, "random-30")["fid_indomain"])
    assert line(frame, "l1-10")["paper_fid"] == 163.601


def test_markdown_shows_intervals_for_several_seeds(paper: pd.DataFrame, mixed: Matrix) -> None:
    spec = TABLES["table-2"]
    text = write.to_markdown(table_of(mixed, paper, spec), spec)
    baseline = markdown_line(text, "baseline")
    assert baseline[2] == "3"
    assert baseline[3] == "39.97 [35.29, 45.26]", "a geometric mean, with the interval of the logarithms"
    single = markdown_line(text, "random-10")
    assert single[2] == "1, no interval; 1 of 2 seeds failed: train: loss is NaN at step 12"
    assert single[3] == "20.00 (−50.0 %)"
    assert markdown_line(text, "l1-10")[2:5] == ["not run", "–", "163.60 (−10.2 %)"]
    assert "never the values" in text


def test_the_papers_contradictions_and_tildes_are_shown(paper: pd.DataFrame) -> None:
    spec = TABLES["table-3"]
    text = write.to_markdown(table_of(synthetic.full(1), paper, spec), spec)
    assert "Table 9 prints 134.35 for the same cell" in markdown_line(text, "groups-2")[-1]
    assert "~4147037" in markdown_line(text, "baseline")


def test_csv_holds_plain_numbers(paper: pd.DataFrame, mixed: Matrix) -> None:
    spec = TABLES["table-2"]
    frame = pd.read_csv(io.StringIO(write.to_csv(table_of(mixed, paper, spec), spec.measures)))
    row = line(frame, "random-30-middle")
    assert row["paper_fid"] == 183.64
    assert pd.isna(row["fid_indomain"])
    assert line(frame, "baseline")["size_gzip_bytes"] == 4_000_000
    assert not {"kind", "approximate"} & set(frame)


def test_sampler_speedups_are_relative_to_euler_maruyama(paper: pd.DataFrame) -> None:
    spec = TABLES["samplers"]
    rows = [synthetic.row("sampler-euler-maruyama", speedup=0.05)]
    rows += [synthetic.row("baseline", speedup=1.03)]
    frame = table_of(synthetic.matrix(rows), paper, spec)
    assert line(frame, "sampler-euler-maruyama")["relative_time"] == pytest.approx(20.0)
    assert line(frame, "baseline")["relative_time"] == 1.0
    assert line(frame, "baseline")["relative_time_change_percent"] == pytest.approx(-95.0)
    assert line(frame, "sampler-ode")["paper_inference_ms"] == 58
    assert line(frame, "sampler-ode")["note"] == "128 images in 7381 ms"
    assert "FID, paper" not in write.to_markdown(frame, spec)


def test_every_table_of_the_paper_has_both_metrics_and_like_sizes() -> None:
    for spec in contents.TABLES:
        columns = {measure.column for measure in spec.measures}
        assert {"fid_indomain", "kid", "coverage"} <= columns, spec.name
        assert ("class_accuracy" in columns) == ("ddpm" in spec.families), spec.name
        costs = {"size_gzip_bytes", "size_packed_bytes", "bits_per_weight"} if spec.name != "samplers" else set()
        assert costs | {"relative_time"} <= columns, spec.name


def test_bits_per_weight_are_of_the_packed_file(paper: pd.DataFrame) -> None:
    rows = [synthetic.row(params=1_000_000, size_packed_bytes=500_000), synthetic.row("groups-2")]
    frame = table_of(synthetic.matrix(rows), paper, TABLES["table-3"])
    assert line(frame, "baseline")["bits_per_weight"] == pytest.approx(4.0)
    assert math.isnan(line(frame, "groups-2")["bits_per_weight"])


def test_a_recipe_that_trains_on_names_what_it_is_compared_with(paper: pd.DataFrame) -> None:
    first, more = {"model": {}, "training": {"epochs": 2}}, {"model": {}, "training": {"epochs": 1}}
    texts = {
        "baseline": json.dumps({"train": first}),
        "longer": json.dumps({"starts": [first], "train": more}),
        "l1-70": json.dumps({"starts": [first], "train": {**more, "steps": ["prune"]}}),
    }
    fids = {"baseline": 40.0, "longer": 20.0, "l1-70": 30.0}
    rows = [
        synthetic.row(name, seed, settings=text, fid_indomain=fids[name] + seed)
        for name, text in texts.items()
        for seed in range(3)
    ]
    spec, matrix = TABLES["table-2"], synthetic.matrix(rows)
    row = line(table_of(matrix, paper, spec), "l1-70")
    assert (row["reference"], row["finding"]) == ("longer", "worse")
    assert row["fid_indomain_change_percent"] == pytest.approx(47.7, abs=0.1)
    shown = markdown_line(write.to_markdown(table_of(matrix, paper, spec), spec), "l1-70")
    assert "`longer`" in shown[-1]
    both = line(differences_of(matrix, paper), "l1-70")
    assert both["fid_indomain_baseline_ratio"] == pytest.approx(0.756, abs=1e-3)


def test_each_data_set_and_model_of_the_family_has_a_block(paper: pd.DataFrame) -> None:
    rows = [synthetic.row(dataset=d, model=m) for d in ("mnist", "digits") for m in ("ncsn", "ncsn-wide", "ddpm")]
    spec = TABLES["table-3"]
    frame = table_of(synthetic.matrix(rows), paper, spec)
    text = write.to_markdown(frame, spec)
    headings = [row for row in text.splitlines() if row.startswith("## ")]
    assert headings == ["## mnist, ncsn", "## mnist, ncsn-wide", "## digits, ncsn", "## digits, ncsn-wide"]


def test_without_the_family_only_the_paper_is_shown(paper: pd.DataFrame) -> None:
    frame = table_of(synthetic.matrix([synthetic.row(model="ddpm")]), paper, TABLES["table-1"])
    assert set(frame["status"]) == {"not run"}
    assert line(frame, "linear-4bit-frozen")["paper_fid"] == 174.099


@pytest.mark.parametrize(
    ("optimization", "kind"),
    [
        ("baseline", "baseline"),
        ("l1-30", "pruned"),
        ("linear-8bit", "quantized"),
        ("linear-8bit-mixed+adam-8bit", "quantized"),
        ("adam-8bit", "quantized"),
        ("adam-float", "other"),
        ("groups-max", "grouped"),
        ("ema+groups-2", "several"),
        ("ema", "EMA"),
        ("sampler-euler-maruyama", "sampler"),
        ("both", "several"),
        ("longer", "other"),
        ("channels-50", "channel-pruned"),
        ("channels-50-only", "channel-pruned"),
        ("blocks-30", "block-pruned"),
        ("blocks-30-only", "block-pruned"),
        ("channels-50+l1-30", "several"),
        ("compile-bf16", "engine"),
        ("bf16", "engine"),
        ("channels-50+compile-bf16", "several"),
        ("weights-8bit", "quantized"),
        ("trained-on", "other"),
        ("unheard-of", "unknown"),
    ],
)
def test_the_kind_of_a_recipe_follows_from_the_config(optimization: str, kind: str) -> None:
    more = {
        "both": {"training": "groups-2", "prune": {"method": "l1"}},
        "longer": {"training": "plain"},
        "adam-8bit": {"training": "adam-8bit"},
        "adam-float": {"training": "adam-float"},
        "ema+groups-2": {"training": "groups-2", "weights": "ema"},
        "channels-50": {"training": "channels-50"},
        "channels-50-only": {"training": "plain", "prune": {"method": "channels"}},
        "channels-50+l1-30": {"training": "channels-50", "prune": {"method": "l1"}},
        "blocks-30": {"training": "blocks-30"},
        "blocks-30-only": {"training": "plain", "prune": {"method": "blocks", "names": ["bottom"]}},
        "compile-bf16": {"training": "plain", "engine": "torch-compile", "precision": "bf16"},
        "bf16": {"training": "plain", "precision": "bf16"},
        "channels-50+compile-bf16": {"training": "channels-50", "engine": "torch-compile"},
        "weights-8bit": {"training": "plain", "quantize": {"weights": "8bit"}},
        "trained-on": {"training": "trained-on"},
    }
    starts = {
        "channels-50": {"start": "plain", "prune": {"method": "channels"}, "finetune": {"epochs": 1}},
        "blocks-30": {"start": "plain", "prune": {"method": "blocks", "amount": 0.3}, "finetune": {"epochs": 1}},
        "trained-on": {"start": "plain", "finetune": {"epochs": 1}},
    }
    states = {f"adam-{state}": {"optimizer": "adamw", "optimizer_state": state} for state in ("8bit", "float")}
    config = {
        "trainings": {**synthetic.TRAININGS, **states, **starts},
        "optimizations": {**synthetic.OPTIMIZATIONS, **more},
    }
    assert comparison.kind(optimization, config, "unknown") == kind
    assert kind in style.KINDS or kind == "unknown"


def test_every_table_is_written(tmp_path: Path, paper: pd.DataFrame, mixed: Matrix) -> None:
    write.write_tables(
        mixed, findings.find(mixed, synthetic.MARGINS), paper, verdicts.to_json(mixed, [], synthetic.MARGINS), tmp_path
    )
    expected = {f"{name}.{suffix}" for name in contents.TABLE_NAMES for suffix in contents.TABLE_FORMATS}
    assert {path.name for path in tmp_path.iterdir()} == expected
    cells = pd.read_csv(tmp_path / "cells.csv")
    assert len(cells) == len(mixed.frame)
    assert set(mixed.frame) - set(cells) == {"settings"}
    assert "train: loss is NaN at step 12" in (tmp_path / "cells.md").read_text(encoding="utf-8")


def test_text_in_a_reason_cannot_break_a_table() -> None:
    rows = [synthetic.row(status="failed", reason="sample: a | b\nc")]
    text = write.cells_markdown(synthetic.frame(rows))
    assert r"sample: a \| b c |" in text


@pytest.mark.parametrize(("percent", "text"), [(12.34, "+12.3 %"), (-0.04, "±0.0 %"), (-7.0, "−7.0 %")])
def test_changes_carry_their_sign(percent: float, text: str) -> None:
    assert comparison.percent_text(percent, 1) == text


@pytest.fixture(scope="module")
def tested(paper: pd.DataFrame) -> pd.DataFrame:
    """Better, worse, equivalent, one seed, half failed and failed."""
    fids = {
        "baseline": (40.0, 41.0, 39.5),
        "groups-2": (20.0, 21.0, 19.5),
        "l1-70": (80.0, 81.0, 79.5),
        "l1-10": (41.0, 42.0, 40.0),
        "random-10": (90.0,),
    }
    rows = [
        synthetic.row(
            name,
            seed,
            fid_indomain=fid,
            fid_indomain_sampling_sd=0.5,
            size_gzip_bytes=4_000_000 if name == "baseline" else 3_000_000,
        )
        for name, values in fids.items()
        for seed, fid in enumerate(values)
    ]
    rows += [synthetic.row("random-10", 1, status="failed"), synthetic.row("random-30", status="failed")]
    return differences_of(synthetic.matrix(rows), paper)


def test_differences_state_findings_and_reasons_for_missing_ones(tested: pd.DataFrame) -> None:
    found = {name: line(tested[tested["model"] == "ncsn"], name) for name in tested["optimization"].unique()[:17]}
    assert {name: row["finding"] for name, row in found.items() if row["finding"] != "not run"} == {
        "baseline": "reference",
        "groups-2": "better",
        "l1-70": "worse",
        "l1-10": "equivalent",
        "random-10": "unresolved",
        "random-30": "failed",
    }
    assert found["groups-2"]["fid_indomain_sampling_sd"] == pytest.approx(0.5)
    assert found["groups-2"]["fid_indomain_sd"] == pytest.approx(0.7637626)
    assert math.isnan(found["baseline"]["fid_indomain_ratio"])
    assert found["groups-2"]["size_finding"] == "better"
    text = differencetables.differences_markdown(tested, findings.find(synthetic.full(1), synthetic.MARGINS))
    images, costs = text.partition("packed size ratio")[::2]
    heads = [cell.strip() for cell in images.splitlines()[6].strip("|").split("|")]
    better = dict(zip(heads, markdown_line(images, "groups-2"), strict=True))
    assert (better["seeds"], better["reference"], better["images"]) == ("3", "`baseline`", "better")
    assert (better["SD over seeds"], better["SD of sampling"]) == ("0.76", "0.50")
    assert better["FID ratio [95 %]"].startswith("0.50 [0.4")
    assert better["FID ratio to `baseline`"] == better["FID ratio [95 %]"] == better["KID ratio [95 %]"]
    single = dict(zip(heads, markdown_line(images, "random-10"), strict=True))
    assert (single["FID [95 %]"], single["p"], single["images"]) == ("90.00", "–", "unresolved")
    assert single["why"].endswith("; 1 of 2 seeds failed: train: loss is NaN at step 12")
    assert markdown_line(costs, "groups-2")[1:5] == ["–", "0.750", "–", "better"]
    assert "ddpm" not in text, "nothing of it was run"
    assert "l1-30" not in text, "nor of that"


def test_differences_have_the_families_that_the_paper_lacks(paper: pd.DataFrame) -> None:
    rows = [synthetic.row(name, model=model) for model in ("ncsn", "modern") for name in ("baseline", "channels-50")]
    frame = differences_of(synthetic.matrix(rows), paper)
    listed = pd.read_csv(io.StringIO(differencetables.differences_csv(frame)))
    names = set(zip(listed["model"], listed["optimization"], strict=True))
    assert {(row["model"], row["optimization"]) for row in rows} <= names
    assert set(frame.loc[frame["in_paper"], "model"]) == {"ncsn", "ddpm"}


def test_differences_as_csv(tested: pd.DataFrame) -> None:
    frame = pd.read_csv(io.StringIO(differencetables.differences_csv(tested)))
    row = line(frame, "groups-2")
    assert row["fid_indomain_ratio_low"] < row["fid_indomain_ratio"] < row["fid_indomain_ratio_high"]
    assert row["images_p"] < 0.05 < row["images_p_equivalent"]
    assert set(frame["model"]) == {"ncsn"}
    assert pd.isna(line(frame, "l1-30")["fid_indomain"])


def test_ours_and_the_papers_changes(tested: pd.DataFrame) -> None:
    """The paper's 2 groups are 15 % better, its L1 70 13 % worse; ours are better and worse by a factor of two."""
    found = {str(row["optimization"]): row for _, row in tested[tested["model"] == "ncsn"].iterrows()}
    assert found["groups-2"]["direction"] == differences.SAME
    assert found["l1-70"]["direction"] == differences.SAME
    assert found["l1-10"]["direction"] == differences.OPEN
    assert found["l1-30"]["direction"] == ""
    assert found["groups-2"]["paper_fid_change_percent"] == pytest.approx(100 * (154.34 / 182.1 - 1))
    text = differencetables.versus_paper_markdown(tested)
    row = markdown_line(text.partition("## mnist, ddpm")[0], "groups-2")
    assert row[3] == "`baseline`"
    assert row[4].startswith("−49.8 %")
    assert "[−5" in row[4]
    assert row[5:8] == ["−15.2 %", "−25.0 %", "−38.8 %"]
    assert "## mnist, ddpm" in text, "the paper's stand alone where nothing was run"
    frame = pd.read_csv(io.StringIO(differencetables.versus_paper_csv(tested)))
    assert set(frame["model"]) == {"ncsn", "ddpm"}
    assert line(frame[frame["model"] == "ncsn"], "groups-2")["paper_size_bytes_change_percent"] == -38.8


def test_a_worse_recipe_that_the_paper_found_better_is_opposite(paper: pd.DataFrame) -> None:
    rows = [synthetic.row(seed=seed, fid_indomain=fid) for seed, fid in enumerate((40.0, 41.0))]
    rows += [synthetic.row("groups-2", seed, fid_indomain=fid) for seed, fid in enumerate((80.0, 82.1))]
    frame = differences_of(synthetic.matrix(rows), paper)
    assert line(frame[frame["model"] == "ncsn"], "groups-2")["direction"] == differences.OPPOSITE


def test_technique_tables_state_the_findings(paper: pd.DataFrame, mixed: Matrix) -> None:
    spec = TABLES["table-2"]
    text = write.to_markdown(table_of(mixed, paper, spec), spec)
    assert [markdown_line(text, name)[-2] for name in ("baseline", "random-10", "random-30", "l1-10")] == [
        "reference",
        "unresolved",
        "failed",
        "not run",
    ]


def test_a_disturbed_time_is_a_word_in_every_table(paper: pd.DataFrame) -> None:
    """Of groups-2 no time counts, of l1-10 that of one seed in two, of the baseline no raw time."""
    rows = [synthetic.row(seed=seed, speedup=1.0, disturbed=True) for seed in range(2)]
    rows += [synthetic.row("groups-2", seed, speedup=2.0, disturbed=True) for seed in range(2)]
    rows += [synthetic.row("l1-10", seed, speedup=speedup, disturbed=seed > 0) for seed, speedup in enumerate((0.5, 9))]
    matrix = synthetic.matrix(rows)
    for name, recipe, cells in (
        ("table-3", "groups-2", ("disturbed", "disturbed")),
        ("table-2", "l1-10", (f"{rows[4]['inference_ms_per_image']:.2f}", "2.000 (+100.0 %)")),
        ("table-2", "baseline", ("disturbed", "1.000")),
    ):
        frame = table_of(matrix, paper, TABLES[name])
        text = write.to_markdown(frame, TABLES[name])
        heads = [cell.strip() for cell in text.splitlines()[6].strip("|").split("|")]
        shown = dict(zip(heads, markdown_line(text, recipe), strict=True))
        assert (shown["ms per image"], shown["time / the baseline's, in turns"]) == cells
        assert ("1 of 2 profiles disturbed" in shown["note"]) == (recipe == "l1-10")
    lines = write.cells_markdown(matrix.frame).splitlines()
    cells_of = {tuple(row[:4]): row for row in ([cell.strip() for cell in line.split("|")[2:]] for line in lines[6:])}
    assert cells_of["ncsn", "groups-2", "0", "ok"].count("disturbed") == 2
    assert "disturbed" not in cells_of["ncsn", "l1-10", "0", "ok"]
    csv = pd.read_csv(io.StringIO(write.matrix_csv(matrix.frame)))
    assert csv["speedup"].notna().to_list() == [False] * 4 + [True, False]
    assert csv["disturbed"].to_list() == [True] * 4 + [False, True]
    text = differencetables.versus_paper_markdown(differences_of(matrix, paper)).partition("## mnist, ddpm")[0]
    assert markdown_line(text, "groups-2")[8] == "disturbed"
    assert markdown_line(text, "l1-10")[8] == "+100.0 %"


def test_tables_say_which_times_nobody_watched(paper: pd.DataFrame) -> None:
    rows = [synthetic.row(seed=seed, speedup=1.0) for seed in range(2)]
    rows += [synthetic.row("groups-2", seed, speedup=2.0, disturbed=None) for seed in range(2)]
    for unknown, numbers in ((rows, ("1 of 2 recipes", "2 of 4 cells")), (rows[:2], ())):
        matrix = synthetic.matrix(unknown)
        texts = [
            write.to_markdown(table_of(matrix, paper, TABLES["table-3"]), TABLES["table-3"]),
            differencetables.versus_paper_markdown(differences_of(matrix, paper)),
            write.cells_markdown(matrix.frame),
        ]
        counted = [re.findall(r"the profiles of (\d+ of \d+ \w+) was not measured", text) for text in texts]
        assert counted == ([[numbers[0]], [numbers[0]], [numbers[1]]] if numbers else [[]] * 3)
    assert "2.00" in write.cells_markdown(synthetic.matrix(rows).frame), "they are shown"
