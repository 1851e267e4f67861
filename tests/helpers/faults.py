"""Faults of a run: Snakemake as a process in its own session, and signals to it and its jobs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from clones import ENVIRONMENT

from slimdiff.analysis import columns, matrix

PATIENCE_S = 240.0  # for operations that take seconds on an idle machine
# Columns that differ between equal runs: times, memory, and choices of the machine.
OF_A_RUN = {column.name for column in columns.COLUMNS if column.unit in ("s", "ms", "J")}
OF_A_RUN |= {"peak_memory_bytes", "energy_source", "threads", "started_at", "other_cpu_pct", "disturbed"}
OF_A_RUN |= {column.name for column in columns.COLUMNS if column.name.startswith("speedup")}


def launch(folder: Path, *arguments: str, program: str = "snakemake", **environment: str) -> "subprocess.Popen[bytes]":
    """Start Snakemake, or another module, in `folder`, as on its own terminal; the file `printed` has its output."""
    with (folder / "printed").open("wb") as printed:
        return subprocess.Popen(
            # processes started with `&`, and their children, ignore SIGINT
            ["env", "--default-signal=INT", sys.executable, "-m", program, *arguments],
            cwd=folder,
            env={**ENVIRONMENT, "HOME": str(folder), **environment},
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def stages_in(folder: Path, stage: str = "") -> list[int]:
    """Return the process ids of all stages in `folder`, or of one stage."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if (path / "cwd").readlink() == folder and b"-u" in words[:2] and f"slimdiff.stages.{stage}" in str(words):
                found.append(int(path.name))
        except OSError:  # it just ended
            continue
    return found


def end(process: "subprocess.Popen[bytes]", signal_number: int, *others: int) -> int:
    """Send a signal to these processes at once; return the exit code of the first."""
    for pid in (process.pid, *others):
        os.kill(pid, signal_number)
    return process.wait(PATIENCE_S)


def press_ctrl_c(process: "subprocess.Popen[bytes]") -> int:
    """Send SIGINT to every process of the group, as a terminal does; return the exit code."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(PATIENCE_S)


def same_but_for_times(run: Path, other: Path) -> None:
    """Assert that `other` has each row of `run`, equal except for times, memory and choices of the machine."""
    ours, theirs = (matrix.read_matrix(folder / "results" / "matrix.parquet").frame for folder in (run, other))
    cell = ["dataset", "model", "optimization", "seed"]
    theirs = ours[cell].merge(theirs, on=cell, validate="one_to_one")
    kept = [name for name in ours.columns if name not in OF_A_RUN]
    pd.testing.assert_frame_equal(ours[kept], theirs[kept], check_exact=True)
