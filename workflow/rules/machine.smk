"""The processes of a run on this machine: their folder, where Python looks for modules, and the encoding of text.

Included before config.yaml is read.
"""

import os
import shlex
import sys
from pathlib import Path

CLONE = Path(workflow.basedir)
PACKAGE = "workflow/src"  # relative, so that no character of the clone's path has a meaning in a shell or in PYTHONPATH

# The package of this clone comes first, installed or not, and no file next to the Snakefile in place of a library.
sys.path[:] = [
    str(CLONE / PACKAGE),
    *(path for path in sys.path if os.path.realpath(path) != os.path.realpath(CLONE)),
]

from slimdiff.io.streams import make_tolerant
from slimdiff.io.text import one_line


def check_working_folder():
    """Exit with one line unless this folder is the clone, to which all paths of the config and the rules are relative."""
    missing = next((name for name in ("config.yaml", "workflow") if not os.path.exists(name)), None)
    if missing is None and os.path.samefile("workflow", CLONE / "workflow"):
        return
    problem = f"{missing} was not found in {Path.cwd()}" if missing else f"{Path.cwd()} is another workflow's folder"
    clone = shlex.quote(str(CLONE))
    sys.exit(f"error: {one_line(problem)}; run Snakemake in the clone: cd {clone}, or add --directory {clone}")


def check_cluster_path():
    """Exit with one line if the clone's path has characters that plugins for clusters hand to a shell unquoted."""
    found = next((character for character in '"$`\\\n' if character in str(CLONE)), None)
    if found and not workflow.local_exec:
        sys.exit(
            f"error: the clone's path has {found!r}, which commands of batch systems cannot quote: {str(CLONE)!r}; rename "
            "the folder, or run on this machine"
        )


make_tolerant(sys.stdout, sys.stderr, *(handler.stream for handler in logger.handlers if hasattr(handler, "stream")))
check_working_folder()

# For jobs, here and on cluster nodes. `python` is the one that runs Snakemake, or conda's. PYTHONSAFEPATH is `python -P`
# for Snakemake on nodes and for what stages start.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", os.defpath)]),
    PYTHONSAFEPATH="1",
)
# The shell sets what conda environments drop, and encodings that must not be this terminal's. A job ends with the
# Snakemake that started it, even if Snakemake is killed.
JOB_VARIABLES = {"PYTHONPATH": PACKAGE, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
shell.prefix(
    f"set -euo pipefail; export {' '.join(map('='.join, JOB_VARIABLES.items()))}; "
    "exec python -S -P -m slimdiff.runtime.job $PPID .snakemake/slimdiff.jobs "
)
