"""What the rules share: the package, the checked configuration, and functions that look things up in it."""

import hashlib
import json
import os
import re
import shlex
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
shell.prefix(f"set -euo pipefail; export PYTHONPATH={shlex.quote(str(SOURCE))}; ")

from slimdiff import config as settings
from slimdiff.analysis.claimfile import read as read_claims
from slimdiff.errors import UserError
from slimdiff.fingerprint import fingerprint
from slimdiff.settings import canonical
from slimdiff.validation import check


def read_texts(value):
    """A value given with --config: what is nested there arrives as text."""
    if isinstance(value, dict):
        return {key: read_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [read_texts(item) for item in value]
    return yaml.safe_load(value) if isinstance(value, str) else value


def check_config():
    """End with one line about the first mistake in the configuration."""
    given = read_texts(workflow.config_settings.config)
    update_config(config, given)
    names = ["config.yaml", *(os.path.relpath(path) for path in workflow.config_settings.configfiles)]
    files = {name: yaml.safe_load(Path(name).read_text(encoding="utf-8")) for name in names if Path(name).exists()}
    schema = Path(workflow.basedir, "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8")
    try:
        check(config, yaml.safe_load(schema), {**files, "--config": given})
        read_claims(config["claims"])
    except UserError as error:
        sys.exit(f"error: {error}")  # not WorkflowError, which adds four lines on where it was raised


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
    files = sorted(Path(path).rglob("*")) if path else []
    listing = [[str(file.relative_to(path)), file.stat().st_size] for file in files]
    return hashlib.sha256(canonical(listing).encode()).hexdigest()


def get_training(wildcards, path):
    """Input: `path` of the training that a cell starts from."""
    names = dict(wildcards.items())
    return path.format(training=settings.training_of(config, names.pop("optimization")), **names)


def get_extractors(wildcards):
    """Input: the extractors that come with slimdiff or that the user names, else those that a job trains."""
    shipped = config["datasets"][wildcards.dataset].get("extractors")
    return shipped or rules.extractors.output.extractors.format(dataset=wildcards.dataset)


def get_all_cores(wildcards):
    """Threads: every core that a run on this machine was given; on a cluster one, or what set-threads says."""
    return workflow.cores if workflow.local_exec and workflow.is_main_process else 1


def get_cell_files(pattern):
    """The paths that `pattern` stands for in all cells of the matrix."""
    return [pattern.format(**asdict(cell)) for cell in settings.expand(config["matrix"])]


def get_final_output():
    """What `snakemake` makes when it is told nothing else: results, and the models and pictures that people go on with."""
    cells = [rules.compress.output.model, rules.sample.output.grid]
    shared = [*rules.aggregate.output, *rules.claims.output, *rules.report.output]
    return [*shared, *(path for cell in cells for path in get_cell_files(cell))]


def write_html(path):
    """Let a second Snakemake write its report: it reads finished results, so no job of this run could."""
    if not all(Path(output).exists() for output in get_final_output()):
        return  # only a part was asked for
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        arguments = ["--report", path, "--nolock", "--replace-workflow-config", "--configfile", file.name]
        if subprocess.run([sys.executable, "-m", "snakemake", "--quiet", "all", *arguments]).returncode == 0:
            logger.info(f"Report: {path}")


def any_of(names):
    """Wildcard constraint: one of these names."""
    return "|".join(map(re.escape, names))


check_config()

ENVIRONMENT = f"../../envs/{config['environment']}.yaml"
TRAINING = "{dataset}/{model}/{training}/seed{seed}"
CELL = "{dataset}/{model}/{optimization}/seed{seed}"


wildcard_constraints:
    dataset=any_of(config["datasets"]),
    model=any_of(config["models"]),
    training=any_of(config["trainings"]),
    optimization=any_of(config["optimizations"]),
    seed=r"\d+",
    kind=any_of(config["inception"]),
