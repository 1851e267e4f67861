"""What all rules share: the validated config, and functions for params and wildcards."""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import yaml
from snakemake.utils import update_config

from slimdiff.analysis.claims.file import read as read_claims
from slimdiff.config import lookup, resolve
from slimdiff.config.axes import expand_axes
from slimdiff.config.cells import expand, run_path
from slimdiff.config.space import space_problem
from slimdiff.config.pretrained import fill_pretrained
from slimdiff.config.validate import validate
from slimdiff.errors import UserError
from slimdiff.io import strict_yaml
from slimdiff.io.folders import listing
from slimdiff.io.hub import local_folder
from slimdiff.io.settings import canonical
from slimdiff.io.text import one_line
from slimdiff.runtime import fork_server, run_lock
from slimdiff.runtime.fingerprint import fingerprint, kept_fingerprints
from slimdiff.runtime.gpus import has_gpu
from slimdiff.runtime.job import FORK_SERVER
from slimdiff.runtime.retries import keep_for_passing_failures


def read_texts(value):
    """Return a value of --config with its nested values, which arrive as text, parsed as YAML."""
    if isinstance(value, dict):
        return {key: read_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [read_texts(item) for item in value]
    return strict_yaml.parse(value, "--config") if isinstance(value, str) else value


def check_config():
    """Merge --config into the config and expand its recipes; return what is known of its data, or exit with one line.

    Only the main process looks at the data: on a node, or in one of thousands of jobs, they are as they were.
    """
    names = ["config.yaml", *(os.path.relpath(path) for path in workflow.config_settings.configfiles)]
    schema = Path("workflow/schemas/config.schema.yaml").read_text(encoding="utf-8")
    try:
        given = read_texts(workflow.config_settings.config)
        files = {name: strict_yaml.read_config(name) for name in names}
        update_config(config, given)
        config.update(fill_pretrained(config))
        facts = validate(config, yaml.safe_load(schema), {**files, "--config": given}, workflow.is_main_process)
        config.update(expand_axes(config))
        read_claims(config["claims"])
        return facts
    except UserError as error:
        sys.exit(f"error: {one_line(error)}")  # WorkflowError would add four lines about its origin


def get_settings(select):
    """Param function: the settings that `select` returns for the config and a job's wildcards."""
    return lambda wildcards: canonical(select(config, **dict(wildcards.items())))


@functools.cache
def read_codes():
    """Return the fingerprint of each stage, by its entry point; kept between runs."""
    stages = sorted(path.stem for path in (CLONE / PACKAGE / "slimdiff/stages").glob("[!_]*.py"))
    return kept_fingerprints(Path(".snakemake/slimdiff.code"), [f"slimdiff.stages.{stage}:main" for stage in stages])


def get_code(stage):
    """Param: fingerprint of all code that a stage reaches."""
    entry = f"slimdiff.stages.{stage}:main"
    try:
        return read_codes().get(entry) or fingerprint(entry)  # which says that a module is missing
    except UserError as error:
        sys.exit(f"error: {error}")


def get_folder_listing(wildcards):
    """Param: digest of the file names and sizes in a data set's folder, so that a changed folder is read again."""
    path = config["datasets"][wildcards.dataset].get("path")
    return hashlib.sha256(canonical(listing(path) if path else []).encode()).hexdigest()


def any_of(names):
    """Wildcard constraint: one of `names`; of none, what matches nothing, since Snakemake ignores an empty one."""
    return "|".join(map(re.escape, names)) or "(?!)"


def start_fork_server():
    """Let the jobs of this run start as forks: on Linux, with the Python that runs Snakemake, and without a GPU.

    An empty variable forbids it; another value is of another run.
    """
    if os.environ.get(FORK_SERVER) == "":
        return
    os.environ.pop(FORK_SERVER, None)
    executor = workflow.executor_plugin.common_settings
    here = workflow.is_main_process and executor.local_exec and not executor.touch_exec
    gpus = workflow.global_resources.get("gpu")
    without_gpu = (gpus is not None and gpus.value == 0) or not has_gpu()
    if sys.platform == "linux" and here and without_gpu and not workflow.deployment_settings.deployment_method:
        families = {config["models"][entry["model"]]["family"] for entry in config["matrix"]}
        modules = ["diffusers.models.unets.unet_2d"] if "unet2d" in families else []
        os.environ[FORK_SERVER] = fork_server.start(modules, JOB_VARIABLES)


DATASET_FACTS = check_config()

# Held while this run lives, so that the lock of a killed run is recognized as stale.
RUN = run_lock.enter(Path(".snakemake")) if workflow.is_main_process else None
# Snakemake takes braces for wildcards, also in the part of the path that it would put before a relative one.
ENVIRONMENT = str(CLONE / "envs" / f"{config['environment']}.yaml").replace("{", "{{").replace("}", "}}")
PRETRAINED = [name for name in config["models"] if lookup.is_pretrained(config, name)]  # models
HUB = Path(config["data_dir"], "hub")
HUB_WEIGHTS = lookup.hub_weights(config)  # file in it → name
TRAINING = run_path("{dataset}", "{model}", "{training}", "{seed}")
CELL = run_path("{dataset}", "{model}", "{optimization}", "{seed}")
ENGINE_CACHE = "results/state/engines"  # not an output, since compilers share it between jobs
# Retries for training jobs. On a cluster the outer Snakemake retries, so the one on the node must not.
RETRIES = 2 if workflow.is_main_process else 0


wildcard_constraints:
    dataset=any_of(config["datasets"]),
    model=any_of(config["models"]),
    training=any_of(config["trainings"]),
    optimization=any_of(config["optimizations"]),
    seed=r"\d+",
    kind=any_of(config["inception"]),


onstart:
    check_cluster_path()
    run_lock.sign(RUN)
    start_fork_server()
    keep_for_passing_failures(workflow.scheduler, time.time())
    # To keep to its default of 100 job starts a second, Snakemake 9 goes through all ready jobs again every second, and
    # once more for every finished job: half a core after 300 jobs. Local jobs need no such limit; a user's own is kept.
    limiter = workflow.scheduler.job_rate_limiter
    if workflow.local_exec and limiter is not None and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None
