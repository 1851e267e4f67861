"""Clones for running Snakemake, and the jobs of its dry runs."""

import atexit
import functools
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

REPOSITORY = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("stand_in.py")
STAGE_FORKS = Path(__file__).with_name("stage_forks.py")
CLONED = ("Snakefile", "config.yaml", "config", "profiles", "workflow", "envs")
SMOKE = ("--configfile", "config/smoke.yaml")

# Without passive waiting, threads that wait for one without a core spin: five times the processor time of a profile.
# Without a fork server, since clones change what a stage's Python starts with; test_smoke.py has runs with it.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_WAIT_POLICY": "passive",
    "SLIMDIFF_FORK_SERVER": "",
}

Jobs = dict[str, set[str]]  # rule → its jobs, each as its wildcards joined by slashes


def clone(target: Path) -> Path:
    """Return a copy of the files that a run needs, as in a fresh clone."""
    target.mkdir(parents=True)
    for name in CLONED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target / name)  # with Python's caches, which save a tenth of a dry run's time
        else:
            shutil.copy2(source, target / name)
    return with_codes(target)


def with_site(folder: Path, *programs: Path) -> Path:
    """Return the clone, in which every Python starts with these programs, one after the other."""
    texts = [program.read_text(encoding="utf-8") for program in programs]
    (folder / "workflow" / "src" / "sitecustomize.py").write_text("\n".join(texts), encoding="utf-8")
    return with_codes(folder)


def with_stand_ins(folder: Path) -> Path:
    """Return the clone with stub stages that take no time (stand_in.py)."""
    return with_site(folder, STAND_IN)


def with_stage_forks(folder: Path) -> Path:
    """Return the clone, whose stages are forks with STAGE_FORKS=stage_forks() in the environment (stage_forks.py)."""
    return with_site(folder, STAGE_FORKS)


@functools.cache
def stage_forks(*libraries: str) -> str:
    """Start a server with these libraries, which ends with this process; return the path of its socket.

    With "preloaded" it also forks Snakemake, if the package's folder is on $PYTHONPATH.
    """
    folder = tempfile.TemporaryDirectory(prefix="forks-")  # short: the path of a socket has at most 107 bytes
    atexit.register(folder.cleanup)
    address = f"{folder.name}/socket"
    command = [sys.executable, "-u", "-P", str(STAGE_FORKS), address, *libraries]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    variables = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(STAGE_FORKS.parent)}
    server = subprocess.Popen(command, env=variables, **pipes)
    assert server.stdout is not None
    assert b"ready\n" in server.stdout, "the server has not started"
    return address


def with_codes(folder: Path) -> Path:
    """Return the unedited clone with the fingerprints of its stages, which each first dry run would compute."""
    from slimdiff.runtime.fingerprint import SOURCE, digest_of_text, fingerprint  # not in forks: see below

    stages = sorted(path.stem for path in (SOURCE / "slimdiff" / "stages").glob("[!_]*.py"))
    codes = {entry: fingerprint(entry) for entry in (f"slimdiff.stages.{stage}:main" for stage in stages)}
    kept = {"text": digest_of_text(folder / "workflow" / "src"), "fingerprints": codes}
    (folder / ".snakemake").mkdir(exist_ok=True)
    (folder / ".snakemake" / "slimdiff.code").write_text(json.dumps(kept), encoding="utf-8")
    return folder


def finish(folder: Path, *arguments: str, **environment: str) -> Path:
    """Return the clone after a successful run."""
    done = snakemake(folder, "--cores", "2", *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def snakemake(folder: Path, *arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `folder` without the environment variables of this test; None removes one of ENVIRONMENT.

    It runs in a fork of a process that has imported Snakemake, which saves two thirds of a dry run's time.
    """
    start_forks()
    out, err = (folder.with_name(f"{folder.name}.{name}") for name in ("stdout", "stderr"))
    given = {**ENVIRONMENT, "HOME": str(folder), **environment}
    variables = {name: value for name, value in given.items() if value is not None}
    process = FORKS.Process(target=_run_forked, args=(folder, out, err, arguments, variables))
    process.start()
    process.join(timeout=1200)
    assert process.exitcode is not None, f"snakemake {shlex.join(arguments)} runs for 20 minutes"
    texts = [path.read_text(encoding="utf-8") for path in (out, err)]
    return subprocess.CompletedProcess(["snakemake", *arguments], process.exitcode, *texts)


FORKS = multiprocessing.get_context("forkserver")


@functools.cache
def start_forks() -> None:
    """Start the process whose forks run Snakemake; preloaded.py is what it imports."""
    FORKS.set_forkserver_preload(["preloaded"])
    with mock.patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parent)):
        forkserver.ensure_running()


def _run_forked(folder: Path, out: Path, err: Path, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    assert "preloaded" in sys.modules
    assert not {"slimdiff", "torch"} & sys.modules.keys(), "the fork would use them instead of the clone's own"
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path]
    for descriptor, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
        os.close(opened)
    from snakemake.cli import main

    sys.argv = ["snakemake", *arguments]
    main(list(arguments))


def planned(folder: Path, *arguments: str, **environment: str) -> Jobs:
    """Return the jobs that a dry run lists, without `all`."""
    done = snakemake(folder, "--dry-run", "--cores", "2", *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return jobs_in(done.stdout + done.stderr)


def jobs_in(text: str) -> Jobs:
    """Return the jobs in Snakemake's output."""
    jobs: Jobs = {}
    for name, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", text, flags=re.MULTILINE):
        wildcards = re.search(r"^    wildcards: (.*)$", block, flags=re.MULTILINE)
        values = re.findall(r"=([^,]+)", wildcards[1]) if wildcards else []
        jobs.setdefault(name, set()).add("/".join(values))
    jobs.pop("all", None)
    return jobs
