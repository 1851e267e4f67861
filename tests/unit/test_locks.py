"""Locks on files, and all that relies on them where the file system has none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import SOURCE

from slimdiff.runtime.locks import lock

WITHOUT_LOCKS = Path(__file__).parents[1] / "helpers" / "without_locks.py"
NO_LOCKS = ("ENOSYS", "ENOLCK", "EOPNOTSUPP")  # Lustre without `-o flock`, NFS without its daemon, some FUSE


def without_locks(error: str, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, where each flock fails with `error`; skip where the kernel allows no such filter."""
    command = [sys.executable, str(WITHOUT_LOCKS), error, sys.executable]
    if subprocess.run([*command, "-S", "-c", ""], capture_output=True).returncode != 0:
        pytest.skip("no filter of system calls can be set here")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([*command, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)


def test_one_holds_it_or_many_share_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a+") as first, path.open("a+") as second:
        assert lock(first) is True
        assert lock(second) is False
        assert lock(second, shared=True) is False
        assert lock(first, shared=True) is True, "its own lock can be changed"
        assert lock(second, shared=True) is True
        assert lock(first) is False
    with path.open("a+") as third:
        assert lock(third.fileno()) is True, "a closed file holds nothing"


def test_locks_make_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "lock").open("a+") as file:
        lock(file, note=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", NO_LOCKS)
def test_a_file_system_without_locks_is_noted_once(tmp_path: Path, error: str) -> None:
    done = without_locks(
        error,
        """
from slimdiff.runtime.locks import lock
with open("lock", "a+") as file:
    print([lock(file), lock(file, note=True), lock(file, shared=True, wait=True, note=True)])
""",
        tmp_path,
    )
    assert done.stdout == "[None, None, None]\n"
    (note,) = done.stderr.splitlines()
    assert note.startswith("note: ")


def test_all_that_locks_works_without_locks(tmp_path: Path) -> None:
    """Runs, jobs, trainings and `slimdiff clean`; nothing that may be alive is taken for dead."""
    done = without_locks(
        "ENOSYS",
        """
import json, os, socket, sys
from pathlib import Path
from slimdiff.cli import clean
from slimdiff.runtime import lifetime, run_lock
from slimdiff.training.state import locked

runs, left = Path(".snakemake"), Path(".snakemake/locks/0.output.lock")
left.parent.mkdir(parents=True)
left.touch()
(runs / run_lock.RUNS).write_text(f"{socket.gethostname()} 1")
run = run_lock.enter(runs)
run_lock.sign(run)
with locked(Path("state")):
    training = clean._runs(Path("state"), now=0.0)
lifetime.hold(".snakemake/slimdiff.jobs")
print(json.dumps([left.exists(), run_lock.find_worker(runs), (runs / run_lock.RUNS).read_text(), training]))
os._exit(0)
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lock_is_left, worker, signature, training_runs = json.loads(done.stdout)
    assert lock_is_left, "the run that left it may be alive"
    assert worker is None
    assert signature.split()[1].isdigit()
    assert training_runs is False, "it wrote long ago, which is all that can be known"
    assert done.stderr.count("note: ") == 1
