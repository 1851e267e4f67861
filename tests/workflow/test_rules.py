"""The rules: their form, their speed, mistakes in the config, and the documented ways to run them."""

import json
import os
import sys
from pathlib import Path

import pytest
from clones import REPOSITORY, SMOKE, clone, planned, snakemake
from ownmodels import write_inputs
from presets import CONFIG, SCHEMA, preset

from slimdiff.config.axes import expand_axes


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unedited clone in which nothing has run."""
    return clone(tmp_path_factory.mktemp("fresh") / "slimdiff")


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing torch is an error."""
    (tmp_path / "torch.py").write_text("raise ImportError('a rule imports torch')\n")
    return {"PYTHONPATH": str(tmp_path)}


def test_lint(fresh: Path) -> None:
    done = snakemake(fresh, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_format() -> None:
    snakefmt = Path(sys.executable).with_name("snakefmt")
    if not snakefmt.exists():
        pytest.skip("snakefmt comes with the extra `dev`")
    files = [str(path) for path in (REPOSITORY / "Snakefile", *(REPOSITORY / "workflow" / "rules").glob("*.smk"))]
    assert os.spawnv(os.P_WAIT, snakefmt, ["snakefmt", "--check", *files]) == 0


def test_every_rule_logs_and_has_an_environment(fresh: Path) -> None:
    for path in (fresh / "workflow" / "rules").glob("*.smk"):
        text = path.read_text(encoding="utf-8")
        rules = text.count("\nrule ")
        assert text.count("    log:\n") == text.count("    conda:\n") == text.count(">{log:q} 2>&1") == rules, path.name


def test_conda_environments_exist(fresh: Path) -> None:
    for name in SCHEMA["properties"]["environment"]["enum"]:
        assert (fresh / "envs" / f"{name}.yaml").is_file()


@pytest.mark.parametrize("name", [None, *sorted(path.name for path in (REPOSITORY / "config").glob("*.yaml"))])
def test_a_dry_run_lists_the_matrix(fresh: Path, name: str | None, without_torch: dict[str, str]) -> None:
    """Of the first seed, since dry runs take as long as they have cells."""
    overlay = ("--configfile", f"config/{name}") if name else ()
    config = preset(name) if name else CONFIG
    write_inputs(config, fresh)
    matrix = [{**entry, "seeds": entry["seeds"][:1]} for entry in config["matrix"]]
    cells = {
        f"{entry['dataset']}/{entry['model']}/{optimization}/{seed}"
        for entry in expand_axes({**config, "matrix": matrix})["matrix"]
        for optimization in entry["optimizations"]
        for seed in entry["seeds"]
    }
    jobs = planned(fresh, *overlay, "--config", f"matrix={json.dumps(matrix)}", **without_torch)
    for rule in ("compress", "sample", "score", "profile", "row"):
        assert jobs[rule] == cells
    assert jobs["aggregate"] == jobs["claims"] == jobs["report"] == jobs["page"] == {""}


def test_one_core_and_a_gpu(stood_in: Path) -> None:
    done = snakemake(stood_in, "--cores", "1", "--resources", "gpu=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (stood_in / "results" / "matrix.parquet").is_file()
    assert (stood_in / "results" / "report.html").is_file()
    log = (stood_in / "results/logs/train/mnist/ncsn/plain/seed0.log").read_text()
    assert "--gpu 1 --threads 1" in log
    assert "OMP_NUM_THREADS 1" in log


def test_waiting_jobs_are_examined_once_per_finished_job(stood_in: Path) -> None:
    """With its default limit of job starts, Snakemake would go through all ready jobs every second."""
    entry = {"dataset": "digits", "model": "ncsn", "optimizations": ["baseline"], "seeds": list(range(24))}
    (stood_in / "many.yaml").write_text(json.dumps({"matrix": [entry]}))
    requested = ("--cores", "1", "--verbose", "--configfile", "many.yaml", "--until", "train")
    done = snakemake(stood_in, *requested)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("Finished jobid") == 25  # including the data set's
    assert said.count("Resources before job selection") <= 25


@pytest.fixture
def two_cells(stood_in: Path) -> Path:
    """A fresh clone with stub stages, and an overlay of two cells."""
    entry = {"dataset": "digits", "model": "ncsn", "optimizations": ["baseline", "l1-30"], "seeds": [0]}
    (stood_in / "two.yaml").write_text(json.dumps({"matrix": [entry]}))
    return stood_in


TWO = (*SMOKE, "two.yaml")


def test_without_a_gpu(two_cells: Path) -> None:
    """With gpu=0, jobs run on the CPU."""
    stood_in, arguments = two_cells, ("--cores", "3", "--resources", "gpu=0", *TWO)
    done = snakemake(stood_in, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--gpu 0 --threads 1" in (stood_in / "results/logs/train/digits/ncsn/plain/seed0.log").read_text()
    profile = (stood_in / "results/logs/profile/digits/ncsn/baseline/seed0.log").read_text()
    assert "--gpu 0 --threads 3" in profile, "a profile has the machine to itself"
    done = snakemake(stood_in, *arguments, "--config", "profile={repeats: 0}")
    assert done.returncode == 0, done.stdout + done.stderr
    profile = (stood_in / "results/logs/profile/digits/ncsn/baseline/seed0.log").read_text()
    assert "--gpu 0 --threads 1" in profile, "one that times nothing has not"


def test_a_crash_stops_no_other_job(two_cells: Path) -> None:
    stood_in = two_cells
    done = snakemake(stood_in, "--cores", "2", *TWO, STAND_IN_FAILS="slimdiff.stages.profile")
    assert done.returncode != 0
    assert "error: STAND_IN_FAILS" in done.stdout + done.stderr, "the log of the failed job is shown"
    cells = stood_in / "results" / "cells" / "digits" / "ncsn"
    assert {path.parts[-3] for path in cells.glob("*/seed0/score.json")} == {"baseline", "l1-30"}
    assert not (stood_in / "results" / "report.html").exists()
    assert "profile" in planned(stood_in, *TWO)


@pytest.mark.parametrize("network", ["extractors", "classifier"])
def test_the_shipped_networks_can_be_remade(fresh: Path, network: str) -> None:
    target = f"results/data/mnist/{network}.safetensors"
    assert planned(fresh, target) == {"data": {"mnist"}, network: {"mnist"}}


def test_inception_runs_only_on_request(fresh: Path) -> None:
    assert not {"inception", "inception_weights"} & planned(fresh).keys()
    requested = planned(fresh, "--config", "inception={paper: download}", "sampling={n_samples: 2048}")
    assert requested["inception"] == {"mnist/paper"}
    assert requested["inception_weights"] == {"paper"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "samplng=3"], "--config: samplng is an unknown key"),
        (
            ["--config", "sampling={n_samples: 32}"],
            "--config: sampling.n_samples is 32; allowed: a whole number at least 64",
        ),
        (["--config", "trainings={plain: {learning_rate: fast}}"], "--config: trainings.plain.learning_rate is 'fast'"),
        (["--config", "claims=[mine.yaml]"], "--config: claims[0] is 'mine.yaml', which does not exist"),
        (
            ["--config", "claims=[bad-claims.yaml]"],
            "bad-claims.yaml: claim 'mine': comparison 'fd(ncsn/ema) < 3' has the unknown column 'fd'; allowed: ",
        ),
        (["--configfile", "bad.yaml"], "bad.yaml: matrix[0].optimizations[1] is 'l1-31'; allowed: baseline, "),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(tree: Path, arguments: list[str], expected: str) -> None:
    entry = {"dataset": "digits", "model": "ncsn", "optimizations": ["ema", "l1-31"], "seeds": [0]}
    (tree / "bad.yaml").write_text(json.dumps({"matrix": [entry]}))
    claim = {"id": "mine", "claim": "It holds.", "source": "me", "comparisons": ["fd(ncsn/ema) < 3"]}
    (tree / "bad-claims.yaml").write_text(json.dumps([claim]))
    done = snakemake(tree, "--cores", "1", *arguments)
    assert done.returncode == 1
    errors = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {expected}")
    assert "Traceback" not in done.stderr
    assert "rule " not in done.stdout + done.stderr


def test_numbers_on_the_command_line_are_numbers(fresh: Path) -> None:
    matrix = "matrix=[{dataset: digits, model: ncsn, optimizations: [ema], seeds: [3]}]"
    assert planned(fresh, "--config", matrix, "sampling={n_samples: 100}")["row"] == {"digits/ncsn/ema/3"}


def test_a_missing_module_is_one_line(stood_in: Path) -> None:
    (stood_in / "workflow/src/slimdiff/stages/score.py").unlink()
    done = snakemake(stood_in, "--dry-run", *SMOKE)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: module slimdiff.stages.score does not exist")
