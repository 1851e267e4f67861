"""Clones to run Snakemake in, and what its dry runs say."""

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
    """A copy of what a run needs, as a fresh clone has it."""
    target.mkdir(parents=True)
    for name in CLONED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)
    return target


def with_stand_ins(folder: Path) -> Path:
    """The clone, its stages stood in for by ones that take no time."""
    shutil.copy(STAND_IN, folder / "workflow" / "src" / "sitecustomize.py")
    return folder


def finish(folder: Path, *arguments: str) -> Path:
    """The clone after a run that ended well."""
    done = snakemake(folder, "--cores", "2", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Snakemake in `folder` as a user whose shell knows nothing of this test's environment."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=1200,
    )


def planned(folder: Path, *arguments: str, **environment: str) -> Jobs:
    """The jobs that a dry run lists, without `all`."""
    done = snakemake(folder, "--dry-run", "--cores", "2", *arguments, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return jobs_in(done.stdout + done.stderr)


def jobs_in(text: str) -> Jobs:
    """The jobs that Snakemake's output announces."""
    jobs: Jobs = {}
    for name, block in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", text, flags=re.MULTILINE):
        wildcards = re.search(r"^    wildcards: (.*)$", block, flags=re.MULTILINE)
        values = re.findall(r"=([^,]+)", wildcards[1]) if wildcards else []
        jobs.setdefault(name, set()).add("/".join(values))
    jobs.pop("all", None)
    return jobs
