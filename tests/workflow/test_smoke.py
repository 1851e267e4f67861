"""config/smoke.yaml for real: every stage, every kind of recipe, on the CPU."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clones import SMOKE, planned, snakemake, stage_forks
from PIL import Image
from presets import read_yaml

from slimdiff.analysis.matrix import read_matrix
from slimdiff.catalog.compositions import apportion, interleave
from slimdiff.config.cells import expand
from slimdiff.data import image_set
from slimdiff.report.contents import FIGURE_NAMES, TABLE_NAMES
from slimdiff.report.tables import proxies, variance
from slimdiff.report.tables.write import cells_markdown

pytestmark = pytest.mark.slow

OVERLAY = read_yaml("config/smoke.yaml")
CELLS = expand(OVERLAY["matrix"])
N_SAMPLES = OVERLAY["sampling"]["n_samples"]
DIGITS_PIXELS = 8


@pytest.fixture(scope="module")
def run(smoke_run: Path) -> Path:
    """The clone in which the smoke run has finished; other modules read it at the same time."""
    return smoke_run


@pytest.fixture(scope="module")
def matrix(run: Path) -> pd.DataFrame:
    return read_matrix(run / "results" / "matrix.parquet").frame


def folder_of(run: Path, optimization: str, model: str = "ncsn") -> Path:
    return run / "results" / "cells" / "digits" / model / optimization / "seed0"


def test_the_matrix_has_the_requested_cells(matrix: pd.DataFrame) -> None:
    found = matrix[["dataset", "model", "optimization", "seed"]].itertuples(index=False, name=None)
    assert list(found) == [(cell.dataset, cell.model, cell.optimization, cell.seed) for cell in CELLS]
    assert set(matrix["status"]) == {"ok"}, matrix[["optimization", "reason"]]


def test_every_cell_is_measured(matrix: pd.DataFrame) -> None:
    for column in (
        "fid_indomain",
        "fid_indomain_pct",
        "fid_indomain_floor",
        "params",
        "macs",
        "size_bytes",
        "size_gzip_bytes",
        "train_s",
    ):
        assert (matrix[column] > 0).all(), column
    assert (matrix["inference_ms_per_image"] > 0).all()
    assert (matrix["n_samples"] == N_SAMPLES).all()
    assert matrix["fid_inception"].isna().all(), "columns that were not requested are null"


def test_recipes_have_their_stated_effects(matrix: pd.DataFrame) -> None:
    row = matrix[matrix["model"] == "ncsn"].set_index("optimization")
    assert row.loc["l1-30", "params_nonzero"] < 0.8 * row.loc["l1-30", "params"]
    assert row.loc["groups-2", "params"] < row.loc["baseline", "params"]
    for optimization in ("linear-8bit", "linear-4bit-frozen"):
        assert row.loc[optimization, "params"] == row.loc["baseline", "params"]
    assert row.loc["ema", "fid_indomain"] != row.loc["baseline", "fid_indomain"]
    assert row.loc["bf16", "size_bytes"] < 0.7 * row.loc["baseline", "size_bytes"]
    assert row.loc["bf16", "engine_precision"] == "bf16"
    assert 0 < row.loc["bf16", "output_error"] < 0.1
    assert row.drop("bf16")["output_error"].isna().all()
    assert set(row["sampler"]) == {"heun", "ode"}
    assert row.loc["sampler-ode", "training"] == row.loc["baseline", "training"] == "plain"


def test_a_conditional_model_samples_every_class(run: Path, matrix: pd.DataFrame) -> None:
    row = matrix[matrix["model"] == "ddpm"].set_index("optimization")
    assert row["class_accuracy"].between(0, 1).all()
    assert matrix.loc[matrix["model"] == "ncsn", "class_accuracy"].isna().all()
    guided = 2  # the second of four noise levels, which Heun evaluates twice, is between 0.3 and 3
    assert row.loc["baseline", "network_evaluations"] == 2 * 4 - 1 + guided
    assert row.loc["noise-prediction", ["sampler", "network_evaluations"]].tolist() == ["ddim", 20]
    assert row.loc["groups-2+l1-10", "params"] < row.loc["baseline", "params"] == row.loc["noise-prediction", "params"]
    assert row.loc["groups-2+l1-10", "params_nonzero"] < 0.95 * row.loc["groups-2+l1-10", "params"]
    assert row.loc["ema+linear-8bit-frozen", "size_bytes"] < row.loc["baseline", "size_bytes"]
    with np.load(folder_of(run, "baseline", "ddpm") / "samples.npz", allow_pickle=False) as archive:
        trained = image_set.read(run / "results/data/digits/images.safetensors").train_labels.bincount().tolist()
        assert archive["labels"].tolist() == interleave(apportion(N_SAMPLES, trained))
        assert archive["classes"].tolist() == list("0123456789")
    with np.load(folder_of(run, "baseline") / "samples.npz", allow_pickle=False) as archive:
        assert archive["labels"].shape == (0,)


def test_cells_share_trainings(run: Path) -> None:
    trainings = {path.name for path in (run / "results" / "train" / "digits" / "ncsn").iterdir()}
    assert trainings == {"plain", "groups-2", "linear-4bit-frozen", "channels-50"}
    others = {path.name for path in (run / "results" / "train" / "digits" / "ddpm").iterdir()}
    assert others == {"plain", "groups-2", "linear-8bit-frozen", "noise-prediction", "channels-50-diff"}
    record = json.loads((run / "results/train/digits/ncsn/channels-50/seed0/train.json").read_text())
    first = json.loads((run / "results/train/digits/ncsn/plain/seed0/train.json").read_text())
    assert record["start"]["training"] == "plain"
    assert record["train_s"] == pytest.approx(first["train_s"] + record["finetune_s"])
    assert not list((run / "results" / "state").rglob("s*.safetensors")), "a finished training keeps no state"


def test_samples_are_images(run: Path) -> None:
    with np.load(folder_of(run, "baseline") / "samples.npz", allow_pickle=False) as archive:
        assert archive["images"].shape == (N_SAMPLES, 1, DIGITS_PIXELS, DIGITS_PIXELS)
        assert archive["images"].dtype == np.uint8
    with Image.open(folder_of(run, "baseline") / "grid.png") as picture:
        assert min(picture.size) > 10 * DIGITS_PIXELS
        assert len(set(picture.tobytes())) > 10


# The preset prunes no module alone and draws nothing anew; the tables say so.
EMPTY = {"proxies": proxies.NONE, "variance": variance.NONE}


def test_tables_and_figures_are_written(run: Path) -> None:
    assert {"table-1", "table-4", "table-9", "samplers", "cells"} <= set(TABLE_NAMES)
    for name in TABLE_NAMES:
        rows = len(pd.read_csv(run / "results" / "tables" / f"{name}.csv"))
        text = (run / "results" / "tables" / f"{name}.md").read_text(encoding="utf-8")
        if name in EMPTY:
            assert (rows, EMPTY[name] in text) == (0, True), text
        else:
            assert rows > 0
            assert "|" in text
    studies = {"sensitivity", "sparsity", "guidance"}
    shown = {"figure-1", "figure-2", "figure-5", "figure-6", "versus-paper", "pareto", "timeline"}
    assert shown | studies == set(FIGURE_NAMES)
    for name in FIGURE_NAMES:
        assert "<svg" in (run / "results" / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert "<html" in (run / "results" / "figures" / f"{name}.html").read_text(encoding="utf-8").lower()
        with Image.open(run / "results" / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 100


def test_every_claim_has_a_verdict(run: Path) -> None:
    """With one seed, only claims about deterministic measures are decided."""
    record = json.loads((run / "results" / "claims.json").read_text(encoding="utf-8"))
    found = {claim["id"]: claim for claim in record["claims"]}
    assert found["ncsn-groups2"]["dataset"] == "digits"
    assert [part["verdict"] for part in found["ncsn-groups2"]["parts"]] == ["unresolved", "replicated"]
    assert found["ncsn-middle"]["verdict"] == found["cifar-generalizes"]["verdict"] == "not run"


def test_the_page_shows_every_cell(run: Path) -> None:
    html = (run / "results" / "report.html").read_text(encoding="utf-8")
    for cell in CELLS:
        assert f'"{cell.dataset}/{cell.model}/{cell.optimization}/seed{cell.seed}"' in html
    for stage in ("train", "compress", "sample", "score", "profile"):
        assert f'<th scope="row">{stage}</th>' in html, "the timeline's sums"
    assert "The dates of the records are not those of the run" not in html


@pytest.mark.parametrize("page", ["report.html", "workflow.html"])
def test_the_pages_need_no_network(run: Path, page: str) -> None:
    """They are self-contained: external scripts and styles would be a `src` or `href` of their own tags."""
    html = (run / "results" / page).read_text(encoding="utf-8")
    for name in (*FIGURE_NAMES, *TABLE_NAMES, "grid.png") if page == "workflow.html" else TABLE_NAMES:
        assert name in html
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=[\"']https?://", html)


def test_jobs_are_timed(run: Path) -> None:
    timed = json.loads((run / "results/benchmarks/train/digits/ncsn/plain/seed0.jsonl").read_text())
    assert timed["s"] > 0


def test_a_second_run_does_nothing(run: Path) -> None:
    before = (run / "results" / "report.html").stat().st_mtime_ns
    assert planned(run, *SMOKE) == {}
    done = snakemake(run, "--cores", "2", *SMOKE)
    assert "Nothing to be done" in done.stdout + done.stderr
    assert (run / "results" / "report.html").stat().st_mtime_ns == before


@pytest.mark.parametrize("forks", [False, True])
def test_the_same_seed_gives_the_same_samples_and_score(run: Path, tmp_path: Path, forks: bool) -> None:
    """Resampled and rescored by the rules, also as forks of the run's own server; training has its own test."""
    tree = Path(shutil.copytree(run, tmp_path / "slimdiff"))
    files = [folder_of(tree, "baseline") / name for name in ("model.safetensors", "samples.npz", "score.json")]
    before = [path.read_bytes() for path in files]
    targets = [str(path.relative_to(tree)) for path in files]
    how = {"SLIMDIFF_FORK_SERVER": None, "PYTHONPROFILEIMPORTTIME": "1"} if forks else {"STAGE_FORKS": stage_forks()}
    done = snakemake(tree, *targets, "--cores", "2", "--resources", "gpu=0", *SMOKE, "--forcerun", "compress", **how)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule score" in done.stdout + done.stderr
    assert [path.read_bytes() for path in files] == before
    if forks:
        log = (tree / "results/logs/sample/digits/ncsn/baseline/seed0.log").read_text(encoding="utf-8")
        assert "| slimdiff.runtime.fork_server" in log
        assert "| torch\n" not in log, "the job has imported it"


def test_a_training_that_diverges_is_a_row_with_its_reason(run: Path, tmp_path: Path) -> None:
    """So is a cell pruned from it; other cells are measured as usual, and the run succeeds."""
    tree = Path(shutil.copytree(run, tmp_path / "slimdiff"))
    (tree / "diverging.yaml").write_text(
        """
        trainings:
          diverging: {learning_rate: 1.0e+12, lr_schedule: constant, preconditioning: score}
        optimizations:
          diverging: {training: diverging}
          diverging+l1-30: {training: diverging, prune: {method: l1, amount: 0.3, scope: global}}
        matrix:
          - {dataset: digits, model: ncsn, optimizations: [baseline, diverging, diverging+l1-30], seeds: [0]}
        """,
        encoding="utf-8",
    )
    target = ("results/matrix.parquet", "--cores", "2")
    done = snakemake(tree, *target, *SMOKE, "diverging.yaml", STAGE_FORKS=stage_forks())
    assert done.returncode == 0, done.stdout + done.stderr
    frame = read_matrix(tree / "results" / "matrix.parquet").frame
    assert "loss became nan" in cells_markdown(frame)
    matrix = frame.set_index("optimization")
    assert list(matrix["status"]) == ["ok", "failed", "failed"]
    assert matrix.loc["baseline", "fid_indomain"] > 0
    for optimization in ("diverging", "diverging+l1-30"):
        assert matrix.loc[optimization, "reason"] == "train: loss became nan in epoch 1"
        assert matrix.loc[optimization, ["fid_indomain", "fid_indomain_pct"]].isna().all()
