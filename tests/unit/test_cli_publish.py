"""`slimdiff publish`: a finished run becomes a folder of docs/results; one that is not whole changes nothing."""

import datetime
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ownmodels
import pagefolder
import pyarrow.parquet as pq
import pytest
import synthetic
import yaml
from PIL import Image
from presets import merge

from slimdiff.analysis import matrix as matrices
from slimdiff.analysis import row as rowfile
from slimdiff.cli import publish
from slimdiff.cli.config import read_config
from slimdiff.config import resolve
from slimdiff.config.cells import Cell, expand
from slimdiff.config.pretrained import fill_pretrained
from slimdiff.errors import UserError
from slimdiff.io import files, records
from slimdiff.report import study
from slimdiff.report.figures import style

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
LINKED = ("Snakefile", "config.yaml", "workflow")
MATRIX = [
    {"dataset": "mnist", "model": "ncsn", "optimizations": ["baseline", "longer", "groups-2"], "seeds": [0, 1, 2]},
    {"dataset": "mnist", "model": "ddpm", "optimizations": ["baseline"], "seeds": [0]},
]
CELLS, TRAININGS, SECONDS = (
    10,
    10,
    20.0,
)  # of a job; three models' trainings of the NCSN at three seeds, one of the DDPM
FIRST = datetime.datetime(2026, 11, 29, 10, 0, tzinfo=datetime.UTC)
SMALLEST = "groups-2"
LEFT = ["paper.md", "small"]  # in docs/results


def write_run(root: Path) -> Path:
    """Write a clone with the finished results of config/small.yaml: one job after the other, of half a core."""
    for name in LINKED:
        (root / name).symlink_to(ROOT / name)
    (root / "config").mkdir()
    overlay = {"matrix": MATRIX, "sampling": {"n_samples": 500}}
    (root / "config" / "small.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    config = read_config([ROOT / "config.yaml", root / "config" / "small.yaml"])
    results, jobs = root / "results", []
    for cell in expand(config["matrix"]):
        settings = resolve.row_settings(config, **asdict(cell))
        training = f"mnist/{cell.model}/{settings['training']}/seed{cell.seed}"
        later = "starts" in settings["settings"]
        measured = {
            name: {"status": "ok", "code": f"{'finetune' if later and name == 'train' else name}-1"} | values
            for name, values in numbers(cell).items()
        }
        records.write_json(results / "cells" / cell.path / "row.json", rowfile.merge(settings, measured))
        pagefolder.write_samples(results / "cells", cell, 100, tuple("0123456789"))
        Image.fromarray(np.arange(900, dtype=np.uint8).reshape(30, 30)).save(results / "cells" / cell.path / "grid.png")
        records.write_json(results / "train" / training / "train.json", {"status": "ok"})
        jobs += [("finetune" if later else "train", training)]
        jobs += [(stage, cell.path) for stage in ("compress", "sample", "score", "profile")]
    for place, (stage, job) in enumerate(dict.fromkeys(jobs)):
        path = results / "benchmarks" / stage / f"{job}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"s": SECONDS, "cpu_time": SECONDS / 2, "max_rss": 500.0}), encoding="utf-8")
        end = FIRST.timestamp() + SECONDS * (place + 1)
        os.utime(path, (end, end))
        if stage in ("train", "finetune"):
            began = datetime.datetime.fromtimestamp(end - SECONDS, datetime.UTC).isoformat()
            records.write_json(results / "train" / job / "train.json", {"status": "ok", "started_at": began})
    write_matrix(results, config)
    return root


def numbers(cell: Cell) -> dict[str, dict[str, Any]]:
    """Return synthetic measurements of a cell by stage."""
    row = synthetic.row(cell.optimization, cell.seed, model=cell.model)
    names = {"train": ["train_s"], "score": ["fid_indomain", "kid", "n_samples"]}
    profile = {"params": 1000, "inference_ms_per_image": 10.0, "disturbed": cell.seed == 1, "cpu_model": "Cyrix 486"}
    profile |= {"size_packed_bytes": 500 if cell.optimization == SMALLEST else 1000, "torch_version": "2.14.1"}
    score = {name: row[name] for name in names["score"]} | {"sampler": {"method": "heun"}}
    train = {name: row[name] for name in names["train"]} | {"started_at": FIRST.isoformat()}
    return {"train": train, "score": score, "profile": profile}


def write_matrix(results: Path, config: dict[str, Any]) -> None:
    rows = matrices.read_rows(results / "cells", expand(config["matrix"]), resolve.matrix_settings(config)["trainings"])
    source = matrices.provenance(resolve.provenance(config), "abc") | {"git_commit": "0123456789abcdef-dirty"}
    matrices.write_matrix(results / "matrix.parquet", matrices.to_frame(rows), source)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a run that was published once, with figures of eight pixels."""
    root = write_run(tmp_path_factory.mktemp("publish"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(style, "save", lambda chart, path: Image.new("RGB", (8, 8)).save(path, format="PNG"))
        publish.publish("small")
    return root


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the clone, where publishing writes one figure."""
    root = Path(shutil.copytree(finished, tmp_path / "clone", symlinks=True))
    monkeypatch.chdir(root)
    monkeypatch.setattr(study, "write", lambda folder, *arguments: files.write_text(folder / "timeline.svg", "new"))
    return root


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def facts(text: str) -> dict[str, str]:
    block = text.partition(study.BEGIN)[2].partition(study.END)[0]
    return dict(re.findall(r"^\| ([\w ,]+) \| (.+) \|$", block, re.MULTILINE))


def test_a_finished_run_becomes_a_folder(finished: Path) -> None:
    folder = finished / "docs/results/small"
    numbers = ("figure-1", "versus-paper", "pareto", "timeline")
    figures = {f"{name}.{suffix}" for name in numbers for suffix in study.FORMATS}
    tables = {
        f"{name}.md" for name in ("claims", "differences", "cells", "table-3", "table-9", "versus-paper", "variance")
    }
    grids = {f"grid-{name}.png" for name in ("ncsn-baseline", f"ncsn-{SMALLEST}", "ddpm-baseline")}
    others = {"README.md", "matrix.parquet", "claims.json", "figure-5.png", "figure-6.png"}
    assert set(held(folder)) == figures | tables | grids | others
    assert all(study.written(name) for name in held(folder))
    published, own = (matrices.read_matrix(place / "matrix.parquet") for place in (folder, finished / "results"))
    assert published.frame.equals(own.frame)
    assert published.provenance == own.provenance
    assert matrices.schema_problem(folder / "matrix.parquet") is None
    with Image.open(folder / "figure-5.png") as gallery, Image.open(folder / "grid-ddpm-baseline.png") as grid:
        assert (gallery.mode, gallery.size) == ("P", (5, 5)), "eight pixels times 0.625"
        assert (grid.mode, grid.size) == ("L", (30, 30))
    assert sorted(path.name for path in (finished / "docs/results").iterdir()) == LEFT, "no temporary folder"


def test_the_page_says_what_was_run(finished: Path) -> None:
    text = (finished / "docs/results/small/README.md").read_text(encoding="utf-8")
    said = facts(text)
    assert text.startswith("# small\n\n" + study.BEGIN)
    assert "slimdiff run small\nslimdiff publish small\n" in text
    assert "config/small.yaml" in said["configuration"]
    assert said["mnist, ncsn"] == "3 recipes; seeds: 0 to 2; images a cell: 2,000"
    assert said["trainings"] == f"{TRAININGS}; continued from another one: 3"
    assert said["cells"] == f"{CELLS}; failed: 0"
    assert said["timed profiles"] == f"{CELLS}; disturbed by others: 3; not watched: 0"
    assert said["commit"] == "0123456, with uncommitted edits"
    assert said["machine"].startswith("Cyrix 486, ") and "torch 2.14.1" in said["machine"]
    assert said["dates"].startswith("first training 2026-11-29 10:00 UTC, ")
    jobs = 4 * CELLS + TRAININGS
    seconds = round(SECONDS * jobs)
    assert said["time"].startswith(f"{seconds // 60} min {seconds % 60:02} s from the first job to the last")
    assert f"{seconds // 120} min {seconds // 2 % 60:02} s of processor time" in said["time"]
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target.startswith("../../../") or (finished / "docs/results/small" / target).is_file()


def test_records_that_are_missing_or_copied_are_named(here: Path, command: Command) -> None:
    for path in (here / "results/benchmarks/score").rglob("*.jsonl"):
        path.unlink()
    for path in (here / "results/benchmarks").rglob("*.jsonl"):
        path.touch()
    command("publish", "small")
    said = facts((here / "docs/results/small/README.md").read_text(encoding="utf-8"))["time"]
    assert f"of {3 * CELLS + TRAININGS} of {4 * CELLS + TRAININGS} jobs" in said
    assert "wall time unknown" in said


def test_text_and_foreign_files_stay_and_old_files_go(here: Path, command: Command) -> None:
    folder = here / "docs/results/small"
    (folder / "README.md").write_text("# Mine\n\nWhat I learnt.\n", encoding="utf-8")
    for name in ("matrix.yaml", "speed.md", "table-8.md", "grid-ncsn-old.png", "timeline.svg"):
        (folder / name).write_text("old", encoding="utf-8")
    code, out, _ = command("publish", "small")
    assert code == 0 and "matrix.yaml, speed.md" in out
    assert {"matrix.yaml", "speed.md"} <= set(held(folder))
    assert not {"table-8.md", "grid-ncsn-old.png"} & set(held(folder))
    assert held(folder)["timeline.svg"] == b"new"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Mine\n\n{study.BEGIN}\n") and text.endswith(f"{study.END}\n\nWhat I learnt.\n")
    (folder / "README.md").write_text(text.replace("Cyrix", "Z80").replace("learnt.", "know."), encoding="utf-8")
    assert command("publish", "small")[0] == 0
    assert (folder / "README.md").read_text(encoding="utf-8") == text.replace("learnt.", "know.")


def test_config_yaml_alone_is_called_default(here: Path, command: Command) -> None:
    code, _, error = command("publish", "default")
    assert code == 1, "these results are of another configuration"
    assert "mnist/ncsn/l1-70/seed0" in error and "`slimdiff run`" in error


def lose_a_cell(results: Path) -> tuple[str, ...]:
    (results / "cells/mnist/ncsn/longer/seed1/row.json").unlink()
    return ("1 of 10 cells", "mnist/ncsn/longer/seed1")


def change_the_settings(results: Path) -> tuple[str, ...]:
    path = results.parent / "config/small.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "models: {ncsn: {training: {epochs: 3}}}\n", encoding="utf-8")
    return ("mnist/ncsn/baseline/seed0", "settings.train.training.epochs is 1", "config/small.yaml yields 3")


def change_the_code(results: Path) -> tuple[str, ...]:
    edit(
        results / "cells/mnist/ncsn/longer/seed2/row.json",
        code='{"profile":"profile-1","score":"2","train":"finetune-1"}',
    )
    return ("score is score-1 in mnist/ncsn/baseline/seed0, 2 in mnist/ncsn/longer/seed2",)


def change_a_row(results: Path) -> tuple[str, ...]:
    edit(results / "cells/mnist/ncsn/longer/seed2/row.json", kid=0.5)
    return ("matrix.parquet", "cells")


def edit(path: Path, **values: Any) -> None:
    records.write_json(path, {**records.read_json(path), **values})


@pytest.mark.parametrize("spoil", [lose_a_cell, change_the_settings, change_the_code, change_a_row])
def test_results_that_are_not_whole_are_refused(
    here: Path, command: Command, spoil: Callable[[Path], tuple[str, ...]]
) -> None:
    folder = here / "docs/results/small"
    before = held(folder)
    named = spoil(here / "results")
    code, _, error = command("publish", "small")
    assert (code, error.count("\n")) == (1, 1)
    assert all(part in error for part in (*named, "`slimdiff run small`")), error
    assert held(folder) == before


def move_seed(root: Path, seed: int) -> Path:
    """Move the cells of `seed` into the matrix of another run, which is returned, and leave a run of the others."""
    results, config = root / "results", read_config([ROOT / "config.yaml", root / "config" / "small.yaml"])
    elsewhere = root / "elsewhere.parquet"
    whole = matrices.read_matrix(results / "matrix.parquet")
    source = {**whole.provenance, "git_commit": "fedcba98", "machine": {"cpu_count": 64}}
    matrices.write_matrix(elsewhere, whole.frame[whole.frame["seed"] == seed], source)
    for cell in expand(MATRIX):
        if cell.seed == seed:
            shutil.rmtree(results / "cells" / cell.path)
            (results / "benchmarks/profile" / f"{cell.path}.jsonl").unlink()
    others = [{**block, "seeds": [one for one in block["seeds"] if one != seed]} for block in MATRIX]
    write_matrix(results, {**config, "matrix": others})
    return elsewhere


@pytest.mark.parametrize("seed", [0, 2])
def test_rows_of_another_run_complete_a_study(
    finished: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    root = Path(shutil.copytree(finished, tmp_path / "clone", symlinks=True))
    monkeypatch.chdir(root)
    monkeypatch.setattr(style, "save", lambda chart, path: Image.new("RGB", (8, 8)).save(path, format="PNG"))
    whole = matrices.read_matrix("docs/results/small/matrix.parquet")
    elsewhere = move_seed(root, seed)
    assert command("publish", "small")[0] == 1, "cells are missing"
    code, _, error = command("publish", "small", "--rows", str(elsewhere))
    assert code == 0, error
    published = matrices.read_matrix("docs/results/small/matrix.parquet")
    assert published.frame.equals(whole.frame)
    assert published.config == whole.config
    said = facts(Path("docs/results/small/README.md").read_text(encoding="utf-8"))
    assert said["commit"] == "0123456, with uncommitted edits; fedcba9"
    assert said["machine"].startswith(f"Cyrix 486, {os.cpu_count()} cores or 64 cores")
    own = sum(cell.seed != seed for cell in expand(MATRIX))
    assert f"of {3 * CELLS + own + TRAININGS} of {4 * CELLS + TRAININGS} jobs" in said["time"]
    grids = {path.name for path in Path("docs/results/small").glob("grid-ncsn-*.png")}
    assert grids == {"grid-ncsn-baseline.png", f"grid-ncsn-{SMALLEST}.png"}, "of another seed"


def test_the_cells_so_far_and_then_the_whole(here: Path, command: Command) -> None:
    """As on two machines: the first publishes its seeds, the second completes them."""
    whole = matrices.read_matrix("docs/results/small/matrix.parquet")
    elsewhere, page = move_seed(here, 2), Path("docs/results/small/README.md")
    n_elsewhere = len(matrices.read_matrix(elsewhere).frame)
    code, _, error = command("publish", "small", "--so-far")
    assert code == 0, error
    said = facts(page.read_text(encoding="utf-8"))
    assert said["cells"] == f"{CELLS - n_elsewhere} of {CELLS}, the others are not made yet; failed: 0"
    assert said["mnist, ncsn"].startswith("3 recipes; seeds: 0, 1; ")
    assert "slimdiff publish small --so-far\n" in page.read_text(encoding="utf-8")
    assert command("publish", "small", "--rows", str(elsewhere))[0] == 0
    assert facts(page.read_text(encoding="utf-8"))["cells"] == f"{CELLS}; failed: 0"
    assert matrices.read_matrix("docs/results/small/matrix.parquet").frame.equals(whole.frame)


def test_rows_of_other_code_settings_or_columns_are_refused(here: Path, command: Command) -> None:
    elsewhere = move_seed(here, 1)
    whole = matrices.read_matrix(elsewhere)
    settings_of_row = json.loads(whole.frame["settings"].iloc[0])
    settings_of_row["train"]["training"]["epochs"] = 9
    for column, value, named in (
        ("code", '{"profile":"profile-1","score":"2","train":"train-1"}', "score is score-1"),
        ("settings", json.dumps(settings_of_row), "settings.train.training.epochs is 9"),
    ):
        frame = whole.frame.copy()
        frame.loc[frame.index[0], column] = value
        matrices.write_matrix(here / "other.parquet", frame, whole.provenance)
        code, _, error = command("publish", "small", "--rows", "other.parquet")
        assert (code, error.count("\n")) == (1, 1) and named in error and "other.parquet" in error, error
    table = pq.read_table(elsewhere)
    pq.write_table(table.drop_columns(["energy_source"]).replace_schema_metadata({}), here / "older.parquet")
    code, _, error = command("publish", "small", "--rows", "older.parquet")
    assert code == 1 and "lacks energy_source" in error
    code, _, error = command("publish", "--rows", str(elsewhere))
    assert code == 1 and "STUDY" in error


def test_a_run_of_a_pretrained_model_is_read(tmp_path: Path) -> None:
    """Its folder decides what its entry in the config leaves out."""
    ownmodels.write_folder(tmp_path / "own")
    own = {"own": {"family": "unet2d", "pretrained": str(tmp_path / "own")}}
    matrix = [{"dataset": "mnist", "model": "own", "optimizations": ["baseline"], "seeds": [0]}]
    config = merge(read_config([ROOT / "config.yaml"]), {"models": own, "matrix": matrix})
    whole, results = fill_pretrained(config), tmp_path / "results"
    (cell,) = expand(matrix)
    settings = resolve.row_settings(whole, **asdict(cell))
    measured = {name: {"status": "ok", "code": name} | values for name, values in numbers(cell).items()}
    records.write_json(results / "cells" / cell.path / "row.json", rowfile.merge(settings, measured))
    training = results / "train" / "mnist" / "own" / settings["training"] / "seed0"
    records.write_json(training / "train.json", {"status": "ok"})
    pagefolder.write_samples(results / "cells", cell, 100, tuple("0123456789"))
    write_matrix(results, whole)
    read = publish._read_run(results, (), False, config, [Path("own.yaml")], "run")
    assert list(read.frame["model"]) == ["own"]


def test_a_failure_leaves_the_published_folder_as_it_was(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(here / "docs/results/small")

    def full(folder: Path, *arguments: Any) -> None:
        (folder / "pareto.svg").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "write", full)
    code, _, error = command("publish", "small")
    assert code == 1 and "No space left" in error
    assert held(here / "docs/results/small") == before
    assert sorted(path.name for path in (here / "docs/results").iterdir()) == LEFT


def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rename = tmp_path / "page", Path.rename
    target.mkdir()
    (target / "old").touch()

    def fail_for_new(path: Path, to: Path) -> Path:
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="Input/output"), files.replace_folder(target) as fresh:
        (fresh / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["page", "old"]


@pytest.mark.parametrize("text", [study.BEGIN, study.END, f"{study.END}{study.BEGIN}", 2 * f"{study.BEGIN}{study.END}"])
def test_half_a_block_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"small/README\.md"):
        study.page("small", "block", f"# Title\n{text}\n")


def test_an_unknown_preset_is_named(here: Path, command: Command) -> None:
    code, _, error = command("publish", "smalls")
    assert (code, "did you mean small?" in error) == (1, True)
