"""Sampling time of every recipe of a finished run against its baseline, interleaved, on one thread and on all.

    python benchmarks/recipes.py --results results --out results/benchmarks.json --table speed.md
    python benchmarks/recipes.py --baseline sampler-euler-maruyama --recipes channels-50 --out … --table …

Cells of the first seed and their baselines come from the run's files. `output_error` is ‖y − y0‖ / ‖y0‖ of one
evaluation on noised test images, y0 being the baseline's network in float32: rounding for engines and quantization, a
different network after pruning or fine-tuning, 0 for fewer steps.
"""

import argparse
import gc
import os
from pathlib import Path
from typing import Any

import torch
from _record import keep

import slimdiff
from slimdiff.data import image_set
from slimdiff.engines.calibration import noised_inputs, sampler_sigmas
from slimdiff.engines.lowering import ERROR_IMAGES, output_error
from slimdiff.inference.model import LoadedModel
from slimdiff.profiling.latency import time_interleaved
from slimdiff.runtime.devices import pick_device

CPU = torch.device("cpu")
BATCH, ROUNDS, WARMUP = 16, 5, 1


def error_of(loaded: LoadedModel, baseline: LoadedModel, images: image_set.ImageSet) -> float | None:
    """Return ‖y − y0‖ / ‖y0‖ of the two networks on the same noised test images."""
    header = baseline.settings
    sigmas = sampler_sigmas(baseline.denoiser, header["model"], header["sampler"])
    given = noised_inputs(
        baseline.denoiser, header["model"], images.test_images, images.test_labels, sigmas, ERROR_IMAGES, seed=1
    )
    return output_error(baseline.denoiser.network, loaded.denoiser.network, given)


def measure(model: Path, baseline: Path, images: image_set.ImageSet, cache: Path) -> dict[str, Any]:
    """Measure the speedup of one cell, on one thread and on all."""
    found: dict[str, Any] = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        pick_device(0, threads)
        entrant, reference = slimdiff.load(model, cache=cache), slimdiff.load(baseline)
        speedups = time_interleaved(entrant, reference, BATCH, ROUNDS, WARMUP, 0, CPU).speedups()
        found[f"speedup, {threads} threads"] = {
            "ratio": speedups[len(speedups) // 2],
            "ratio_range": [speedups[0], speedups[-1]],
            "rounds": len(speedups),
        }
        if threads == 1:
            found["output_error"] = error_of(entrant, reference, images)
            found["file_share"] = _packed(model) / _packed(baseline)
    gc.collect()
    return found


def _packed(model: Path) -> int:
    """Return the bytes of the packed file next to a cell's checkpoint."""
    return (model.parent / "model.packed").stat().st_size


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table with a line per cell, sorted by family and speedup on one thread."""
    columns = [name for name in next(iter(measured.values())) if name.startswith("speedup")]
    heads = ["cell", *(name.replace("speedup, 1 threads", "speedup, 1 thread") for name in columns)]
    lines = ["| " + " | ".join([*heads, "output error", "packed file / baseline's packed file"]) + " |"]
    lines.append("|---" * (len(heads) + 2) + "|")
    for cell, entry in sorted(
        measured.items(), key=lambda each: (each[0].split("/")[1], -each[1][columns[0]]["ratio"])
    ):
        ratios = ("×{:.2f} ({:.2f} to {:.2f})".format(entry[c]["ratio"], *entry[c]["ratio_range"]) for c in columns)
        shown = [cell, *ratios, f"{entry['output_error']:.2g}", f"{entry['file_share']:.3f}"]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all cells of seed 0 that have a baseline."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--results", type=Path, default=Path("results"), help="of a finished run")
    arguments.add_argument("--out", type=Path, required=True, help="JSON file that collects the benchmarks")
    arguments.add_argument("--table", type=Path, help="Markdown file for the same figures")
    arguments.add_argument("--baseline", default="baseline", help="recipe that the others are compared with")
    arguments.add_argument("--recipes", nargs="+", help="of the others only these")
    given = arguments.parse_args()

    models = sorted(given.results.glob("cells/*/*/*/seed0/model.safetensors"))
    if not models:
        print(f"nothing to measure: {given.results} holds no cell of seed 0; run the workflow first, or name --results")
        return
    measured: dict[str, dict[str, Any]] = {}
    for model in models:
        dataset, family, recipe, _ = model.parent.relative_to(given.results / "cells").parts
        baseline = model.parents[2] / given.baseline / "seed0" / "model.safetensors"
        if recipe == given.baseline or not baseline.exists() or recipe not in (given.recipes or [recipe]):
            continue
        images = image_set.read(given.results / "data" / dataset / "images.safetensors")
        cell = f"{dataset}/{family}/{recipe}"
        measured[cell] = measure(model, baseline, images, given.results / "state" / "engines")
        print(cell, measured[cell], flush=True)
    keep(given.out, f"recipes: {given.baseline} / recipe (time of a batch)", measured, len(os.sched_getaffinity(0)))
    if given.table:
        given.table.write_text(table(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
