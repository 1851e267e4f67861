"""A job's process: it ends when its parent does, and holds a lock that the next run waits for.

Only the standard library is imported, in 30 ms, since every job imports this first. The kernel sends the signal, on
Linux only. Elsewhere an orphaned job runs to its end, and the next run waits for it.
"""

import contextlib
import ctypes
import os
import signal
import sys

from slimdiff.runtime.locks import lock

PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept across exec, and not handed to children


def hold(path: str) -> int | None:
    """Hold a shared lock on `path` while this process lives; do nothing where it cannot be written or locked.

    Returns:
        The descriptor, whose copies in other processes hold the lock as well.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.set_inheritable(descriptor, True)
        lock(descriptor, shared=True, wait=True)
        return descriptor
    return None


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
