"""Run a command that ends when its parent does, so that no job outlives the run that started it.

A run that is killed without warning cannot end its jobs: they would go on, and write into what the next run makes. The
rules' shell starts every stage through this file, as one would through `nice` or `env`:

    python -I -S leash.py PARENT FILE COMMAND …

PARENT is the process id that the shell has as its parent, FILE is held (a shared flock) until the command has ended,
however it ends: the next run waits for that. Nothing but the standard library is imported; it costs 25 ms for each job.

The kernel sends the signal, so there is nothing to poll. Linux alone can do so; elsewhere a job of a run that was
killed goes on to its end, and the next run waits for it.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec, and not handed to children


def main(argv: Sequence[str]) -> None:
    """Hold the file, tie this process to its parent, become the command."""
    parent, path, *command = argv
    hold(path)
    if sys.platform == "linux":
        end_with_parent(int(parent))
    os.execvp(command[0], command)


def hold(path: str) -> None:
    """A shared lock on `path` for as long as this process lives; nothing where the file system has no locks."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.set_inheritable(descriptor, True)
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def end_with_parent(parent: int) -> None:
    """SIGTERM when the parent ends: a training then saves its state, anything else ends at once.

    Raises:
        SystemExit: `parent` has ended already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        sys.exit(f"error: prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it may have ended before the call
        sys.exit(f"error: the run that started this job (process {parent}) has ended")


if __name__ == "__main__":
    main(sys.argv[1:])
