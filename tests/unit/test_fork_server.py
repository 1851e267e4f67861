"""Jobs as forks of one server: they behave as processes of their own, and end with what they belong to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import SOURCE

from slimdiff.runtime import fork_server, locks
from slimdiff.runtime.job import FORK_SERVER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks of a server are for Linux alone")

PATIENCE_S = 60.0
ODD = "a folder: $(touch pwned) Пр \udce9 \n"  # with a byte that is no UTF-8
RUN = """
import sys
from slimdiff.runtime import fork_server
print(fork_server.start(sys.argv[2:], {"PYTHONPATH": sys.argv[1]}), flush=True)
sys.stdin.read()
"""
PROBE = """
import json, os, signal, sys, time
from pathlib import Path
seen = [name for name in sys.modules if name.startswith("slimdiff")]
def wait(_number, _frame):
    Path("terminated").touch()
    sys.exit(143)
def rest():  # a signal just before a long sleep would be handled after it
    for _ in range(6000):
        time.sleep(0.1)
what = sys.argv[1]
if what == "facts":
    facts = {"torch": "torch" in sys.modules, "slimdiff": seen, "arguments": sys.argv[1:], "folder": os.getcwd()}
    print(json.dumps({**facts, "value": os.environ.get("VALUE"), "name": __name__}))
    print("to standard error", file=sys.stderr)
elif what == "exit":
    sys.exit(json.loads(sys.argv[2]))
elif what == "raise":
    raise ValueError("no such thing")
elif what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
elif what == "count":
    while True:
        with open("count", "a") as file:
            file.write("1")
        time.sleep(0.02)
elif what == "slow":
    def end(_number, _frame):
        time.sleep(1)
        Path("terminated").touch()
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
    Path("started").write_text(str(os.getpid()))
    rest()
elif what == "wait":
    signal.signal(signal.SIGTERM, wait)
    Path("started").write_text(str(os.getpid()))
    rest()
"""


class Run:
    """A process that has started a fork server, as Snakemake does."""

    def __init__(self, folder: Path, *modules: str) -> None:
        (folder / "probe.py").write_text(PROBE, encoding="utf-8")
        path = os.pathsep.join([str(SOURCE), "."])
        self.folder, self.variables = folder, {"PATH": os.environ["PATH"], "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-P", "-c", RUN, path, *modules]
        variables = {**self.variables, "PYTHONPATH": str(SOURCE)}
        self.process = subprocess.Popen(command, env=variables, cwd=folder, text=True, **pipes)  # type: ignore[call-overload]
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start a job of `python -m probe`, whose parent is this process."""
        command = ["python", "-u", "-P", "-m", "probe", *arguments]
        return subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "slimdiff.runtime.job", str(os.getpid()), "jobs", *command],
            env={**self.variables, FORK_SERVER: self.address, **variables},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        job = self.start(*arguments, **variables)
        out, err = job.communicate(timeout=PATIENCE_S)
        return job.returncode, out, err

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def module_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("run") / ODD
    folder.mkdir()
    run = Run(folder)
    yield run
    run.end()


@pytest.fixture
def run(module_run: Run) -> Run:
    for path in ("started", "terminated", "jobs", "count"):
        (module_run.folder / path).unlink(missing_ok=True)
    return module_run


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.02)


def servers_of(address: str) -> list[str]:
    """Return the processes that listen at `address`, by the kernel's table of sockets."""
    return [line for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(address)]


def test_a_fork_has_its_jobs_arguments_environment_folder_and_streams(run: Run) -> None:
    code, out, err = run.finish("facts", "ü", "", VALUE="given")
    assert (code, err) == (0, "to standard error\n")
    assert json.loads(out) == {
        "torch": True,
        "slimdiff": [],  # so that it imports the package as it is now
        "arguments": ["facts", "ü", ""],
        "folder": str(run.folder),
        "value": "given",
        "name": "__main__",
    }
    assert '"value": null' in run.finish("facts")[1]


@pytest.mark.parametrize("variables", [{"OMP_NUM_THREADS": "2"}, {FORK_SERVER: ""}, {FORK_SERVER: "/nowhere"}])
def test_jobs_with_more_threads_or_without_a_server_start_python_anew(run: Run, variables: dict[str, str]) -> None:
    code, out, _ = run.finish("facts", **variables)
    assert code == 0
    assert '"torch": false' in out


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("3", 3), ("null", 0), ('"why"', 1)])
def test_exit_statuses_are_the_forks(run: Run, value: str, expected: int) -> None:
    code, _, err = run.finish("exit", value)
    assert (code, err) == (expected, "why\n" if expected == 1 else "")


def test_an_error_has_its_traceback_and_a_death_its_signal(run: Run) -> None:
    code, _, err = run.finish("raise")
    assert code == 1
    assert err.endswith("ValueError: no such thing\n")
    assert run.finish("die")[0] == 128 + signal.SIGKILL


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_fork_is_terminated_with_its_job_and_holds_the_jobs_lock_until_then(run: Run, sent: signal.Signals) -> None:
    job = run.start("wait")
    wait_for(lambda: (run.folder / "started").exists() and (run.folder / "started").read_text())
    fork = int((run.folder / "started").read_text())
    assert fork != job.pid
    if sent == signal.SIGKILL:
        os.kill(fork, signal.SIGSTOP)
    job.send_signal(sent)
    assert job.wait(PATIENCE_S) == (143 if sent == signal.SIGTERM else -sent)
    with (run.folder / "jobs").open("a+") as file:
        if sent == signal.SIGKILL:
            assert locks.lock(file) is False
            os.kill(fork, signal.SIGCONT)
        wait_for(lambda: locks.lock(file))
    assert (run.folder / "terminated").exists()
    job.communicate()


def test_the_server_and_its_folder_end_with_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.finish("exit", "0")[0] == 0
    assert servers_of(run.address)
    run.end()
    wait_for(lambda: not Path(run.address).parent.exists() and not servers_of(run.address))


def test_a_killed_server_ends_no_running_job_and_new_jobs_start_python_anew(tmp_path: Path) -> None:
    run = Run(tmp_path)
    job = run.start("wait")
    wait_for(lambda: (tmp_path / "started").exists())
    pid = run.process.pid
    (server,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    os.kill(server, signal.SIGKILL)
    assert '"torch": false' in run.finish("facts")[1]
    assert job.poll() is None
    job.terminate()
    assert job.wait(PATIENCE_S) == 143
    job.communicate()
    run.end()


def counted(folder: Path) -> int:
    return (folder / "count").stat().st_size if (folder / "count").exists() else 0


def test_ctrl_z_stops_the_fork_and_it_goes_on(run: Run) -> None:
    job = run.start("count")
    wait_for(lambda: counted(run.folder))
    job.send_signal(signal.SIGTSTP)
    wait_for(lambda: "T (stopped)" in Path(f"/proc/{job.pid}/status").read_text())
    time.sleep(0.3)
    before = counted(run.folder)
    time.sleep(0.3)
    assert counted(run.folder) == before
    job.send_signal(signal.SIGCONT)
    wait_for(lambda: counted(run.folder) > before)
    job.terminate()
    assert job.wait(PATIENCE_S) == 128 + signal.SIGTERM
    job.communicate()


def test_a_job_whose_keeper_is_killed_waits_for_the_forks_end(run: Run) -> None:
    job = run.start("slow")
    wait_for(lambda: (run.folder / "started").exists() and (run.folder / "started").read_text())
    fork = int((run.folder / "started").read_text())
    os.kill(int(Path(f"/proc/{fork}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    _, err = job.communicate(timeout=PATIENCE_S)
    assert (job.returncode, "was killed; run the same command again" in err) == (1, True)
    assert (run.folder / "terminated").exists()


def test_a_folder_too_long_for_a_socket_leaves_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert fork_server.start([], {}) == ""
    assert not list(folder.iterdir())


@pytest.mark.parametrize("module", ["no_such_module", "with_thread"])
def test_a_server_that_cannot_serve_says_why_and_jobs_start_python_anew(tmp_path: Path, module: str) -> None:
    (tmp_path / "with_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()"
    )
    run = Run(tmp_path, module)
    assert '"torch": false' in run.finish("facts")[1]
    wait_for(lambda: not Path(run.address).parent.exists())
    run.end()
