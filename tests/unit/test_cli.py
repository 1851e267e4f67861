"""The `slimdiff` command on synthetic results: its output and its errors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from clifolders import BASELINE, EXTRA, FAILED, MISSING, PRUNED, row, write
from PIL import Image

from slimdiff.cli.console import progress_bar
from slimdiff.inference import model
from slimdiff.inference.sampling import Sampled

Command = Callable[..., tuple[int, str, str]]


def test_status_as_json(results: Path, command: Command) -> None:
    code, out, _ = command("status", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["done"] == [BASELINE, PRUNED]
    assert found["failed"] == {FAILED: "sample: samples are constant (all pixels at +1.00 of [-1, 1])"}
    assert found["missing"] == [MISSING]
    assert found["unrequested"] == [EXTRA]
    assert found["trainings_finished"] == ["mnist/ncsn/plain/seed0"]
    assert list(found["trainings_running"]) == ["mnist/ncsn/groups-2/seed0"]
    assert found["trainings_running"]["mnist/ncsn/groups-2/seed0"]["step"] == 1200
    assert list(found["trainings_stopped"]) == ["mnist/ncsn/groups-4/seed0"]


def test_status_for_people(results: Path, command: Command) -> None:
    code, out, _ = command("status")
    assert code == 0
    assert "2 done, 1 failed, 1 missing of 4 in config.yaml; 1 not in it" in out
    assert "1 finished, 1 running, 1 stopped" in out
    assert "all pixels at +1.00 of [-1, 1]" in out  # brackets are text, not markup
    assert "4 min 10 s" in out
    assert MISSING in out


def test_status_with_a_preset(results: Path, command: Command) -> None:
    preset = [{"dataset": "mnist", "model": "ncsn", "optimizations": ["ema"], "seeds": [0]}]
    Path("preset.yaml").write_text(yaml.safe_dump({"matrix": preset}), encoding="utf-8")
    found = json.loads(command("status", "--config", "config.yaml", "--config", "preset.yaml", "--json")[1])
    assert found["done"] == [EXTRA]
    assert found["missing"] == []
    assert set(found["unrequested"]) == {BASELINE, PRUNED, FAILED}


def test_status_without_a_config_lists_all_results(results: Path, command: Command) -> None:
    Path("config.yaml").unlink()
    code, out, _ = command("status")
    assert code == 0
    assert "3 done, 1 failed\n" in out
    assert "missing" not in out


def test_a_finished_training_is_not_running(results: Path, command: Command) -> None:
    write(results / "train/mnist/ncsn/groups-2/seed0/train.json", {})
    found = json.loads(command("status", "--json")[1])
    assert found["trainings_running"] == {}
    assert found["trainings_finished"] == ["mnist/ncsn/groups-2/seed0", "mnist/ncsn/plain/seed0"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("status", "--results", "elsewhere"), ("elsewhere", "not a folder", "slimdiff run")),
        (("status", "--config", "absent.yaml"), ("absent.yaml", "does not exist")),
        (("status", "--config", "broken.yaml"), ("broken.yaml", "is not YAML")),
        (("status", "--config", "list.yaml"), ("list.yaml", "mapping")),
        (("status", "--config", "preset.yaml"), ("matrix", "preset.yaml", "--config config.yaml")),
        (("status", "--config", "half.yaml"), ("matrix", "half.yaml", "optimizations and seeds")),
        (("compare", BASELINE), ("two or more", "got 1")),
        (("compare", BASELINE, "mnist/ncsn/l1-3/seed0"), ("mnist/ncsn/l1-3/seed0", f"did you mean {PRUNED}")),
        (("compare", BASELINE, "x"), ("'x'", "slimdiff status")),
        (("compare", BASELINE, PRUNED, "--results", "elsewhere"), ("elsewhere", "empty", "slimdiff run")),
        (("sample", BASELINE, "--out", "grid.jpg"), ("grid.jpg", ".png")),
        (("sample", BASELINE, "--out", "grid.png", "--device", "tpu"), ("'tpu'", "cpu, cuda")),
        (("sample", "mnist/ncsn/baselin/seed0", "--out", "grid.png"), (f"did you mean {BASELINE}",)),
        (("sample", BASELINE, "--out", "grid.png", "--device", "cpu"), ("model.safetensors", "does not exist")),
    ],
)
def test_errors_are_one_line(
    results: Path, command: Command, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    Path("broken.yaml").write_text("matrix: [", encoding="utf-8")
    Path("list.yaml").write_text("- 1\n", encoding="utf-8")
    Path("half.yaml").write_text("matrix: [{dataset: mnist}]", encoding="utf-8")
    Path("preset.yaml").write_text("data_dir: data\n", encoding="utf-8")
    code, out, err = command(*arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_an_unknown_option_is_refused(results: Path, command: Command) -> None:
    code, _, err = command("status", "--jsno")
    assert code == 2
    assert "--json" in err


def test_compare_for_people(results: Path, command: Command) -> None:
    code, out, _ = command("compare", BASELINE, PRUNED)
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines["fid_indomain"] == ["10", "12.5", "1.25×"]
    assert lines["params"] == ["1,115,297", "1,115,297", "1×"]
    assert lines["optimization"] == ["baseline", "l1-30"]
    assert "dataset" not in lines  # the same in both
    assert "kid" not in lines  # requested in neither
    assert "compare" not in out


def test_compare_warns_of_incomparable_cells(results: Path, command: Command) -> None:
    write(
        results / "cells" / PRUNED / "row.json", row(PRUNED, fid_indomain=12.5, n_samples=500, cpu_model="B", threads=2)
    )
    out = command("compare", BASELINE, PRUNED)[1]
    assert "times and memory do not compare: cpu_model differs" in out
    assert "fid and fid_indomain_pct do not compare: n_samples differs" in out


def test_compare_a_failed_cell(results: Path, command: Command) -> None:
    code, out, _ = command("compare", BASELINE, FAILED)
    assert code == 0
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert lines["status"] == ["ok", "failed"]
    assert lines["fid_indomain"] == ["10", "–", "–"]


def test_compare_takes_paths_and_gives_json(results: Path, command: Command) -> None:
    folder = results / "cells" / BASELINE
    code, out, _ = command("compare", str(folder), PRUNED, "--json")
    assert code == 0
    assert [content["fid_indomain"] for content in json.loads(out).values()] == [10.0, 12.5]


class FakeModel:
    """A stub for a loaded checkpoint; workflow tests sample real ones."""

    settings: ClassVar = {"sampler": {"method": "heun", "steps": 10}, "dataset": {"classes": ["cat", "dog", "0"]}}
    classes = 0
    requested: dict[str, Any]
    reason = ""

    def sample(self, n: int, **options: Any) -> Sampled:
        FakeModel.requested = {"n": n, **options}
        return Sampled(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), 19.0, self.reason)


def test_sample_writes_a_grid(results: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load", lambda path, device: FakeModel())
    options = (
        "--n",
        "6",
        "--seed",
        "3",
        "--sampler",
        "heun",
        "--steps",
        "10",
        "--device",
        "cpu",
        "--out",
        "a/grid.png",
    )
    code, out, _ = command("sample", BASELINE, *options)
    assert code == 0
    requested = {"n": 6, "seed": 3, "sampler": "heun", "steps": 10}
    assert FakeModel.requested == {**requested, "guidance": None, "labels": None, "progress": None}
    assert Path("a/grid.png").read_bytes().startswith(b"\x89PNG")
    assert "6 images on cpu" in out
    assert "19 network evaluations" in out


def picture_of(path: Path) -> tuple[int, int]:
    """Number of columns and rows of 8×8 images with a border of 2."""
    width, height = Image.open(path).size
    return (width - 2) // 10, (height - 2) // 10


@pytest.mark.parametrize(
    ("classes", "options", "labels", "shape"),
    [
        (0, (), None, (3, 3)),
        (3, (), None, (3, 3)),
        (4, (), None, (4, 2)),
        (3, ("--label", "dog", "--label", "0"), [1, 2], (2, 4)),
        (3, ("--label", "1"), [1], (3, 3)),
        (10, ("--n", "4"), None, (4, 1)),
    ],
)
def test_a_conditional_model_has_a_column_for_each_class(
    results: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    classes: int,
    options: tuple[str, ...],
    labels: list[int] | None,
    shape: tuple[int, int],
) -> None:
    """A number that is the name of a class means that class."""
    monkeypatch.setattr(model, "load", lambda path, device: FakeModel())
    monkeypatch.setattr(FakeModel, "classes", classes)
    command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", "--n", "8", *options)
    assert FakeModel.requested["labels"] == labels
    assert picture_of(Path("grid.png")) == shape


def test_an_unknown_class_is_refused(results: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load", lambda path, device: FakeModel())
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", "--label", "cow")
    assert code == 1
    assert "--label cow " in err and "allowed: 0 cat, 1 dog, 2 0" in err


def test_sample_says_why_images_are_degenerate(
    results: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "load", lambda path, device: FakeModel())
    monkeypatch.setattr(FakeModel, "reason", "samples are constant")
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu")
    assert code == 1
    assert "samples are constant; the images are in grid.png" in err


def test_another_sampler_needs_its_own_steps(results: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load", lambda path, device: FakeModel())
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", "--sampler", "euler-maruyama")
    assert code == 1
    assert "--sampler euler-maruyama needs --steps" in err
    assert command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", "--sampler", "ode")[0] == 0


def test_a_terminal_shows_the_progress_of_sampling(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """On standard error, so that the output can be piped; nothing without a terminal."""
    with progress_bar("sampling") as update:
        assert update is None
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then treats any stream as a terminal
    with progress_bar("sampling 8 images") as update:
        assert update is not None
        update(2.0, 8)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "sampling 8 images" in printed.err and "25%" in printed.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_gpu_is_refused(results: Path, command: Command) -> None:
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cuda")
    assert code == 1
    assert "no CUDA device" in err


def test_status_and_compare_never_load_torch(results: Path) -> None:
    """Importing torch would make a look at the results take two seconds."""
    script = "import sys; from slimdiff.cli import app; assert not {'torch', 'pandas', 'snakemake'} & set(sys.modules)"
    source = Path(model.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (("--labels", "0-2"), [0, 1, 2]),
        (("--labels", "0-9"), list(range(10))),
        (("--labels", "1,3, 5"), [1, 3, 5]),
        (("--labels", "8-9,0,cat"), [8, 9, 0, 2]),
        (("--labels", "a,b"), [6]),  # a name of its own
        (("--labels", "3-4"), [7]),  # so is this
        (("--label", "1", "--labels", "4,5"), [1, 4, 5]),
    ],
)
def test_labels_may_be_lists_and_ranges(
    results: Path, command: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], labels: list[int]
) -> None:
    classes = ["zero", "one", "cat", "dog", "four", "five", "a,b", "3-4", "eight", "nine"]
    monkeypatch.setattr(model, "load", lambda path, device: FakeModel())
    monkeypatch.setattr(FakeModel, "settings", {**FakeModel.settings, "dataset": {"classes": classes}})
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", *options)
    assert code == 0, err
    assert FakeModel.requested["labels"] == labels


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("2-0", "--labels 2-0 runs backwards; write 0-2"),
        ("0-3", "--labels 3 is"),
        ("0-999999999999", "--labels 3 is"),
        ("0,cow", "allowed: 0 cat, 1 dog, 2 0"),
    ],
)
def test_invalid_labels_are_refused(
    results: Path, command: Command, monkeypatch: pytest.MonkeyPatch, text: str, part: str
) -> None:
    monkeypatch.setattr(model, "load", lambda path, device: FakeModel())
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", "--labels", text)
    assert code == 1
    assert part in err
