"""Runs that are interrupted, killed or started twice: no job survives, and the next plain command finishes the run.

docs/reliability.md lists these faults and their effects.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clones import clone, snakemake, with_stand_ins
from faults import PATIENCE_S, end, launch, press_ctrl_c, stages_in, wait_for

if sys.platform != "linux":
    pytest.skip("no other kernel ends a process with its parent", allow_module_level=True)

OVERLAY = "matrix:\n  - {dataset: digits, model: ncsn, optimizations: [baseline], seeds: [0]}\n"
PRESETS = ("--configfile", "config/smoke.yaml", "one.yaml")
WEIGHTS = "results/train/digits/ncsn/plain/seed0/weights.safetensors"
RUN = (WEIGHTS, "--cores", "1", *PRESETS)
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with stub stages that take no time, and its data."""
    folder = with_stand_ins(clone(tmp_path_factory.mktemp("faults") / "slimdiff"))
    (folder / "one.yaml").write_text(OVERLAY, encoding="utf-8")
    done = snakemake(folder, "results/data/digits/images.safetensors", "--cores", "1", *PRESETS)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of `prepared` whose training waits while the file `wait` exists."""
    copied = Path(shutil.copytree(prepared, tmp_path / "slimdiff"))
    (copied / "wait").touch()
    return copied


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Return a function that starts a run and waits until it trains; all processes are killed at the end."""
    started = []

    def begin(*arguments: str) -> "subprocess.Popen[bytes]":
        process = launch(folder, *(arguments or RUN), STAND_IN_WAITS="slimdiff.stages.train")
        started.append(process)
        wait_for(lambda: (folder / "alive").exists() or process.poll() is not None, "the training to begin")
        assert process.poll() is None, (folder / "printed").read_text()
        return process

    yield begin
    for process in started:
        process.kill()
    for pid in stages_in(folder):
        os.kill(pid, signal.SIGKILL)


def goes_on(folder: Path) -> None:
    """The next plain command, without special options, finishes the run."""
    wait_for(lambda: not stages_in(folder), "the training to end")
    (folder / "wait").unlink(missing_ok=True)
    done = snakemake(folder, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / WEIGHTS).stat().st_size > 1_000_000
    assert not list((folder / ".snakemake/locks").glob("*")), "nothing is left that a run would stumble over"


def test_ctrl_c(folder: Path, start: Start) -> None:
    assert press_ctrl_c(start()) == 1
    goes_on(folder)


def test_sigterm_to_snakemake_lets_running_jobs_finish(folder: Path, start: Start) -> None:
    process = start()
    os.kill(process.pid, signal.SIGTERM)
    wait_for(lambda: "Will exit after finishing" in (folder / "printed").read_text(), "Snakemake to notice")
    assert stages_in(folder, "train")
    (folder / "wait").unlink()
    process.wait(PATIENCE_S)
    assert (folder / WEIGHTS).exists()
    goes_on(folder)


def test_kill_9_of_snakemake_leaves_no_job_behind(folder: Path, start: Start) -> None:
    """Its training ends too, and its locks do not block the next run."""
    process = start()
    (job,) = stages_in(folder, "train")
    assert list((folder / ".snakemake/locks").glob("*"))
    end(process, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{job}").exists() or job not in stages_in(folder), "the orphan to end")
    assert not (folder / WEIGHTS).exists(), "it wrote nothing after it had lost its run"
    goes_on(folder)


def test_kill_9_of_snakemake_and_the_trainer(folder: Path, start: Start) -> None:
    process = start()
    end(process, signal.SIGKILL, *stages_in(folder, "train"))
    goes_on(folder)


def test_a_trainer_killed_by_kill_9_is_retried(folder: Path, start: Start) -> None:
    """By the same run."""
    process = start()
    (job,) = stages_in(folder, "train")
    os.kill(job, signal.SIGKILL)
    wait_for(lambda: stages_in(folder, "train") not in ([], [job]), "another try")
    (folder / "wait").unlink()
    assert process.wait(PATIENCE_S) == 0, (folder / "printed").read_text()
    assert (folder / WEIGHTS).exists()


@pytest.mark.parametrize(("error", "tries"), [("ValueError", 1), ("TransientError", 3)])
def test_a_failure_that_cannot_pass_is_not_tried_again(folder: Path, error: str, tries: int) -> None:
    (folder / "wait").unlink()
    done = snakemake(folder, *RUN, STAND_IN_RAISES=f"slimdiff.stages.train {error}")
    assert done.returncode == 1
    assert (folder / "tries").read_text().split() == [error] * tries
    assert (done.stdout + done.stderr).count("Trying to restart job") == tries - 1
    goes_on(folder)


def test_a_second_run_is_refused_and_does_not_harm_the_first(folder: Path, start: Start) -> None:
    process = start()
    second = snakemake(folder, *RUN)
    assert second.returncode == 1
    assert "cannot be locked" in second.stderr + second.stdout
    ours = subprocess.run(
        [sys.executable, "-m", "slimdiff.cli", "run", "--gpus", "0", "--configfile", "one.yaml"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": "workflow/src"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ours.returncode == 1
    assert ours.stderr.count("\n") == 1
    assert f"another run is active in {folder} (process {process.pid} on " in ours.stderr
    assert "wait for it or stop it" in ours.stderr
    assert stages_in(folder, "train"), "the first one works on"
    (folder / "wait").unlink()
    assert process.wait(PATIENCE_S) == 0, (folder / "printed").read_text()


def test_locks_of_another_machine_are_left_alone(folder: Path) -> None:
    """Whether that run is alive is unknown here, so Snakemake refuses and says how to remove the locks."""
    (folder / "wait").unlink()
    locks = folder / ".snakemake/locks"
    locks.mkdir(exist_ok=True)
    (locks / "0.output.lock").write_text(f"{WEIGHTS}\n")
    (folder / ".snakemake/slimdiff.runs").write_text("elsewhere 1\n")
    refused = snakemake(folder, *RUN)
    assert refused.returncode == 1
    assert "--unlock" in refused.stdout + refused.stderr
    assert snakemake(folder, "--unlock", *PRESETS).returncode == 0
    goes_on(folder)


def test_read_only_results(folder: Path) -> None:
    """The run fails and names the folder; once writable, the next run works."""
    (folder / "wait").unlink()
    results = folder / "results"
    if os.geteuid() == 0:
        done = subprocess.run(["mount", "--bind", "-o", "ro", results, results], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    else:
        results.chmod(0o555)
        (results / "data").chmod(0o555)
    try:
        refused = snakemake(folder, *RUN)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", results], check=True)
        else:
            results.chmod(0o755)
            (results / "data").chmod(0o755)
    assert refused.returncode == 1
    assert "results" in refused.stderr + refused.stdout
    assert "ead-only file system" in refused.stderr + refused.stdout or "ermission denied" in refused.stderr
    goes_on(folder)
