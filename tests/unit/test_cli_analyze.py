"""`slimdiff analyze`: a matrix alone is enough, and published files are renewed in place."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import synthetic
import yaml
from PIL import Image

from slimdiff.analysis import matrix
from slimdiff.report import contents

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "matrix.parquet"
    rows = [
        synthetic.row(name, seed, fid_indomain=fid + seed)
        for name, fid in (("baseline", 40.0), ("ema", 80.0))
        for seed in range(3)
    ]
    matrix.write_matrix(path, synthetic.frame(rows), matrix.provenance(synthetic.CONFIG, "abc"))
    monkeypatch.chdir(ROOT)
    return path


def test_only_existing_files_are_renewed(made: Path, command: Command) -> None:
    out = made.parent / "published"
    out.mkdir()
    names = {"differences.md", "claims.json", "README.md", "pareto.png"}
    for name in names:
        (out / name).write_text("old", encoding="utf-8")
    code, text, _ = command("analyze", str(made), "--out", str(out), "--update")
    assert code == 0
    assert {path.name for path in out.iterdir()} == names
    assert (out / "README.md").read_text(encoding="utf-8") == "old"
    record = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    margins = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))["verdicts"]["margins"]
    assert record["margins"] == margins | {"quality": {"mnist": margins["quality"]["mnist"]}}
    assert "| `ema` |" in (out / "differences.md").read_text(encoding="utf-8")
    assert "images: " in text and "1 worse" in text
    with Image.open(out / "pareto.png") as picture:
        assert picture.mode == "P", "as small as publish writes it"


def test_margins_and_claims_are_those_of_the_config(made: Path, command: Command) -> None:
    overlay = made.parent / "mine.yaml"
    overlay.write_text("verdicts: {margins: {quality: 3.0, equivalence: 3.0}}\nclaims: []\n", encoding="utf-8")
    code, text, _ = command("analyze", str(made), "--config", "config.yaml", "--config", str(overlay))
    assert code == 0
    assert "1 equivalent" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--update",), ("--update", "--out")),
        (("--update", "--out", "absent"), ("--update", "absent")),
        (("--config", "config/smoke.yaml"), ("config/smoke.yaml", "verdicts")),
    ],
)
def test_mistakes_are_named(made: Path, command: Command, arguments: tuple[str, ...], named: tuple[str, ...]) -> None:
    code, _, error = command("analyze", str(made), *arguments)
    assert code == 1
    assert all(name in error for name in named), error


def test_a_missing_matrix_is_named(made: Path, command: Command) -> None:
    code, _, error = command("analyze", str(made.parent / "none.parquet"))
    assert (code, "none.parquet" in error) == (1, True)


@pytest.mark.slow
def test_a_new_folder_gets_every_table_and_figure_of_numbers(made: Path, command: Command) -> None:
    out = made.parent / "all"
    assert command("analyze", str(made), "--out", str(out))[0] == 0
    tables = {f"{name}.{suffix}" for name in contents.TABLE_NAMES for suffix in contents.TABLE_FORMATS}
    figures = {f"{spec.name}.{suffix}" for spec in contents.FIGURES for suffix in contents.FIGURE_FORMATS}
    assert {path.name for path in out.iterdir()} == tables | figures | {"claims.json"}
