"""Which runs are alive in a folder, so that the locks of one that was killed are told from those of one that works.

A run locks the files that it makes by writing their names down. If it is killed the names stay, and the next run would
be refused until somebody removes them. So every run holds a second lock, one that the kernel frees with the process
(flock): where nobody holds that one, nor any job, the first kind was left behind.

A lock that the kernel keeps is seen by other machines on most shared file systems, not on all. So what a run on another
machine left is never removed here.
"""

import contextlib
import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import IO

RUNS = "slimdiff.runs"  # held by every run; says which machine and process the last one to begin work was
JOBS = "slimdiff.jobs"  # held by every job (slimdiff.runtime.die_with_parent)
PATIENCE_S = 60.0  # for the jobs of a run that was killed: a training saves its state first


def enter(folder: Path) -> IO[str] | None:
    """Take part in the runs of `folder`, after removing what killed ones left in its folder `locks`.

    Returns:
        What must stay open for as long as the run lives; None where the file system has no such locks, or is read-only.
    """
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / RUNS).open("a+", encoding="utf-8")
    except OSError:
        return None
    try:
        left = list_locks(folder)
        if left and _host(file) == socket.gethostname() and _alone(file) and _jobs_ended(folder):
            for path in left:
                path.unlink(missing_ok=True)
            print("the last run here was killed: this one goes on from what it saved", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        file.close()
        return None
    return file


def sign(file: IO[str] | None) -> None:
    """Say in the file that `enter` returned who works here from now on."""
    if file is not None:
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()


def find_worker(folder: Path) -> str | None:
    """Who works in `folder`, as a message can say it; None where nobody does, or where that cannot be known."""
    if not list_locks(folder):
        return None
    with contextlib.suppress(OSError), (folder / RUNS).open("r+", encoding="utf-8") as file:
        if not _alone(file):
            host, _, process = file.read().strip().partition(" ")
            return f"process {process} on {host}" if process else "another process"
    return None


def list_locks(folder: Path) -> list[Path]:
    """The locks of runs that are at work in `folder`, or were killed there."""
    return sorted((folder / "locks").glob("*.lock"))


def _host(file: IO[str]) -> str:
    file.seek(0)
    return file.read().partition(" ")[0]


def _alone(file: IO[str]) -> bool:
    """Whether no other process holds the file; it is then held by this one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _jobs_ended(folder: Path) -> bool:
    """Whether no job is left, after a while at most."""
    deadline = time.monotonic() + PATIENCE_S
    with (folder / JOBS).open("a+", encoding="utf-8") as file:
        if _alone(file):
            return True
        print("the last run here was killed: waiting for its jobs to end", file=sys.stderr, flush=True)
        while time.monotonic() < deadline:
            time.sleep(0.2)
            if _alone(file):
                return True
    print("jobs of the run that was killed still work here: wait for them, or end them", file=sys.stderr, flush=True)
    return False
