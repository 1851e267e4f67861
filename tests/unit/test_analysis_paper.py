"""The paper's numbers, compared with a second transcription of its printed tables."""

import csv
import json
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import yaml

from slimdiff.analysis import matrix
from slimdiff.analysis import paper as comparison
from slimdiff.errors import UserError
from slimdiff.report import contents

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "workflow" / "resources" / "paper_reference.csv"

# Table | technique | size | inference | FID, as printed; ~ where the paper prints it, – where the column holds
# something that cannot be meant.
PRINTED = """
1 | 4BitLin | 4146973 | 24.726 | 174.099
1 | 8BitLin | 4147464 | 24.631 | 182.233
1 | 8BitLin + 8BitAdam | – | 24.831 | 194.643
2 | Rand 10 Global | 4,021,665 | 24.85 | 162.357
2 | Rand 30 Global | 3,676,115 | 24.94 | 326.117
2 | Rand 50 Global | 2,596,545 | 24.96 | 265.807
2 | L1 10 Global | 4,002,980 | 25.06 | 163.601
2 | L1 30 Global | 3,639,353 | 25.03 | 170.784
2 | L1 70 Global | 2,781,940 | 25.11 | 206.551
2 | Rand 30 Middle | 3,775,050 | 25.35 | 183.64
2 | Rand 30 Extremes | 4,097,460 | 25.20 | 346.27
2 | Rand 50 Middle | 3,456,117 | 25.45 | 208.063
2 | Rand 50 Extremes | 4,054,127 | 25.49 | 377.001
3 | 2 Groups | 2,537,197 | 33.35 | 154.340
3 | 4 Groups | 1,731,476 | 17.38 | 173.295
3 | Maximum Groups | 965,473 | 25.60 | 261.493
4 | CFG | ~66538096 | ~5400 | 150.38
4 | CFG + EMA | ~66538096 | ~5400 | 142.88
5 | CFG + 8BitLin | ~66244000 | ~5400 | 161.22
5 | CFG + 8BitLin + 8BitAdam | – | ~5400 | 134.34
6 | CFG + Rand 10 Global | ~62981643 | ~5300 | 486.27
6 | CFG + Rand 30 Global | ~53349095 | ~5200 | 494.35
6 | CFG + L1 10 Global | ~62448687 | ~5400 | 157.89
6 | CFG + L1 30 Global | ~52029548 | ~5300 | 141.13
6 | CFG + EMA + Rand 10 Global | ~62982310 | ~5200 | 181.53
6 | CFG + EMA + Rand 30 Global | ~53349687 | ~5200 | 504.45
6 | CFG + EMA + L1 10 Global | ~62448687 | ~5400 | 132.22
6 | CFG + EMA + L1 30 Global | ~52030922 | ~5200 | 163.77
7 | CFG + 2 Groups | ~52203120 | ~5300 | 150.90
7 | CFG + 4 Groups | ~45030932 | ~5300 | 157.93
7 | CFG + EMA + 2 Groups | ~52203120 | ~5500 | 139.29
7 | CFG + EMA + 4 Groups | ~45031920 | ~5300 | 146.77
8 | CFG + 2 Groups + Rand 10 Global | ~41978895 | ~5500 | 127.74
8 | CFG + 2 Groups + L1 10 Global | ~49014554 | ~5500 | 130.44
8 | CFG + 4 Groups + Rand 30 Global | ~36269068 | ~5400 | 134.35
8 | CFG + EMA + 2 Groups + L1 10 Global | ~49015306 | ~5400 | 138.15
9 | Base NCSN | ~4147037 | ~25.60 | 182.1
9 | Best NCSN | ~2537197 | ~33.35 | 134.35
9 | Base DDPM | ~17868145 | ~5300 | 146.77
9 | Best DDPM | ~12668288 | ~5500 | 130.44
"""
# Training time in ms per epoch, as printed under the tables; the paper prints none for the others.
TRAINING = {"4BitLin": 1364, "8BitLin": 1332, "8BitLin + 8BitAdam": 1387}
TRAINING_OF_TABLE = {"3": 1399, "4": 510_000, "5": 404_000, "7": 510_000}
SAMPLERS = {  # label → optimization, milliseconds for 128 samples and for one
    "Euler Maruyama": ("sampler-euler-maruyama", 4896, 38),
    "ODE Sampler": ("sampler-ode", 7381, 58),
    "Predictor-Corrector": ("sampler-predictor-corrector", 10370, 81),
}
LINES = [tuple(part.strip() for part in line.split("|")) for line in PRINTED.strip().splitlines()]


@pytest.fixture(scope="module")
def paper() -> pd.DataFrame:
    return matrix.read_paper(PAPER)


def number(text: str) -> float | None:
    return None if text == "–" else float(text.removeprefix("~").replace(",", ""))


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line[0]}: {line[1]}")
def test_each_line_is_as_printed(paper: pd.DataFrame, line: tuple[str, ...]) -> None:
    table, label, size, inference, fid = line
    found = paper[(paper["table"] == table) & (paper["label"] == label)]
    assert len(found) == 1
    row = found.iloc[0]
    training = TRAINING.get(label) if table == "1" else TRAINING_OF_TABLE.get(table)
    for column, printed in (("size_bytes", size), ("inference_ms", inference), ("fid", fid)):
        value = number(printed)
        assert pd.isna(row[column]) if value is None else row[column] == value
        tilde = printed.startswith("~")
        assert (column in ("" if pd.isna(row["approximate"]) else row["approximate"]).split(";")) == tilde
    assert pd.isna(row["train_ms_per_epoch"]) if training is None else row["train_ms_per_epoch"] == training


@pytest.mark.parametrize("label", SAMPLERS)
def test_samplers_are_as_printed(paper: pd.DataFrame, label: str) -> None:
    row = paper[(paper["table"] == "S3.2.1") & (paper["label"] == label)].iloc[0]
    optimization, total_ms, each_ms = SAMPLERS[label]
    assert (row["optimization"], row["samples"], row["total_ms"], row["inference_ms"]) == (
        optimization,
        128,
        total_ms,
        each_ms,
    )
    assert each_ms == pytest.approx(total_ms / 128, abs=1)


def test_no_other_numbers_are_in_the_file(paper: pd.DataFrame) -> None:
    """Apart from the numbered tables: only the NCSN's baseline (4.1) and the timings of 3.2."""
    others = paper[~paper["table"].str.isdigit()]
    assert len(paper) == len(LINES) + len(others)
    assert others["table"].tolist() == ["S4.1", *["S3.2.1"] * 3, "S3.2.2"]
    baseline = others.iloc[0]
    assert (baseline["optimization"], baseline["size_bytes"], baseline["inference_ms"], baseline["fid"]) == (
        "baseline",
        4_147_037,
        25.60,
        182.1,
    )
    ddpm = others.iloc[-1]
    assert (ddpm["samples"], ddpm["total_ms"], ddpm["inference_ms"]) == (130, 812_607, 6250)


def test_a_recipe_occurs_once_per_table(paper: pd.DataFrame) -> None:
    assert not paper.duplicated(["table", "model", "optimization"]).any()


@pytest.mark.parametrize("fact", ["134.35", "154.340", "264.807", "26000", "6250", "Rand 50 Middle", "~415000"])
def test_contradictions_are_noted(paper: pd.DataFrame, fact: str) -> None:
    assert paper["note"].dropna().str.contains(fact, regex=False).any()


def test_every_recipe_is_in_the_config(paper: pd.DataFrame) -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    wanted = set(paper["optimization"]) | {name for table in contents.TABLES for name, _ in table.extra}
    wanted |= {name for gallery in contents.GALLERIES for panel in gallery.panels for name in panel.recipes}
    assert wanted <= set(config["optimizations"])


def test_every_number_is_in_its_tables(paper: pd.DataFrame) -> None:
    shown: dict[tuple[str, str, str], list[str]] = {}
    for spec in contents.TABLES:
        for family in spec.families:
            for line in comparison.spec_lines(paper, spec, family):
                if line.paper is not None:
                    key = (line.paper["table"], line.paper["model"], line.paper["optimization"])
                    shown.setdefault(key, []).append(spec.name)
    references = {  # baselines that other tables repeat
        ("S4.1", "ncsn", "baseline"): ["table-1", "table-2", "table-3"],
        ("4", "ddpm", "baseline"): ["table-4", "table-5", "table-6", "table-7", "table-8"],
    }
    apart = {"S3.2.1": ["samplers"], "S3.2.2": []}  # the last is another time for Table 4's baseline
    for key in paper[["table", "model", "optimization"]].itertuples(index=False, name=None):
        expected = references.get(key, apart.get(key[0], [f"table-{key[0]}"]))
        assert shown.pop(key, []) == expected, key
    assert not shown


def test_the_sizes_of_table_7_reveal_which_layers_were_grouped(paper: pd.DataFrame) -> None:
    """Two and four groups remove half and three quarters of the bottleneck's weights, 43 % of all parameters."""
    sizes = paper[paper["model"] == "ddpm"].set_index(["table", "optimization"])["size_bytes"]
    for name, share, less in (("groups-2", 1 / 2, "21.5 %"), ("groups-4", 3 / 4, "32.3 %")):
        saved = 1 - sizes["7", name] / sizes["4", "baseline"]
        assert saved == pytest.approx(share * 10_027_008 / 23_335_299, abs=0.002)
        note = paper[(paper["table"] == "7") & (paper["optimization"] == name)]["note"].iloc[0]
        assert note.startswith(less)
        assert f"{100 * saved:.1f} %" == less


def test_every_row_is_valid_by_the_schema() -> None:
    schema = json.loads((ROOT / "workflow" / "schemas" / "paper.schema.json").read_text(encoding="utf-8"))
    kinds = {name: entry["type"] for name, entry in schema["properties"].items()}
    with PAPER.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            record = {
                name: None if text == "" else json.loads(text) if "string" not in kinds[name] else text
                for name, text in row.items()
            }
            jsonschema.validate(record, schema, jsonschema.Draft202012Validator)


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    text = PAPER.read_text(encoding="utf-8")
    path.write_text(text.replace("fid,", "FID,", 1))
    with pytest.raises(UserError, match=r"paper\.csv must have the columns table, section"):
        matrix.read_paper(path)
    path.write_text(text.replace("4147037", "4147037.5", 1))
    with pytest.raises(UserError, match=r"paper\.csv is not the table"):
        matrix.read_paper(path)
    with pytest.raises(UserError, match=r"none\.csv does not exist"):
        matrix.read_paper(tmp_path / "none.csv")
