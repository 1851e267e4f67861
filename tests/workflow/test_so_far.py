"""Jobs killed for lack of memory: the other cells finish, and the matrix so far is available at any time."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml
from clones import clone, snakemake, with_site
from faults import launch, press_ctrl_c, wait_for

from slimdiff.analysis import matrix

RECIPES, SEEDS = ["baseline", "l1-30"], [0, 1]
MATRIX = [{"dataset": "digits", "model": "ncsn", "optimizations": RECIPES, "seeds": SEEDS}]
OVERLAY = ("--configfile", "config/smoke.yaml", "four.yaml")
SAMPLING, TRAINING = "sample:digits/ncsn/l1-30/seed0/", "train:digits/ncsn/plain/seed1/"


def slimdiff(folder: Path, *arguments: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder / "workflow" / "src")}
    command = [sys.executable, "-m", "slimdiff.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def names(frame: pd.DataFrame) -> list[tuple[str, int]]:
    return list(zip(frame["optimization"], frame["seed"], strict=True))


def test_the_matrix_so_far_after_killed_jobs_and_during_a_run(tmp_path: Path) -> None:
    folder = with_site(clone(tmp_path / "slimdiff"), Path(__file__).parents[1] / "helpers" / "stand_in_records.py")
    (folder / "four.yaml").write_text(yaml.safe_dump({"matrix": MATRIX}), encoding="utf-8")
    until = ("--cores", "2", *OVERLAY, "--until", "aggregate")

    # one sampling and one training are killed: only the cells that need them are missing, and the exit code is 1
    done = snakemake(folder, *until, KILLED=f"{SAMPLING} {TRAINING}")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert said.count("Trying to restart job") == 2, "a training is tried three times, since it resumes from its state"
    assert not (folder / "results/matrix.parquet").exists()
    so_far = matrix.read_matrix(folder / "results/so-far/matrix.parquet")
    assert names(so_far.frame) == [("baseline", 0)]
    missing = so_far.provenance["missing"]
    assert set(missing) == {f"digits/ncsn/{name}" for name in ("l1-30/seed0", "baseline/seed1", "l1-30/seed1")}
    log = "results/logs/sample/digits/ncsn/l1-30/seed0.log"
    stopped = missing["digits/ncsn/l1-30/seed0"]
    assert stopped.startswith("sample has started") and log in stopped and stopped.endswith("sample goes on and on")
    assert missing["digits/ncsn/baseline/seed1"].startswith("train has started and not finished; ")
    page = (folder / "results/so-far/report.html").read_text(encoding="utf-8")
    assert "3 more unfinished" in page

    # during a run, the matrix so far is available at any time; Ctrl-C does not write one
    shutil.rmtree(folder / "results/so-far")
    train_log = folder / "results/logs/train/digits/ncsn/plain/seed1.log"
    train_log.unlink()
    run = launch(folder, *until, HELD=TRAINING, GO=str(folder / "go"))
    try:
        wait_for(train_log.exists, "the training")
        presets = [word for path in ("config.yaml", *OVERLAY[1:]) for word in ("--config", path)]
        shown = json.loads(slimdiff(folder, "matrix", *presets, "--json"))
        assert ("baseline", 0) in [(row["optimization"], row["seed"]) for row in shown["rows"]]
        assert shown["missing"]["digits/ncsn/baseline/seed1"].startswith("train has started")
        assert run.poll() is None
        assert press_ctrl_c(run) != 0
    finally:
        run.kill()
        run.wait()
    assert not (folder / "results/so-far").exists(), (folder / "printed").read_text()

    # the next plain command finishes the matrix and removes an old one
    (folder / "results/so-far").mkdir()
    done = snakemake(folder, *until)
    assert done.returncode == 0, done.stdout + done.stderr
    frame = matrix.read_matrix(folder / "results/matrix.parquet").frame
    assert names(frame) == [(recipe, seed) for recipe in RECIPES for seed in SEEDS]
    assert not (folder / "results/so-far").exists()
