"""Plugins in a run: which jobs an edit reruns, and the whole example for real."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clones import REPOSITORY, clone, finish, planned, snakemake, stage_forks, with_stage_forks, with_stand_ins

EXAMPLE = ("--configfile", "examples/config.yaml")
FILE = "examples/my_recipes.py"
CELL_RULES = ("compress", "sample", "score", "profile", "row")
LOOKED_AT = "shapes/residual/low-rank-25+mantissa-4"
# The example's own run takes a minute and a half; this is the smallest run that uses every part of its plugin.
TINY = (
    "--config",
    "datasets={shapes: {options: {train_images: 256, test_images: 64}}}",
    "models={residual: {training: {epochs: 2}, sampler: {steps: 3}}}",
    "extractor_training={seeds: [0], batch_size: 32}",
    "classifier_training={batch_size: 32}",
    "sampling={n_samples: 64}",
    "profile={repeats: 1, warmup: 0}",
)


def clone_with_example(target: Path) -> Path:
    folder = clone(target)
    shutil.copytree(REPOSITORY / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def finished_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a finished run of the example, with stub stages."""
    return finish(with_stand_ins(clone_with_example(tmp_path_factory.mktemp("example") / "slimdiff")), *EXAMPLE)


def cells(*optimizations: str) -> set[str]:
    return {f"shapes/residual/{optimization}/0" for optimization in optimizations}


EVERY = cells("baseline", "mantissa-4", "low-rank-25", "low-rank-25+mantissa-4")
GATHERED = {"aggregate": {""}, "claims": {""}, "report": {""}, "page": {""}}


@pytest.mark.parametrize(
    ("old", "new", "jobs"),
    [
        ("half = (1 <<", "half = 0 * (1 <<", dict.fromkeys(CELL_RULES, cells("mantissa-4", "low-rank-25+mantissa-4"))),
        ("values[:rank].sqrt()\n", "values[:rank].sqrt() * 1\n", "low-rank"),
        (
            "return x + self.second",
            "return x - self.second",
            {"train": {"shapes/residual/plain/0"}, **dict.fromkeys(CELL_RULES, EVERY)},
        ),
        ("SIZE = 12", "SIZE = 16", "data"),
        ("# --- a family of networks", "# --- families of networks", None),
    ],
)
def test_an_edit_reruns_what_uses_it(
    finished_example: Path, tmp_path: Path, old: str, new: str, jobs: dict[str, set[str]] | str | None
) -> None:
    tree = Path(shutil.copytree(finished_example, tmp_path / "slimdiff"))
    text = (tree / FILE).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (tree / FILE).write_text(text.replace(old, new), encoding="utf-8")
    found = planned(tree, *EXAMPLE)
    if jobs is None:
        assert found == {}
    elif jobs == "low-rank":
        assert found == {**dict.fromkeys(CELL_RULES, cells("low-rank-25", "low-rank-25+mantissa-4")), **GATHERED}
    elif jobs == "data":  # later stages depend on its outputs
        assert found["data"] == {"shapes"}
    else:
        assert found == {**jobs, **GATHERED}


def test_a_dry_run_does_not_run_the_plugin(finished_example: Path, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(finished_example, tmp_path / "slimdiff"))
    text = (tree / FILE).read_text(encoding="utf-8")
    (tree / FILE).write_text(f"{text}\nUNUSED = 1\n", encoding="utf-8")
    (tmp_path / "torch.py").write_text("raise ImportError('the dry run imports torch')\n", encoding="utf-8")
    assert planned(tree, *EXAMPLE, PYTHONPATH=str(tmp_path)) == {}


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    """A cell with a plugin's images, network and both steps, from data to row; loading its file needs the plugin."""
    tree = with_stage_forks(clone_with_example(tmp_path / "slimdiff"))
    folder = tree / "results" / "cells" / LOOKED_AT / "seed0"
    target = str((folder / "row.json").relative_to(tree))
    done = snakemake(tree, target, "--cores", "2", *EXAMPLE, *TINY, STAGE_FORKS=stage_forks("preloaded"))
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads((folder / "row.json").read_text(encoding="utf-8"))
    assert row["status"] == "ok", row["reason"]
    assert row["fid_indomain"] > 0 and row["class_accuracy"] is not None

    code = (
        "import slimdiff, sys; m = slimdiff.load(sys.argv[1], plugins=sys.argv[2:]); n = m.network;"
        "print(*(f\"{e['kind']} {e['name']}\" for e in m.settings['plugins']), sep=', ');"
        "print([p.view(dtype=__import__('torch').int32).bitwise_and(2**19 - 1).any().item() for p in n.parameters()]);"
        "print(m.sample(6, steps=2).images.shape, type(n.embed).__name__)"
    )
    loaded = python(tree, "-c", code, target.replace("row.json", "model.safetensors"), FILE)
    kinds, low_bits, shape = loaded.splitlines()
    assert kinds == "family residual, step low-rank, step round-mantissa"
    assert "True" not in low_bits, "four bits of mantissa are left in every parameter"
    assert shape == f"{torch.Size([6, 1, 12, 12])} Sequential"

    sample = ("-m", "slimdiff.cli", "sample", f"{LOOKED_AT}/seed0", "--n", "6", "--device", "cpu", "--out", "a.png")
    refused = python(tree, *sample, fails=True)
    assert "error: " in refused and "with --plugin" in refused
    assert "6 images on cpu" in python(tree, *sample, "--plugin", FILE)
    assert (tree / "a.png").read_bytes().startswith(b"\x89PNG")


def python(tree: Path, *arguments: str, fails: bool = False) -> str:
    """Return the output of a Python started in `tree`."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "workflow" / "src"), "STAGE_FORKS": stage_forks("preloaded")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout
