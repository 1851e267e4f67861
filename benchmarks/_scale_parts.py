"""Synthetic results of many cells, and the parts of the workflow that read all of them: one part per process.

Without torch, like the stages they replace. Rows follow from formulas (tests/helpers/synthetic.py) with the settings of
real rows; samples exist for the cells that the page and figures show, and benchmark records for every job.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from slimdiff.analysis import findings
from slimdiff.analysis.claims import file, verdicts
from slimdiff.analysis.matrix import provenance, read_matrix, read_paper, read_rows, row_path, to_frame, write_matrix
from slimdiff.config import resolve
from slimdiff.config.cells import expand, run_path
from slimdiff.io import records, settings
from slimdiff.io.files import read_json, write_json, write_text
from slimdiff.io.samples import Samples, write_samples
from slimdiff.report import selection
from slimdiff.report.figures import samples, timeline
from slimdiff.report.figures.write import write_figures
from slimdiff.report.page import build
from slimdiff.report.tables.write import write_tables

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
import synthetic  # noqa: E402  # the synthetic rows of the tests

SEEDS, MODELS = 10, ("ncsn", "ddpm")
LARGEST_SET = 2500  # cells of one data set and model, so that 10,000 cells have several data sets
PAPER = ROOT / "workflow" / "resources" / "paper_reference.csv"
LINKED = ("Snakefile", "config.yaml", "workflow", "profiles", "envs")
STAGES = ("compress", "sample", "score", "profile")


def overlay(cells: int) -> dict[str, Any]:
    """Return a config of this number of cells: a baseline and recipes of increasing sparsity, for ten seeds each."""
    datasets = ["mnist", "fashion_mnist", "digits"][: max(1, math.ceil(cells / len(MODELS) / LARGEST_SET))]
    recipes = cells // (SEEDS * len(MODELS) * len(datasets))
    shares = {f"l1-{index:04}": round(0.9 * index / recipes, 6) for index in range(1, recipes)}
    optimizations = {
        name: {"training": "plain", "prune": {"method": "l1", "amount": share, "scope": "global"}}
        for name, share in shares.items()
    }
    entry = {"optimizations": ["baseline", *optimizations], "seeds": list(range(SEEDS))}
    matrix = [{"dataset": dataset, "model": model, **entry} for dataset in datasets for model in MODELS]
    return {"optimizations": optimizations, "matrix": matrix}


def make(folder: Path, cells: int) -> None:
    """Write results of this number of cells into `folder`, with links to the clone's files."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    config: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    own = overlay(cells)
    write_text(folder / "overlay.yaml", yaml.safe_dump(own, sort_keys=False))
    config = config | {"optimizations": config["optimizations"] | own["optimizations"], "matrix": own["matrix"]}
    found = expand(config["matrix"])
    curve = [{"step": 10 * step, "loss": 1 / step} for step in range(1, 34)]
    for cell in found:
        place = (cell.dataset, cell.model, cell.optimization, cell.seed)
        facts = resolve.row_settings(config, *place)
        row = synthetic.row(cell.optimization, cell.seed, dataset=cell.dataset, model=cell.model)
        row |= {"training": "plain", "settings": settings.canonical(facts["settings"]), "engine_precision": "fp32"}
        row |= {
            "speedup": 1.01,
            "speedup_low": 0.98,
            "speedup_high": 1.05,
            "fid_indomain_sampling_sd": 0.4,
            "threads": 1,
        }
        write_plain(row_path(folder / "results/cells", cell), json.dumps(row))
        (folder / "results/cells" / cell.path / "samples.npz").touch()
        name = f"{cell.path}.jsonl"
        for stage in STAGES:
            spent = {"s": 40.5, "cpu_time": 15.0, "max_rss": 601.0}
            write_plain(folder / "results/benchmarks" / stage / name, json.dumps(spent))
        history = {"started_at": "2026-01-01T00:00:00+00:00", "loss_curve": curve}
        training = run_path(cell.dataset, cell.model, "plain", cell.seed)
        write_plain(folder / "results/train" / training / "train.json", json.dumps(history))
    y, x = np.mgrid[:28, :28]
    images = np.stack(
        [127.5 + 127.5 * np.sin(x / (2 + index % 7)) * np.cos(y / (3 + index % 5)) for index in range(100)]
    )
    shown = dict.fromkeys([*selection.pictured(found), *selection.sample_cells(config)])
    for cell in shown:
        labels = np.arange(100) % 10 if cell.model == "ddpm" else np.zeros(0, np.int64)
        path = folder / "results/cells" / cell.path / "samples.npz"
        write_samples(path, Samples(images[:, None].astype(np.uint8), labels, tuple("0123456789"), {}, 1.0))
    write_json(folder / "merged.json", config)


def write_plain(path: Path, text: str) -> None:
    """Write like slimdiff.io.files, but without fsync: there are a hundred thousand files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def aggregate(folder: Path) -> None:
    config = read_json(folder / "merged.json")
    requested = resolve.matrix_settings(config)
    rows = read_rows(folder / "results/cells", expand(requested["matrix"]), requested["trainings"])
    source = provenance(resolve.provenance(config), "made up")
    write_matrix(folder / "results/matrix.parquet", to_frame(rows), source)


def claims(folder: Path) -> None:
    matrix = read_matrix(folder / "results/matrix.parquet")
    stated = file.read([ROOT / "workflow/resources/claims.yaml"])
    record = verdicts.to_json(
        matrix, verdicts.evaluate_claims(matrix, read_paper(PAPER), stated, synthetic.MARGINS), synthetic.MARGINS
    )
    write_json(folder / "results/claims.json", record)
    records.write_json(folder / "results/findings.json", findings.to_json(findings.find(matrix, synthetic.MARGINS)))


def read_findings(folder: Path) -> findings.Findings:
    return findings.read(folder / "results/findings.json")


def tables_(folder: Path) -> None:
    matrix = read_matrix(folder / "results/matrix.parquet")
    record = read_json(folder / "results/claims.json")
    write_tables(matrix, read_findings(folder), read_paper(PAPER), record, folder / "results/tables")


def figures(folder: Path) -> None:
    matrix, out = read_matrix(folder / "results/matrix.parquet"), folder / "results/figures"
    write_figures(matrix, read_findings(folder), read_paper(PAPER), out)
    samples.write_all(matrix, folder / "results/cells", out)
    timeline.write(timeline.read_jobs(folder / "results/benchmarks", folder / "results/train", matrix.frame), out)


def page_(folder: Path) -> None:
    matrix = read_matrix(folder / "results/matrix.parquet")
    record = read_json(folder / "results/claims.json")
    folders = (folder / "results" / name for name in ("tables", "cells", "train", "benchmarks"))
    page = build.build(matrix, read_findings(folder), read_paper(PAPER), record, *folders)
    write_text(folder / "results/report.html", page)


PARTS: dict[str, Callable[[Path], None]] = {
    "nothing": lambda folder: None,
    "aggregate": aggregate,
    "claims": claims,
    "tables": tables_,
    "figures": figures,
    "page": page_,
}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("part", choices=["make", *PARTS])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--cells", type=int, help="of make: a multiple of 20 for each data set")
    given = arguments.parse_args()
    if given.part == "make":
        make(given.folder, given.cells)
    else:
        PARTS[given.part](given.folder)
