"""`slimdiff status`, `show` and `compare`: progress of a run, all records of a cell, and pictures."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from clifolders import BASELINE, DIGITS, EXTRA, FAILED, MISSING, PRUNED, REAL, row, write, write_cell
from PIL import Image

from slimdiff.cli import compare
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.report.figures.contact_sheet import Samples

Command = Callable[..., tuple[int, str, str]]
SOURCE = Path(compare.__file__).parents[2]


# --- status


def test_status_of_an_empty_folder(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").mkdir()
    code, out, _ = command("status")
    assert code == 0
    assert "0 done, 0 failed" in out
    assert "this folder is empty" in out and "`slimdiff run`" in out
    assert json.loads(command("status", "--json")[1])["done"] == []


def test_status_of_a_fresh_clone_says_what_is_missing(clone: Path, command: Command) -> None:
    (clone / "empty").mkdir()
    out = command("status", "--results", "empty")[1]
    assert "0 done, 0 failed, 11 missing of 11 in config.yaml" in out
    assert "`slimdiff run`" in out


def test_status_shows_the_stage_of_an_unfinished_cell(results: Path, command: Command) -> None:
    write(results / "cells" / MISSING / "model.safetensors", {})
    write(results / "cells" / MISSING / "samples.npz", {})
    found = json.loads(command("status", "--json")[1])
    assert found["missing"] == [MISSING]
    assert found["started"] == {MISSING: ["model", "samples"]}
    out = command("status")[1]
    assert "1 missing of 4 in config.yaml (1 started)" in out
    assert f"{MISSING}  model, samples" in out


def test_status_of_a_preset(results: Path, command: Command) -> None:
    """As for `run`: a name in config/, merged over config.yaml."""
    matrix = [{"dataset": "mnist", "model": "ncsn", "optimizations": ["ema", "l1-30"], "seeds": [0]}]
    Path("config").mkdir()
    Path("config/small.yaml").write_text(yaml.safe_dump({"matrix": matrix}), encoding="utf-8")
    found = json.loads(command("status", "small", "--json")[1])
    assert found["done"] == [EXTRA, PRUNED]
    assert found["missing"] == []
    assert " in config.yaml + config/small.yaml" in command("status", "small")[1]


def test_status_shows_when_a_training_last_reported(results: Path, command: Command) -> None:
    lines = command("status")[1].splitlines()
    (running,) = [line for line in lines if line.startswith("mnist/ncsn/groups-2/seed0")]
    (stopped,) = [line for line in lines if line.startswith("mnist/ncsn/groups-4/seed0")]
    assert "1,200  4,689  0.25     765.4" in running
    assert " s ago" in running and running.endswith("4 min 10 s")
    assert "3 h 00 min ago" in stopped and stopped.rstrip().endswith("stopped: the next run continues")


def test_after_a_kill_a_training_counts_as_stopped(results: Path, command: Command) -> None:
    """Its state remains and is no longer updated."""
    path = results / "state/train/mnist/ncsn/groups-2/seed0/status.json"
    report = files.read_json(path)
    for age_s, running in ((100, 1), (130, 0)):
        stamp = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="seconds")
        write(path, {**report, "updated_at": stamp})
        assert len(json.loads(command("status", "--json")[1])["trainings_running"]) == running


def test_a_missing_loss_is_shown_as_a_dash(results: Path, command: Command) -> None:
    path = results / "state/train/mnist/ncsn/groups-2/seed0/status.json"
    write(path, {**files.read_json(path), "loss": None})
    (line,) = [line for line in command("status")[1].splitlines() if line.startswith("mnist/ncsn/groups-2/seed0")]
    assert "4,689     –     765.4" in line


def test_watch_is_for_terminals(results: Path, command: Command) -> None:
    code, _, err = command("status", "--watch")
    assert code == 1
    assert err.startswith("error: --watch needs a terminal") and err.count("\n") == 1
    assert command("status", "--watch", "--json")[0] == 2


def on_a_terminal(folder: Path, *arguments: str, until: str = "") -> tuple[int, str]:
    """Run the command on its own terminal, press Ctrl-C after the text `until`; return exit code and output."""
    master, slave = pty.openpty()
    environment = {"PYTHONPATH": str(SOURCE), "TERM": "xterm-256color", "COLUMNS": "200", "PATH": os.defpath}
    process = subprocess.Popen(
        [sys.executable, "-m", "slimdiff.cli", *arguments],
        cwd=folder,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores Ctrl-C
    )
    os.close(slave)
    printed = b""
    pressed = False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            piece = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        printed += piece
        if until and until.encode() in printed and not pressed:
            process.send_signal(2)
            pressed = True
    os.close(master)
    return process.wait(timeout=30), printed.decode()


def test_watch_shows_until_ctrl_c(results: Path) -> None:
    code, out = on_a_terminal(results.parent, "status", "--watch", until="missing of 4")
    assert code == 0
    assert "Traceback" not in out
    assert "2 done, 1 failed" in out


def test_colours_and_bars_are_for_terminals(results: Path, command: Command) -> None:
    code, out = on_a_terminal(results.parent, "status")
    assert code == 0
    assert "\x1b[" in out and "━" in out
    piped = command("status")[1]
    assert "\x1b[" not in piped and "━" not in piped


# --- show


def test_show_prints_all_records(clone: Path, command: Command) -> None:
    code, out, _ = command("show", REAL[1])
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert lines["fid_indomain"].split()[:2] == ["fid_indomain", "11"]
    assert "Fréchet distance" in lines["fid_indomain"]
    assert "family: ddpm" in out
    assert lines["started"].split()[1] == "2026-01-01T00:00:00+00:00"
    assert lines["interruptions"].split()[1] == "2"
    assert lines["extractors"].split()[1] == "0123"
    assert "train abc" in lines["code"]
    assert lines["model.safetensors"].split()[2] in ("kB", "MB")
    assert out.rstrip().endswith(f"results/cells/{REAL[1]}/grid.png")
    assert "kid" not in lines  # not measured


def test_show_as_json(clone: Path, command: Command) -> None:
    found = json.loads(command("show", REAL[1], "--json")[1])
    folder = clone / "results" / "cells" / REAL[1]
    assert found["cell"] == REAL[1]
    assert found["row"]["fid_indomain"] == 11.0
    assert found["row"]["settings"]["train"]["model"]["family"] == "ddpm"
    assert found["model"]["kind"] == "model"
    assert found["model"]["sampler"]["method"] == "heun"
    assert found["training"] == {
        "name": "mnist/ddpm/plain/seed0",
        "steps": 10,
        "last_loss": 1.5,
        "interruptions": 2,
        "precision": "float32",
    }
    assert found["files"] == {path.name: path.stat().st_size for path in folder.iterdir()}
    assert found["score"]["extractors_sha256"] == "0123"
    assert found["profile"] is None
    assert Path(found["picture"]).is_file()


def test_show_a_failed_cell(results: Path, command: Command) -> None:
    code, out, _ = command("show", FAILED)
    assert code == 0
    assert "failed: sample: samples are constant (all pixels at +1.00 of [-1, 1])" in out
    assert "picture    none" in out


def test_show_a_cell_that_is_not_measured_yet(clone: Path, command: Command) -> None:
    write_cell(clone / "results/cells/mnist/ddpm/ema/seed0")
    code, out, _ = command("show", "mnist/ddpm/ema/seed0")
    assert code == 0
    assert "not measured yet" in out
    assert "preconditioning: edm" in out  # from the model's header


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_show_a_damaged_model(clone: Path, command: Command, content: bytes) -> None:
    path = clone / "results/cells" / REAL[0] / "model.safetensors"
    path.write_bytes(content)
    code, out, err = command("show", REAL[0])
    assert (code, out) == (1, "")
    assert "model.safetensors" in err and "run again" in err
    assert err.count("\n") == 1


def test_show_takes_the_path_of_a_file(clone: Path, command: Command) -> None:
    out = command("show", f"results/cells/{REAL[0]}/grid.png")[1]
    assert out.startswith(f"{REAL[0]}\n")


# --- compare --out


def samples(n: int, size: int = 16, channels: int = 1, value: int = 0) -> Samples:
    """n images; image i has the constant value `value` + i."""
    images = np.arange(value, value + n, dtype=np.uint8)[:, None, None, None]
    pixels = np.broadcast_to(images, (n, channels, size, size)).copy()
    return Samples(pixels, np.zeros(0, np.int64), tuple(DIGITS), sampler={}, network_evaluations=1.0)


def test_images_of_one_index_are_side_by_side() -> None:
    """Images are 64 pixels wide and 4 apart; captions are 16 high; a block shows ten images of each cell."""
    picture = compare.side_by_side({"a": samples(12), "b": samples(12, value=100)}, n=12)
    pitch, row_height = 64 + 4, 16 + 64
    for cell, value in enumerate((0, 100)):
        for index in range(12):
            block, column = divmod(index, 10)
            top = block * (2 * row_height + 4) + cell * row_height + 16
            left = column * pitch + 2
            tile = picture[top : top + 64, left : left + 64]
            assert np.unique(tile).tolist() == [value + index]
    assert picture.shape == (4 * row_height + 4, 10 * pitch, 3)


def test_no_more_images_than_each_cell_has() -> None:
    picture = compare.side_by_side({"a": samples(3), "b": samples(8, channels=3)}, n=20)
    assert picture.shape == (2 * (16 + 64), 3 * 68, 3)


@pytest.mark.parametrize(
    ("others", "part"), [(samples(4, size=8), "images of b are 8×8, of a 16×16"), (samples(0), "b has no images")]
)
def test_incomparable_images_are_refused(others: Samples, part: str) -> None:
    with pytest.raises(UserError, match=part):
        compare.side_by_side({"a": samples(4), "b": others}, n=4)


def test_compare_writes_a_picture(clone: Path, command: Command) -> None:
    code, out, _ = command("compare", *REAL, "--out", "both.png", "--n", "10")
    assert code == 0
    assert "both.png" in out
    assert "different noise" not in out
    picture = np.asarray(Image.open("both.png"))
    with np.load(f"results/cells/{REAL[1]}/samples.npz") as found:
        image = found["images"][3, 0]
    top = (16 + 64) + 16
    assert (picture[top : top + 64 : 4, 3 * 68 + 2 : 3 * 68 + 66 : 4, 0] == image).all()


def test_compare_warns_of_different_noise(results: Path, command: Command) -> None:
    def settings(size: int) -> str:
        return json.dumps({"train": {"model": {"channels": 1, "image_size": size}}})

    rows = {"a": row(BASELINE, settings=settings(28)), "b": row(BASELINE, settings=settings(32))}
    assert compare.noise_problems(rows) == [
        "images start from different noise: the models' image_size or channels differ"
    ]
    assert compare.noise_problems({"a": rows["a"], "b": {**rows["a"], "seed": 1}}) == [
        "images start from different noise: the seeds differ"
    ]
    assert compare.noise_problems({"a": rows["a"], "b": rows["a"]}) == []


def test_compare_as_json_stays_json_with_a_picture(clone: Path, command: Command) -> None:
    out = command("compare", *REAL, "--json", "--out", "both.png")[1]
    assert set(json.loads(out)) == set(REAL)
    assert Path("both.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ((*REAL, "--out", "both.jpg"), 1, ("both.jpg", ".png")),
        ((*REAL, "--out", "both.png", "--n", "0"), 2, ("--n",)),
        ((REAL[0], "mnist/ddpm/l1-3/seed0"), 1, (f"did you mean {REAL[1]}",)),
    ],
)
def test_compare_refuses(
    clone: Path, command: Command, arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    found, out, err = command("compare", *arguments)
    assert (found, out) == (code, "")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert not list(clone.glob("both.*"))
