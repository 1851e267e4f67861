"""Retries: which failures another try can change, and how a job tells Snakemake that its own is not one of them.

Snakemake retries by rule, whatever went wrong, and sees no exit code of a job on a cluster. So a stage prints FINAL
into its log before the error, and Snakemake's scheduler takes such a try for the last one.
"""

import os
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from slimdiff.errors import TransientError

FINAL = "not tried again: another try would fail in the same way"  # a line of a log
TAIL_BYTES = 1 << 16  # of a log; a traceback is shorter
# Failures of machines: of disks, also by files that another node wrote and a cluster's file system does not show yet;
# of devices, for which CUDA raises RuntimeError; of memory, networks and processes.
PASSING = (TransientError, OSError, RuntimeError, MemoryError, HTTPException, SubprocessError)
REPEATING = (NotImplementedError, RecursionError)  # kinds of RuntimeError that are mistakes in code


def is_final(error: BaseException) -> bool:
    """Return whether another try would raise `error` again.

    Mistakes in code, data and installation repeat, whatever library raises them; random draws come from seeds.
    """
    return isinstance(error, Exception) and (isinstance(error, REPEATING) or not isinstance(error, PASSING))


def has_failed_for_good(logs: Iterable[str | os.PathLike[str]], since: float) -> bool:
    """Return whether one of the logs, written after the time `since`, says that its job need not be tried again."""
    return any(FINAL in _tail(Path(log), since).splitlines() for log in logs)


def keep_for_passing_failures(scheduler: Any, since: float) -> None:
    """Make Snakemake's scheduler retry only jobs that another try can change.

    Executors report a failed job to `error_callback`, after which the scheduler retries it unless its `attempt` is the
    last one.

    Args:
        since: start of the run, as time.time(); older logs are of other runs.
    """
    report = scheduler.error_callback

    def error_callback(job: Any) -> None:
        parts = job.jobs if job.is_group() else [job]
        if has_failed_for_good([log for part in parts for log in part.log], since):
            job.attempt = job.restart_times + 1
        report(job)

    scheduler.error_callback = error_callback


def _tail(log: Path, since: float) -> str:
    """Return the end of a log; empty if it is missing or older than `since`."""
    try:
        with log.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mtime < since:
                return ""
            file.seek(max(0, status.st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
