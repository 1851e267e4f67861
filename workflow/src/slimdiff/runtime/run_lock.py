"""Track live runs in a folder to detect stale Snakemake locks.

Snakemake locks a folder with files, which stay after a kill and block the next run. Each run and each job also holds a
lock that the kernel frees with the process. Where nobody holds that one, Snakemake's locks are stale.

Not every shared file system shows these to other machines, so locks of a run on another machine are never removed; nor
is any where the file system has none.
"""

import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import IO

from slimdiff.runtime.locks import lock

RUNS = "slimdiff.runs"  # held by every run; names the host and process that started last
JOBS = "slimdiff.jobs"  # held by every job (slimdiff.runtime.job)
JOBS_TIMEOUT_S = 60.0  # a training saves its state after SIGTERM


def enter(folder: Path) -> IO[str] | None:
    """Register this run in `folder`, and remove stale locks from its subfolder `locks`.

    Returns:
        A file to keep open while the run lives; None where the folder is read-only.
    """
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / RUNS).open("a+", encoding="utf-8")
    except OSError:
        return None
    try:
        left = list_locks(folder)
        if left and _host(file) == socket.gethostname() and lock(file) and _jobs_ended(folder):
            for path in left:
                path.unlink(missing_ok=True)
            print("the last run here was killed: resuming from what it saved", file=sys.stderr)
        lock(file, shared=True, wait=True)
    except OSError:
        file.close()
        return None
    return file


def sign(file: IO[str] | None) -> None:
    """Write this host and process into the file that `enter` returned; note it if there are no locks."""
    if file is not None:
        lock(file, shared=True, wait=True, note=True)
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()


def find_worker(folder: Path) -> str | None:
    """Return the process that is at work in `folder`, worded for a message; None if there is none or it is unknown."""
    if not list_locks(folder):
        return None
    with contextlib.suppress(OSError), (folder / RUNS).open("r+", encoding="utf-8") as file:
        if lock(file) is False:
            host, _, process = file.read().strip().partition(" ")
            return f"process {process} on {host}" if process else "another process"
    return None


def list_locks(folder: Path) -> list[Path]:
    """Return the lock files of runs in `folder`, live or stale."""
    return sorted((folder / "locks").glob("*.lock"))


def _host(file: IO[str]) -> str:
    file.seek(0)
    return file.read().partition(" ")[0]


def _jobs_ended(folder: Path) -> bool:
    """Wait for jobs of a killed run to end, at most JOBS_TIMEOUT_S; return whether they did."""
    deadline = time.monotonic() + JOBS_TIMEOUT_S
    with (folder / JOBS).open("a+", encoding="utf-8") as file:
        if lock(file):
            return True
        print("the last run here was killed: waiting for its jobs to end", file=sys.stderr, flush=True)
        while time.monotonic() < deadline:
            time.sleep(0.2)
            if lock(file):
                return True
    print("jobs of the killed run are still running here: wait for them, or end them", file=sys.stderr, flush=True)
    return False
