"""Locks on files that the kernel frees with their process (flock).

Not every file system has them: Lustre without `-o flock`, some FUSE and NFS mounts. There a run works without, and
says so. Every job imports this module first, so it imports the standard library only.
"""

import fcntl
import functools
import sys
from typing import IO


def lock(file: IO[str] | int, *, shared: bool = False, wait: bool = False, note: bool = False) -> bool | None:
    """Lock an open file until it is closed or the process ends.

    Args:
        file: the file, or its descriptor.
        shared: hold it together with other shared locks; False: alone.
        wait: wait for other processes to free it.
        note: where there are no locks, print one line on standard error, once per process.

    Returns:
        True: locked. False: another process holds it. None: its file system has no locks, so nobody can tell.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if note:
            _print_note(str(error.strerror))
        return None
    return True


@functools.cache
def _print_note(reason: str) -> None:
    print(
        f"note: this file system has no locks ({reason}), so other runs and trainings in this folder go unnoticed: "
        "start one at a time, and type `snakemake --unlock` after a run was killed",
        file=sys.stderr,
        flush=True,
    )
