"""Clones for running Snakemake, and the jobs of its dry runs."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
STAND_IN = Path(__file__).with_name("stand_in.py")
CLONED = ("Snakefile", "config.yaml", "config", "profiles", "workflow", "envs")
SMOKE = ("--configfile", "config/smoke.yaml")

Jobs = dict[str, set[str]]  # rule → its jobs, each as its wildcards joined by slashes


def clone(target: Path) -> Path:
    """Return a copy of the files that a run needs, as in a fresh clone."""
    target.mkdir(parents=True)
    for name in CLONED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)
    return target


def with_stand_ins(folder: Path) -> Path:
    """Return the clone with stub stages that take no time (stand_in.py)."""
    shutil.copy(STAND_IN, folder / "workflow" / "src" / "sitecustomize.py")
    return folder


def finish(folder: Path, *arguments: str) -> Path:
    """Return the clone after a successful run."""
    done = snakemake(folder, "--cores", "2", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `folder` without the environment variables of this test."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1200,
    )


def planned(folder: Path, *arguments: str, **environment: str) -> Jobs:
    """Return the jobs that a dry run lists, without `all`."""
    words = ("--dry-run", "--cores", "2", *arguments)
    if environment:
        done = snakemake(folder, *words, **environment)
        code, text = done.returncode, done.stdout + done.stderr
    else:
        code, text = forked_snakemake(folder, *words)
    assert code == 0, text
    return jobs_in(text)


# Keeps a process that has imported Snakemake but none of our code; forking it saves half of a dry run's time.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["snakemake.cli", "pandas"])


def forked_snakemake(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Run Snakemake as `snakemake` does, forked; return its exit code and its output."""
    output = folder.with_name(f"{folder.name}.output")
    process = FORKS.Process(target=_run_forked, args=(folder, output, arguments))
    process.start()
    process.join(timeout=1200)
    return process.exitcode, output.read_text(encoding="utf-8")


def _run_forked(folder: Path, output: Path, arguments: tuple[str, ...]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(PATH="/usr/bin:/bin", HOME=str(folder), PYTHONDONTWRITEBYTECODE="1")
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from snakemake.cli import main

    sys.argv = ["snakemake", *arguments]
    main(list(arguments))


def jobs_in(text: str) -> Jobs:
    """Return the jobs in Snakemake's output."""
    jobs: Jobs = {}
    for name, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", text, flags=re.MULTILINE):
        wildcards = re.search(r"^    wildcards: (.*)$", block, flags=re.MULTILINE)
        values = re.findall(r"=([^,]+)", wildcards[1]) if wildcards else []
        jobs.setdefault(name, set()).add("/".join(values))
    jobs.pop("all", None)
    return jobs
