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
from slimdiff.diffusion.guidance import labels_in_turn
from slimdiff.inference import model
from slimdiff.inference.classes import find_classes
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


@pytest.mark.parametrize(
    ("disturbed", "words"), [(True, "times do not count"), (None, "times decide nothing"), (False, "")]
)
def test_compare_says_which_times_count(results: Path, command: Command, disturbed: bool | None, words: str) -> None:
    path = results / "cells" / PRUNED / "row.json"
    row = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(row | {"speedup": 1.5, "disturbed": disturbed}), encoding="utf-8")
    out = " ".join(command("compare", BASELINE, PRUNED)[1].split())
    said = [line for line in ("times do not count", "times decide nothing") if line in out]
    assert said == [words] * bool(words)


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
        names = self.settings["dataset"]["classes"]
        wanted = find_classes(names, options["classes"], options["class_index"], options["labels"])
        labels = labels_in_turn(n, wanted or self.classes) if self.classes else None
        return Sampled(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), 19.0, self.reason, labels)


def load_fake_model(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    """Load a FakeModel with these classes in place of any checkpoint."""
    monkeypatch.setattr(model, "load", lambda path, device=None, guide=None: FakeModel())
    monkeypatch.setattr(FakeModel, "classes", len(names))
    monkeypatch.setattr(FakeModel, "settings", {**FakeModel.settings, "dataset": {"classes": list(names)}})


def test_sample_writes_a_grid(results: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load", lambda path, device=None, guide=None: FakeModel())
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
    classes = {"classes": [], "class_index": [], "labels": []}
    assert FakeModel.requested == {**requested, **classes, "guidance": None, "progress": None}
    assert Path("a/grid.png").read_bytes().startswith(b"\x89PNG")
    assert "6 images on cpu" in out
    assert "19 network evaluations" in out


def picture_of(path: Path) -> tuple[int, int]:
    """Number of columns and rows of 8×8 images with a border of 2."""
    width, height = Image.open(path).size
    return (width - 2) // 10, (height - 2) // 10


@pytest.mark.parametrize(
    ("classes", "options", "shape"),
    [
        (0, (), (3, 3)),
        (3, (), (3, 3)),
        (4, (), (4, 2)),
        (3, ("--class", "dog", "--class", "0"), (2, 4)),
        (3, ("--class-index", "1"), (3, 3)),
        (3, ("--class-index", "1", "--class", "dog"), (3, 3)),
        (10, ("--n", "4"), (4, 1)),
    ],
)
def test_a_conditional_model_has_a_column_for_each_class(
    results: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    classes: int,
    options: tuple[str, ...],
    shape: tuple[int, int],
) -> None:
    monkeypatch.setattr(model, "load", lambda path, device=None, guide=None: FakeModel())
    monkeypatch.setattr(FakeModel, "classes", classes)
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", "--n", "8", *options)
    assert code == 0, err
    assert picture_of(Path("grid.png")) == shape


ODD = ("zero", "one", "cat", "dog", "four", "five", "a,b", "3-4", "eight", "nine")
DIGITS = tuple("0123456789")
NUMBERS = ("1", "10", *"23456789")  # the folders 1 to 10, as a data set sorts them


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        (ODD, ("--class-index", "0-2"), [0, 1, 2]),
        (ODD, ("--class-index", "1,3, 5", "--class-index", "7"), [1, 3, 5, 7]),
        (ODD, ("--class-index", "8-9,0", "--class", "cat"), [2, 8, 9, 0]),
        (ODD, ("--class", "a,b", "--class", "3-4"), [6, 7]),
        (ODD, ("--labels", "a,b"), [6]),
        (ODD, ("--labels", "3-4"), [7]),
        (ODD, ("--label", "one", "--labels", "four,five"), [1, 4, 5]),
        (DIGITS, ("--labels", "0-9"), list(range(10))),
        (DIGITS, ("--label", "7", "--labels", "0-3,7"), [7, 0, 1, 2, 3, 7]),
        (("man\u0303ana", "tea", " cocoa"), ("--class", "ma\u00f1ana", "--class", "cocoa"), [0, 2]),
        (NUMBERS, ("--class", "1"), [0]),
        (NUMBERS, ("--class", "10"), [1]),
        (NUMBERS, ("--class-index", "1"), [1]),
        (NUMBERS, ("--class-index", "0-9"), list(range(10))),
    ],
)
def test_names_are_names_and_positions_have_their_own_option(
    results: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    options: tuple[str, ...],
    expected: list[int],
) -> None:
    """The older options --label and --labels take names."""
    load_fake_model(monkeypatch, names)
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", *options)
    assert code == 0, err
    requested = FakeModel.requested
    assert find_classes(names, requested["classes"], requested["class_index"], requested["labels"]) == expected


@pytest.mark.parametrize(
    ("names", "options", "parts"),
    [
        (ODD, ("--class", "cow"), ("'cow'", "allowed: zero, one, cat", "--class-index")),
        (ODD, ("--class", "0"), ("'0'", "--class-index")),
        (ODD, ("--label", "3"), ("'3'", "--class-index")),
        (ODD, ("--class-index", "10"), ("position 10 ", "allowed: 0 to 9")),
        (ODD, ("--class-index", "0-999999999999"), ("position 10 ", "allowed: 0 to 9")),
        (ODD, ("--class-index", "2-0"), ("--class-index 2-0 runs backwards; write 0-2",)),
        (ODD, ("--class-index", "cat"), ("--class-index 'cat'", "allowed: 0 to 9", "--class")),
        (ODD, ("--class-index", "1,"), ("--class-index ''",)),
        (ODD, ("--class-index", "9" * 5000), ("--class-index '99", "allowed: 0 to 9")),
        (ODD, ("--class-index", "0-" + "9" * 5000), ("--class-index '0-9", "allowed: 0 to 9")),
        (ODD, ("--class-index", "٣"), ("--class-index '٣'", "allowed: 0 to 9")),
        (ODD, ("--class-index", "\u0661-\u0663"), ("--class-index '\u0661-\u0663'", "allowed: 0 to 9")),
        (ODD, ("--labels", ",,"), ("--labels ',,' names no class", "zero, one")),
        (ODD, ("--labels", ""), ("--labels '' names no class", "zero, one")),
        (ODD, ("--labels", "zero,cow"), ("'cow'",)),
        (DIGITS, ("--labels", "2-0"), ("--labels 2-0 runs backwards; write 0-2",)),
        (DIGITS, ("--labels", "8-999999999999"), ("'10'",)),
        (NUMBERS, ("--labels", "0-9"), ("'0'", "--class-index")),
        (NUMBERS, ("--label", "0"), ("'0'", "--class-index")),
        (NUMBERS, ("--label", "1"), ("label 1 ", "--class 1 ", "'10'", "--class-index 1 ")),
    ],
)
def test_classes_that_are_unknown_or_ambiguous_are_refused(
    results: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    options: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    load_fake_model(monkeypatch, names)
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu", *options)
    assert (code, Path("grid.png").exists()) == (1, False)
    assert all(part in err for part in parts), err


def test_sample_says_why_images_are_degenerate(
    results: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "load", lambda path, device=None, guide=None: FakeModel())
    monkeypatch.setattr(FakeModel, "reason", "samples are constant")
    code, _, err = command("sample", BASELINE, "--out", "grid.png", "--device", "cpu")
    assert code == 1
    assert "samples are constant; the images are in grid.png" in err


def test_another_sampler_needs_its_own_steps(results: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load", lambda path, device=None, guide=None: FakeModel())
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
