"""Jobs that the kernel kills for their memory: the other cells go on, and what is there can be seen at any time."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import yaml
from clones import clone, snakemake

from slimdiff.analysis import matrix

RECIPES, SEEDS = ["baseline", "l1-30"], [0, 1]
MATRIX = [{"dataset": "digits", "model": "ncsn", "optimizations": RECIPES, "seeds": SEEDS}]
OVERLAY = ("--configfile", "config/smoke.yaml", "four.yaml")
SAMPLING, TRAINING = "sample:digits/ncsn/l1-30/seed0/", "train:digits/ncsn/plain/seed1/"
PATIENCE_S = 300.0


def slimdiff(folder: Path, *arguments: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder / "workflow" / "src")}
    command = [sys.executable, "-m", "slimdiff.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


def names(frame: pd.DataFrame) -> list[tuple[str, int]]:
    return list(zip(frame["optimization"], frame["seed"], strict=True))


def test_the_matrix_so_far_after_jobs_were_killed_and_beside_a_run(tmp_path: Path) -> None:
    folder = clone(tmp_path / "slimdiff")
    (folder / "workflow/src/sitecustomize.py").write_bytes(
        (Path(__file__).parents[1] / "helpers" / "stand_in_records.py").read_bytes()
    )
    (folder / "four.yaml").write_text(yaml.safe_dump({"matrix": MATRIX}), encoding="utf-8")
    until = ("--cores", "2", *OVERLAY, "--until", "aggregate")

    # the kernel kills a sampling and a training: what hangs on them is missing, nothing else, and the exit code tells
    done = snakemake(folder, *until, KILLED=f"{SAMPLING} {TRAINING}")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert said.count("Trying to restart job") == 2, "a training is tried three times, as it goes on from its state"
    assert not (folder / "results/matrix.parquet").exists()
    so_far = matrix.read_matrix(folder / "results/so-far/matrix.parquet")
    assert names(so_far.frame) == [("baseline", 0)]
    missing = so_far.provenance["missing"]
    assert set(missing) == {f"digits/ncsn/{name}" for name in ("l1-30/seed0", "baseline/seed1", "l1-30/seed1")}
    log = "results/logs/sample/digits/ncsn/l1-30/seed0.log"
    assert (
        missing["digits/ncsn/l1-30/seed0"] == f"sample has started and not finished; {log} ends with: sample goes on and on"
    )
    assert missing["digits/ncsn/baseline/seed1"].startswith("train has started and not finished; ")
    page = (folder / "results/so-far/report.html").read_text(encoding="utf-8")
    assert "3 more not finished when this was made" in page

    # the next plain command makes what is missing; beside it the matrix so far can be seen
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "HELD": TRAINING, "GO": str(folder / "go")}
    command = [sys.executable, "-m", "snakemake", *until]
    begun = folder / "results/logs/train/digits/ncsn/plain/seed1.log"
    begun.unlink()
    with (folder / "said").open("w") as file:
        run = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not begun.exists():
            assert run.poll() is None, (folder / "said").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        requested = [word for path in ("config.yaml", *OVERLAY[1:]) for word in ("--config", path)]
        shown = json.loads(slimdiff(folder, "matrix", *requested, "--json"))
        assert ("baseline", 0) in [(found["optimization"], found["seed"]) for found in shown["rows"]]
        assert shown["missing"]["digits/ncsn/baseline/seed1"].startswith("train has started")
        assert run.poll() is None
        (folder / "go").touch()
        assert run.wait(PATIENCE_S) == 0, (folder / "said").read_text()
    finally:
        run.kill()
        run.wait()
    assert names(matrix.read_matrix(folder / "results/matrix.parquet").frame) == [(r, s) for r in RECIPES for s in SEEDS]
    assert not (folder / "results/so-far").exists()
