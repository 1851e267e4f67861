"""A synthetic folder of results for the page: a matrix, findings, claims, tables, samples, records."""

import datetime
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import synthetic

from slimdiff.analysis import findings
from slimdiff.analysis.claims import file, verdicts
from slimdiff.analysis.matrix import Matrix, read_matrix, read_paper, to_frame, write_matrix
from slimdiff.config.cells import Cell
from slimdiff.io import records, samples
from slimdiff.report import selection
from slimdiff.report.tables import write as tables
from slimdiff.stages import page

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "workflow" / "resources" / "paper_reference.csv"
CLAIMS = ROOT / "workflow" / "resources" / "claims.yaml"
BEGAN = datetime.datetime(2026, 11, 23, 10, 0, tzinfo=datetime.UTC)
SECONDS = {"train": 300.0, "sample": 40.0, "score": 20.0}
IMAGES, PIXELS = 12, 10


def write(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    config: Mapping[str, Any] = synthetic.CONFIG,
    classes: tuple[str, ...] = ("zero", "one", "two"),
) -> Matrix:
    """Write the page's inputs below `folder`. Jobs run one by one, starting at BEGAN; failed cells have no images."""
    source = {"config": config, "slimdiff": "0.1.0", "written_at": BEGAN.isoformat(), "versions": {"python": "3.11"}}
    write_matrix(folder / "matrix.parquet", to_frame(list(rows)), source)
    matrix = read_matrix(folder / "matrix.parquet")
    paper = read_paper(PAPER)
    record = verdicts.to_json(
        matrix, verdicts.evaluate_claims(matrix, paper, file.read([str(CLAIMS)]), synthetic.MARGINS), synthetic.MARGINS
    )
    (folder / "claims.json").write_text(json.dumps(record), encoding="utf-8")
    statistics = findings.find(matrix, synthetic.MARGINS)
    records.write_json(folder / "findings.json", findings.to_json(statistics))
    tables.write_tables(matrix, statistics, paper, record, folder / "tables")
    clock = BEGAN.timestamp()
    for row in matrix.frame.to_dict("records"):
        cell = Cell(row["dataset"], row["model"], row["optimization"], int(row["seed"]))
        training = f"{cell.dataset}/{cell.model}/{row['training']}/seed{cell.seed}"
        place = folder / "train" / training / "train.json"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            began = datetime.datetime.fromtimestamp(clock, datetime.UTC).isoformat()
            curve = [{"step": step, "loss": 100 / step} for step in (10, 20, 30)]
            place.write_text(json.dumps({"started_at": began, "loss_curve": curve}), encoding="utf-8")
            clock = _timed(folder, "train", training, clock)
        images = 0 if row["status"] == "failed" else IMAGES
        write_samples(folder / "cells", cell, images, classes)
        for stage in ("sample", "score"):
            clock = _timed(folder, stage, "/".join((*place_of(cell), f"seed{cell.seed}")), clock)
    return matrix


def place_of(cell: Cell) -> tuple[str, str, str]:
    return (cell.dataset, cell.model, cell.optimization)


def write_samples(cells: Path, cell: Cell, images: int, classes: tuple[str, ...]) -> None:
    """Write images; image i has grey level i × 10 plus the length of the recipe's name. DDPMs are class-conditional."""
    place = cells / cell.path / "samples.npz"
    levels = np.arange(images) * 10 + len(cell.optimization)
    pixels = np.broadcast_to(levels[:, None, None, None], (images, 1, PIXELS, PIXELS)).astype(np.uint8)
    labels = np.arange(images) % len(classes) if cell.model == "ddpm" else np.zeros(0, np.int64)
    samples.write_samples(place, samples.Samples(pixels, labels, classes, sampler={}, network_evaluations=1.0))


def build(folder: Path) -> Path:
    """Run the stage on `folder`; return the page that it wrote."""
    out = folder / "report.html"
    arguments = {"matrix": folder / "matrix.parquet", "paper": PAPER, "out": out}
    arguments |= {name: folder / f"{name}.json" for name in ("findings", "claims")}
    arguments |= {name: folder / name for name in ("tables", "cells", "benchmarks")}
    arguments["trainings"] = folder / "train"
    page.main([word for name, value in arguments.items() for word in (f"--{name}", str(value))])
    return out


def pictured(matrix: Matrix) -> list[Cell]:
    """Return the cells of `matrix` whose images the page may show."""
    keys = matrix.frame[["dataset", "model", "optimization", "seed"]].itertuples(index=False, name=None)
    return selection.pictured([Cell(*key[:3], int(key[3])) for key in keys])


def _timed(folder: Path, stage: str, job: str, clock: float) -> float:
    """Write the benchmark record of a job that began at `clock`; return when it ended."""
    path = folder / "benchmarks" / stage / f"{job}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"s": SECONDS[stage], "cpu_time": SECONDS[stage] / 2, "max_rss": 500.0}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    end = clock + SECONDS[stage]
    os.utime(path, (end, end))
    return end
