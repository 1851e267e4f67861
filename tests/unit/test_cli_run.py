"""`slimdiff run`: its Snakemake command, the folder, and that Snakemake replaces the process."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import PATIENCE_S

from slimdiff.cli import run as module

Command = Callable[..., tuple[int, str, str]]
SOURCE = Path(module.__file__).parents[2]
ALWAYS = ["--resources", "gpu=0"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command that would have replaced this process, after its folder."""
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: calls.append([str(Path.cwd()), program, *command]))
    monkeypatch.setattr(module, "count_gpus", lambda: 0)
    return calls


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A minimal clone with two presets."""
    clone = tmp_path / "clone"
    (clone / "workflow" / "rules").mkdir(parents=True)
    (clone / "config").mkdir()
    for name in ("Snakefile", "config/smoke.yaml", "config/paper.yaml", "mine.yaml"):
        (clone / name).write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(clone)
    return clone


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), [*ALWAYS, "--cores", "all"]),
        (("smoke",), [*ALWAYS, "--configfile", "config/smoke.yaml", "--cores", "all"]),
        (("config/smoke.yaml",), [*ALWAYS, "--configfile", "config/smoke.yaml", "--cores", "all"]),
        (
            ("smoke", "--configfile", "mine.yaml"),
            [*ALWAYS, "--configfile", "config/smoke.yaml", "mine.yaml", "--cores", "all"],
        ),
        (("--cores", "3", "--gpus", "2"), ["--resources", "gpu=2", "--cores", "3"]),
        (("-n",), [*ALWAYS, "--cores", "all", "--dry-run"]),
        (("--dry-run", "--", "--forcerun", "score"), [*ALWAYS, "--cores", "all", "--dry-run", "--forcerun", "score"]),
        (("--", "results/x", "--", "y"), [*ALWAYS, "--cores", "all", "results/x", "--", "y"]),
        (
            ("smoke", "--", "-n"),
            [*ALWAYS, "--configfile", "config/smoke.yaml", "--cores", "all", "-n"],
        ),
    ],
)
def test_the_command_line(
    root: Path, started: list[list[str]], command: Command, arguments: tuple[str, ...], expected: list[str]
) -> None:
    code, _, err = command("run", *arguments)
    assert code == 0
    assert started == [[str(root), sys.executable, sys.executable, "-P", "-m", "snakemake", *expected]]
    assert err.startswith("snakemake --resources gpu=")  # what one would type without `slimdiff run`


def test_a_run_starts_in_the_root_of_the_clone(
    root: Path, started: list[list[str]], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started in a subfolder, with an overlay relative to it."""
    (root / "docs").mkdir()
    (root / "docs" / "own.yaml").write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(root / "docs")
    assert command("run", "paper", "--configfile", "own.yaml")[0] == 0
    folder, *_, last = started[0]
    assert folder == str(root)
    assert started[0][8:-2] == ["--configfile", "config/paper.yaml", "docs/own.yaml"]
    assert last == "all"


def test_paths_are_utf8_whatever_the_terminal_shows(
    root: Path, started: list[list[str]], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")  # both are reset after the test
    command("run")
    assert os.environ["PYTHONUTF8"] == "1"
    for encoding, variables in (("latin-1", {"PYTHONIOENCODING": "iso8859-1:backslashreplace"}), ("utf8", {})):
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding))
        assert module.utf8_mode() == {"PYTHONUTF8": "1", **variables}


def test_gpus_are_counted_from_nvidia_smis_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "GPU 0: A"\necho "GPU 1: B"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert module.count_gpus() == 2
    program.write_text('#!/bin/sh\necho "no driver"\nexit 9\n', encoding="utf-8")
    assert module.count_gpus() == 0
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert module.count_gpus() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("smok",), 1, ("no preset", "'smok'", "did you mean smoke")),
        (("absent",), 1, ("no preset", "'absent'", "paper, smoke")),
        (("--configfile", "absent.yaml"), 1, ("absent.yaml", "does not exist")),
        (("--cores", "none"), 2, ("'none'", "a positive number, or all")),
        (("--cores", "0"), 2, ("'0'",)),
        (("--gpus", "-1"), 2, ("--gpus",)),
        (("--forcerun", "score"), 2, ("--forcerun", "slimdiff run --help")),
    ],
)
def test_errors_are_one_line(
    root: Path,
    started: list[list[str]],
    command: Command,
    arguments: tuple[str, ...],
    code: int,
    parts: tuple[str, ...],
) -> None:
    found, out, err = command("run", *arguments)
    assert (found, out, started) == (code, "", [])
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


def test_outside_a_clone_the_error_says_where_to_run(
    tmp_path: Path, started: list[list[str]], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command("run")
    assert code == 1
    assert f"{tmp_path} is not inside a clone" in err
    assert f"cd {SOURCE.parents[1]}" in err
    assert started == []


RULE = """
rule all:
    output:
        "made",
    localrule: True
    shell:
        "touch begun; trap 'touch ended; exit 1' INT TERM; for i in $(seq 300); do sleep 0.1; done"
"""


@pytest.fixture
def tiny(root: Path) -> Path:
    """A clone with one job of half a minute."""
    (root / "Snakefile").write_text(RULE, encoding="utf-8")
    return root


def launch(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "slimdiff.cli", "run", "--gpus", "0", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_ctrl_c_stops_snakemake_cleanly(tiny: Path) -> None:
    """Sent to every process of the group, as a terminal does. No lock remains for the next run."""
    process = launch(tiny)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (tiny / "begun").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (tiny / "begun").exists()
        assert list((tiny / ".snakemake" / "locks").glob("*"))
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "Traceback" not in output
    assert not list((tiny / ".snakemake" / "locks").glob("*"))


def test_the_exit_code_is_snakemakes(tiny: Path) -> None:
    done = launch(tiny, "--dry-run")
    assert "rule all" in done.communicate(timeout=PATIENCE_S)[0]
    assert done.returncode == 0
    failed = launch(tiny, "--", "no-such-target")
    assert "no-such-target" in failed.communicate(timeout=PATIENCE_S)[0]
    assert failed.returncode == 1
