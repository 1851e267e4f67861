"""Synthetic rows of a matrix: every number follows from a formula."""

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from slimdiff.analysis.columns import COLUMNS
from slimdiff.analysis.decisions import Margins
from slimdiff.analysis.matrix import UNITS, Matrix, to_frame

# Recipes as in config.yaml, reduced to the keys that determine their family.
TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear-4bit-frozen": {"linear": "4bit"},
    "linear-8bit-frozen": {"linear": "8bit"},
    "linear-8bit-mixed": {"linear": "8bit-mixed"},
    "linear-8bit-mixed+adam-8bit": {"linear": "8bit-mixed", "optimizer_state": "8bit"},
    "groups-2": {"groups": 2},
    "groups-4": {"groups": 4},
    "groups-max": {"groups": "max"},
}


def _prune(method: str, amount: float, scope: str = "global") -> dict[str, Any]:
    return {"training": "plain", "prune": {"method": method, "amount": amount, "scope": scope}}


OPTIMIZATIONS: dict[str, dict[str, Any]] = {
    "baseline": {"training": "plain"},
    "linear-4bit-frozen": {"training": "linear-4bit-frozen"},
    "linear-8bit-mixed": {"training": "linear-8bit-mixed"},
    "linear-8bit-mixed+adam-8bit": {"training": "linear-8bit-mixed+adam-8bit"},
    "linear-8bit-frozen": {"training": "linear-8bit-frozen"},
    **{f"{m}-{p}": _prune(m, p / 100) for m in ("random", "l1") for p in (10, 30, 50, 70)},
    **{f"random-{p}-{s}": _prune("random", p / 100, s) for s in ("middle", "extremes") for p in (30, 50)},
    "groups-2": {"training": "groups-2"},
    "groups-4": {"training": "groups-4"},
    "groups-max": {"training": "groups-max"},
    "ema": {"training": "plain", "weights": "ema"},
    "linear-8bit": {"training": "plain", "quantize": {"linear": "8bit"}},
    "sampler-euler-maruyama": {"training": "plain", "sampler": {"method": "euler-maruyama"}},
}
MARGINS = Margins(quality=1.25, equivalence=1.25, size=1.05, speed=1.1)
CONFIG: dict[str, Any] = {
    "models": {"ncsn": {"family": "ncsn"}, "ncsn-wide": {"family": "ncsn"}, "ddpm": {"family": "ddpm"}},
    "trainings": TRAININGS,
    "optimizations": OPTIMIZATIONS,
}


def settings(optimization: str = "baseline", seed: int = 0, model: str = "ncsn") -> str:
    """Return the settings of a row as JSON: those of the recipe, and what decides what it is compared with.

    A recipe that OPTIMIZATIONS lacks has a step of its own name.
    """
    recipe = OPTIMIZATIONS.get(optimization, {"training": "plain", "plugin": {"name": optimization}})
    steps = [{key: options} for key, options in recipe.items() if key in ("prune", "quantize", "plugin")]
    training = {"epochs": 2, "preconditioning": "edm", "groups": 1} | TRAININGS[recipe["training"]]
    sampler = {"method": "heun", "steps": 10, "guidance": 1.0} | recipe.get("sampler", {})
    network = {"family": CONFIG["models"].get(model, {}).get("family", model), "network": {"classes": 0}}
    return json.dumps(
        {
            "train": {"dataset": "mnist", "model": network, "seed": seed, "training": training},
            "compress": {"steps": steps, "weights": recipe.get("weights", "raw"), "sampler": sampler, "seed": seed},
            "sample": {"n_samples": 2000, "seed": seed},
        }
    )


def row(optimization: str = "baseline", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return one row; `changes` replace its values. A failed row has no metrics."""
    name = f"{changes.get('model', '')}{optimization}"
    draw = zlib.crc32(name.encode()) / 2**32  # the same for every seed of a recipe
    wobble = 1 + 0.04 * (zlib.crc32(f"{name}/{seed}".encode()) / 2**32 - 0.5)
    fid = (40.0 if optimization == "baseline" else 25 * 6**draw) * wobble
    values: dict[str, Any] = dict.fromkeys((column.name for column in COLUMNS), None)
    values |= {
        "dataset": "mnist",
        "model": "ncsn",
        "optimization": optimization,
        "training": OPTIMIZATIONS.get(optimization, {"training": "plain"})["training"],
        "seed": seed,
        "sampler": "heun",
        "engine": "torch",
        "status": "ok",
        "params": 1_000_000,
        "params_nonzero": 900_000,
        "macs": 30_000_000,
        "size_bytes": 4_000_000,
        "size_gzip_bytes": 4_000_000
        if optimization == "baseline"
        else int(900_000 + 3_100_000 * (1 - draw) ** 2 + 300_000 * (draw * 97 % 1)),
        "train_ms_per_epoch": 50_000.0 * wobble,
        "train_s": 200.0,
        "inference_ms_per_image": 16.0 * wobble,
        "batch_size": 100,
        "network_evaluations": 19.0,
        "fid_indomain": fid,
        "fid_indomain_pct": fid / 4,
        "fid_indomain_floor": 0.5,
        "fid_indomain_floor_pct": 0.1,
        "n_samples": 2000,
        "device": "cpu",
        "code": "{}",
        "disturbed": False,
        "other_cpu_pct": 1.0,
        "settings": settings(optimization, seed, str(changes.get("model", "ncsn"))),
    }
    if changes.get("status") == "failed":
        values |= {"fid_indomain": None, "fid_indomain_pct": None, "reason": "train: loss is NaN at step 12"}
    values |= changes
    if "kid" not in changes and values["fid_indomain"] is not None:
        values["kid"] = values["fid_indomain"] / 500  # FID and KID agree
    return values


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return `rows` as the frame of a matrix."""
    return to_frame(list(rows))


def matrix(rows: Iterable[Mapping[str, Any]]) -> Matrix:
    """Return the matrix of `rows`, as read_matrix returns it."""
    return Matrix(frame(rows), UNITS, {"config": CONFIG})


def full(seeds: int, optimizations: Iterable[str] = OPTIMIZATIONS) -> Matrix:
    """Return a matrix with `seeds` seeds of each of `optimizations`."""
    return matrix(row(optimization, seed) for optimization in optimizations for seed in range(seeds))
