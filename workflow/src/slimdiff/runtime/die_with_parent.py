"""Run a command that ends when its parent does, so that no job outlives its Snakemake.

A Snakemake that is killed cannot end its jobs, and these would write into the files of the next run. The rules' shell
starts every stage through this file, like `nice` or `env`:

    python -S -P -m slimdiff.runtime.die_with_parent PARENT FILE COMMAND …

PARENT is the process id of the shell's parent. FILE is locked, shared, until the command ends; the next run waits for
it. Only the standard library is imported: 30 ms per job.

The kernel sends the signal, on Linux only. Elsewhere an orphaned job runs to its end, and the next run waits for it.
"""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence

from slimdiff.runtime.locks import lock

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec, and not handed to children


def main(argv: Sequence[str]) -> None:
    """Lock the file, bind this process to its parent, and exec the command."""
    parent, path, *command = argv
    hold(path)
    if sys.platform == "linux":
        die_with_parent(int(parent))
    os.execvp(command[0], command)


def hold(path: str) -> None:
    """Hold a shared lock on `path` while this process lives; do nothing where it cannot be written or locked."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.set_inheritable(descriptor, True)
        lock(descriptor, shared=True, wait=True)


def die_with_parent(parent: int) -> None:
    """Request SIGTERM for the time when the parent ends; a training then saves its state.

    Raises:
        SystemExit: `parent` has ended already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        sys.exit(f"error: prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before the call
        sys.exit(f"error: the run that started this job (process {parent}) has ended")


if __name__ == "__main__":
    main(sys.argv[1:])
