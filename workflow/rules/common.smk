"""What the rules share: the package, the checked configuration, and functions that look things up in it."""

import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import yaml
from snakemake.utils import update_config

# The package comes from this clone, installed or not, here and on a cluster's nodes. The shell sets the variable, since
# an activated conda environment drops an inherited one. `python` is the one that runs Snakemake, or conda's.
SOURCE = Path(workflow.basedir, "workflow", "src")
sys.path.insert(0, str(SOURCE))
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", os.defpath)]))
# A job ends with the Snakemake that started it, also where that one is killed.
DIE_WITH_PARENT = f"exec python -I -S {shlex.quote(str(SOURCE / 'slimdiff' / 'runtime' / 'die_with_parent.py'))} $PPID .snakemake/slimdiff.jobs"
shell.prefix(f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(SOURCE))}; {DIE_WITH_PARENT} ")

from slimdiff.analysis.claims.file import read as read_claims
from slimdiff.config import resolve
from slimdiff.config.validate import check
from slimdiff.errors import UserError
from slimdiff.io import strict_yaml
from slimdiff.io.folders import listing
from slimdiff.io.settings import canonical
from slimdiff.io.text import one_line
from slimdiff.runtime import run_lock
from slimdiff.runtime.fingerprint import fingerprint


def read_texts(value):
    """A value given with --config: what is nested there arrives as text."""
    if isinstance(value, dict):
        return {key: read_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [read_texts(item) for item in value]
    return strict_yaml.parse(value, "--config") if isinstance(value, str) else value


def check_config():
    """End with one line about the first mistake in the configuration."""
    names = ["config.yaml", *(os.path.relpath(path) for path in workflow.config_settings.configfiles)]
    schema = Path(workflow.basedir, "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8")
    try:
        given = read_texts(workflow.config_settings.config)
        files = {name: strict_yaml.read_config(name) for name in names if Path(name).exists()}
        update_config(config, given)
        check(config, yaml.safe_load(schema), {**files, "--config": given})
        read_claims(config["claims"])
    except UserError as error:
        sys.exit(f"error: {one_line(error)}")  # not WorkflowError, which adds four lines on where it was raised


def get_settings(pick):
    """Param function: the settings that `pick` takes out of the configuration for a job's wildcards."""
    return lambda wildcards: canonical(pick(config, **dict(wildcards.items())))


def get_code(stage):
    """Param: fingerprint of all the code that a stage runs."""
    try:
        return fingerprint(f"slimdiff.stages.{stage}")
    except UserError as error:
        sys.exit(f"error: {error}")


def get_folder_listing(wildcards):
    """Param: digest of the names and sizes in a data set's folder, so that a changed folder is read again."""
    path = config["datasets"][wildcards.dataset].get("path")
    return hashlib.sha256(canonical(listing(path) if path else []).encode()).hexdigest()


def any_of(names):
    """Wildcard constraint: one of these names."""
    return "|".join(map(re.escape, names))


check_config()

# For as long as this run lives; what a run that was killed had locked is free again.
RUN = run_lock.enter(Path(".snakemake")) if workflow.is_main_process else None
ENVIRONMENT = f"../../envs/{config['environment']}.yaml"
TRAINING = "{dataset}/{model}/{training}/seed{seed}"
CELL = "{dataset}/{model}/{optimization}/seed{seed}"
ENGINE_CACHE = "results/state/engines"  # no output: what compilers keep for each other's jobs
# Of trainings. On a cluster's node a Snakemake would try again by itself, and so would the one that it starts.
RETRIES = 2 if workflow.is_main_process else 0


wildcard_constraints:
    dataset=any_of(config["datasets"]),
    model=any_of(config["models"]),
    training=any_of(config["trainings"]),
    optimization=any_of(config["optimizations"]),
    seed=r"\d+",
    kind=any_of(config["inception"]),


onstart:
    run_lock.sign(RUN)
    # Snakemake 9 looks through all ready jobs again a second after each time that it did, and once more for each job
    # that ended: half a core after 300 jobs. It does so to keep to its default of 100 starts a second, which means
    # nothing where jobs run beside it. A limit of one's own stays.
    limiter = workflow.scheduler.job_rate_limiter
    if workflow.local_exec and limiter is not None and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
