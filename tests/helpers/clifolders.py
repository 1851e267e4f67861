"""Folders for tests of the `slimdiff` command: synthetic results, and a clone with two real cells."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from builders import UNET_SAMPLER, model_header, small_unet_model, unet_training

from slimdiff.analysis import matrix
from slimdiff.analysis.columns import COLUMNS
from slimdiff.checkpoints.model import write_model
from slimdiff.inference.images import contact_sheet, write_png
from slimdiff.io import files
from slimdiff.io.samples import Samples, write_samples
from slimdiff.metrics import reference
from slimdiff.metrics.networks.extractors import read as read_extractors
from slimdiff.models.registry import build_network

REPOSITORY = Path(__file__).parents[2]
BASELINE = "mnist/ncsn/baseline/seed0"
PRUNED = "mnist/ncsn/l1-30/seed0"
FAILED = "mnist/ncsn/random-70/seed0"
MISSING = "mnist/ncsn/l1-30/seed1"
EXTRA = "mnist/ncsn/ema/seed0"
MATRIX = [
    {"dataset": "mnist", "model": "ncsn", "optimizations": ["baseline", "random-70"], "seeds": [0]},
    {"dataset": "mnist", "model": "ncsn", "optimizations": ["l1-30"], "seeds": [0, 1]},
]
OPTIMIZATIONS = {name: {"training": "plain"} for name in ("baseline", "l1-30", "random-70", "ema")}
TRAININGS: dict[str, Any] = {"plain": {}, "groups-2": {}, "groups-4": {}}
TUNED = "mnist/ddpm/consistency-2/seed0"
REAL = ("mnist/ddpm/baseline/seed0", "mnist/ddpm/l1-30/seed0")  # cells of `write_clone`
DIGITS = [str(digit) for digit in range(10)]


def write(path: Path, value: Any) -> None:
    """Write `value` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def row(name: str, **values: Any) -> dict[str, Any]:
    """Return a cell's row with these measured values."""
    dataset, model, optimization, seed = name.split("/")
    identity = {"dataset": dataset, "model": model, "optimization": optimization, "seed": int(seed[4:])}
    common = {
        "training": "plain",
        "engine": "torch",
        "status": "ok",
        "device": "cpu",
        "cpu_model": "A",
        "n_samples": 2000,
    }
    return {**dict.fromkeys(column.name for column in COLUMNS), **identity, **common, **values}


def write_results(folder: Path) -> Path:
    """Write results of a run in progress: two cells, a failed one, one that no config requests, and trainings."""
    rows = [
        row(BASELINE, fid_indomain=10.0, params=1_115_297, size_bytes=4_472_986, inference_ms_per_image=16.0),
        row(PRUNED, fid_indomain=12.5, params=1_115_297, size_bytes=4_472_986, inference_ms_per_image=16.0),
        row(FAILED, status="failed", reason="sample: samples are constant (all pixels at +1.00 of [-1, 1])"),
        row(EXTRA, fid_indomain=9.0),
    ]
    for name, content in zip((BASELINE, PRUNED, FAILED, EXTRA), rows, strict=True):
        write(folder / "cells" / name / "row.json", content)
    write(folder / "train/mnist/ncsn/plain/seed0/train.json", {})
    report = {"step": 1200, "steps": 4689, "loss": 0.25, "images_per_s": 765.4, "eta_s": 250.0}
    now = datetime.now(UTC)
    for training, age in (("groups-2", timedelta(seconds=5)), ("groups-4", timedelta(hours=3))):
        stamp = (now - age).isoformat(timespec="seconds")
        write(folder / f"state/train/mnist/ncsn/{training}/seed0/status.json", {**report, "updated_at": stamp})
    config = {"data_dir": "data", "matrix": MATRIX, "optimizations": OPTIMIZATIONS, "trainings": TRAININGS}
    (folder.parent / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def write_clone(root: Path) -> Path:
    """Write a clone as after a run: the repository's configuration, and two small real class-conditional cells."""
    for name in ("Snakefile", "config.yaml", "config", "workflow/rules", "workflow/schemas", "workflow/resources"):
        source, target = REPOSITORY / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.symlink_to(source)
        else:
            shutil.copy(source, target)
    results = root / "results"
    for seed, name in enumerate(REAL):
        folder = results / "cells" / name
        write_cell(folder, seed)
        settings = {"train": {"model": small_unet_model(network={"classes": 10})}}
        measured = {"fid_indomain": 10.0 + seed, "settings": json.dumps(settings), "code": '{"train":"abc"}'}
        write(folder / "row.json", row(name, started_at="2026-01-01T00:00:00+00:00", **measured))
        write(folder / "score.json", {"status": "ok", "extractors_sha256": "0123"})
    record = {"steps": 10, "loss_curve": [{"step": 10, "loss": 1.5}], "interruptions": 2, "precision": "float32"}
    write(results / "train/mnist/ddpm/plain/seed0/train.json", record)
    rows = [json.loads((results / "cells" / name / "row.json").read_text(encoding="utf-8")) for name in REAL]
    matrix.write_matrix(results / "matrix.parquet", matrix.to_frame(rows), {"slimdiff": "test"})
    return root


def write_tuned(root: Path) -> None:
    """Write the model of a cell with sampler consistency, and the reference of random training images."""
    facts = {"name": "mnist", "channels": 1, "height": 28, "width": 28, "classes": DIGITS, "saturated": 0.0}
    sampler = {**UNET_SAMPLER, "method": "consistency", "steps": 2, "renoise": [0.5], "guidance": 1.0}
    write_cell(root / "results" / "cells" / TUNED, 0, {**facts, "class_counts": [6000] * 10}, sampler)
    extractors = REPOSITORY / "workflow/resources/extractors/mnist.safetensors"
    images = torch.randint(0, 256, (100, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labelled, digest = (images, torch.arange(100) % 10), files.digest(extractors)
    networks = read_extractors(extractors)
    real = reference.measure(labelled, labelled, networks, "mnist", digest, "none", torch.device("cpu"))
    reference.write(root / "results/data/mnist/reference.safetensors", real)


def write_cell(
    folder: Path, seed: int = 0, dataset: dict[str, Any] | None = None, sampler: dict[str, Any] = UNET_SAMPLER
) -> torch.nn.Module:
    """Write an untrained small U-Net of ten classes as a cell's checkpoint, with samples and their grid."""
    model = small_unet_model(network={"classes": 10})
    network = build_network(model, seed=seed)
    facts = {"name": "mnist", "channels": 1, "height": 16, "width": 16, "classes": DIGITS, "saturated": 0.0}
    facts["class_counts"] = [6000] * 10
    header = model_header(model, unet_training(), dataset=dataset or facts, sampler=sampler)
    write_model(folder / "model.safetensors", network, header)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (24, 1, 16, 16), generator=generator, dtype=torch.uint8)
    labels = np.arange(24) % 10
    samples = Samples(images.numpy(), labels, tuple(DIGITS), UNET_SAMPLER, network_evaluations=14.0)
    write_samples(folder / "samples.npz", samples)
    write_png(folder / "grid.png", contact_sheet(images))
    return network
