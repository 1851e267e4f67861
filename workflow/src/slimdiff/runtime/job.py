"""Run a command as a job of Snakemake: it ends when its Snakemake does, and starts fast if there is a fork server.

A Snakemake that is killed cannot end its jobs, and these would write into the files of the next run. The rules' shell
starts every stage through this file, like `nice` or `env`:

    python -S -P -m slimdiff.runtime.job PARENT FILE COMMAND …

PARENT is the process id of the shell's parent. FILE is locked, shared, until the command ends; the next run waits for
it.
"""

import os
import sys
from collections.abc import Sequence

from slimdiff.runtime.lifetime import die_with_parent, hold

PYTHON = ["python", "-u", "-P", "-m"]  # how the rules start a stage
FORK_SERVER = "SLIMDIFF_FORK_SERVER"  # environment variable: socket of the run's fork server; empty: none is used


def main(argv: Sequence[str]) -> None:
    """Lock the file, bind this process to its parent, and run the command: as a fork, or with exec."""
    parent, path, *command = argv
    held = hold(path)
    if sys.platform == "linux":
        die_with_parent(int(parent))
    # The fork server's libraries have one thread each.
    if os.environ.get(FORK_SERVER) and command[:4] == PYTHON and os.environ.get("OMP_NUM_THREADS") == "1":
        from slimdiff.runtime import fork_server  # takes as long as all of the above

        fork_server.run(os.environ[FORK_SERVER], command[4:], held)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
