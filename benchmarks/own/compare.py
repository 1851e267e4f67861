"""Plain diffusers against slimdiff after config/own-model.yaml: images of the same noise, their scores, and times.

    slimdiff export digit-images/own/uniform-50-distilled/seed0 --to diffusers --out own-slim --licence mit
    python benchmarks/own/compare.py --folders own/baseline=data/own-model/digits own/uniform-50-distilled=own-slim \
      --fast 'uniform-50-distilled+openvino-int8+dpm-solver-10' --out docs/results/own-model/diffusers.md

Plain diffusers runs in a process without slimdiff, benchmarks/own/draw.py. Times are of seed 0 on one thread, in turns
with plain diffusers' dense network and its steps.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import draw
import torch
from safetensors.torch import load_file, save_file

import slimdiff
from slimdiff.data.transforms import to_dataset
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.inference.model import LoadedModel
from slimdiff.io import files, records
from slimdiff.io.samples import read_samples, write_samples
from slimdiff.io.settings import build, parse
from slimdiff.report.tables.markdown import grid
from slimdiff.runtime.devices import pick_device

RESULTS, DATASET = Path("results"), "digit-images"
COMPARED, ROUNDS, BATCH = 100, 7, 50


def shape_of(loaded: LoadedModel) -> tuple[int, int, int]:
    """Return (C, H, W) of the images of a cell's network."""
    model = loaded.settings["model"]
    return model["channels"], model["image_size"], model["image_size"]


def ours(loaded: LoadedModel, seed: int, labels: torch.Tensor | None) -> torch.Tensor:
    """Return slimdiff's first images before they are rounded."""
    settings = build(SamplerSettings, loaded.settings["sampler"], "sampler")
    given = None if labels is None else labels[:COMPARED]
    with torch.inference_mode():
        guided = Guided(loaded.denoiser, given, 1.0, clip=settings.clip)
        return sample(guided, ImageNoise(seed, range(COMPARED)), shape_of(loaded), settings).x


def compare(cell: Path, folder: Path) -> list[str]:
    """Return a line of the first table: difference and scores of the images that plain diffusers draws."""
    loaded = slimdiff.load(cell / "model.safetensors")
    stored, own = read_samples(cell / "samples.npz"), records.read_json(cell / "score.json")
    settings = parse(records.read_json(cell / "row.json")["settings"])
    n, seed = settings["sample"]["n_samples"], settings["sample"]["seed"]
    labels = torch.from_numpy(stored.labels) if stored.labels.size else None
    with tempfile.TemporaryDirectory() as work:
        given, out, samples, score = (Path(work) / name for name in ("given", "images", "samples.npz", "score.json"))
        noise = ImageNoise(seed, range(n)).normal(shape_of(loaded))
        save_file({"noise": noise, **({} if labels is None else {"labels": labels})}, given)
        steps = str(loaded.settings["sampler"]["steps"])
        subprocess.run([sys.executable, draw.__file__, folder, given, steps, out], check=True)
        theirs = load_file(out)["images"]
        difference = (theirs[:COMPARED] - ours(loaded, seed, labels)).abs().max().item()
        data, fit = loaded.settings["dataset"], loaded.settings["model"]["fit"]
        pixels = to_dataset(loaded.denoiser.to_images(theirs), data["height"], data["width"], data["channels"], fit)
        write_samples(samples, replace(stored, images=pixels.numpy(), identity=None))
        of_data = RESULTS / "data" / DATASET
        networks = [
            f"--{kind}={of_data}/{kind}.safetensors" for kind in ("images", "reference", "extractors", "classifier")
        ]
        stage = [sys.executable, "-P", "-m", "slimdiff.stages.score", "--settings", json.dumps(settings["score"])]
        subprocess.run([*stage, *networks, "--gpu=0", f"--samples={samples}", f"--out={score}"], check=True)
        fid = records.read_json(score)["fid_indomain"]
    equal = (pixels.numpy() == stored.images).mean()
    shown = [f"{difference:.1e}", f"{100 * equal:.2f} %", f"{fid:.4g}", f"{own['fid_indomain']:.4g}"]
    return ["/".join(cell.parts[-3:-1]), *shown]


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def times(folder: Path, entrants: dict[str, Path]) -> list[list[str]]:
    """Return the lines of the second table: each cell in turns with plain diffusers on the dense model's folder."""
    unet, scheduler = draw.load(folder)
    baseline = slimdiff.load(next(iter(entrants.values())))
    steps = baseline.settings["sampler"]["steps"]
    noise = ImageNoise(0, range(BATCH)).normal(shape_of(baseline))
    lines = []
    for name, cell in entrants.items():
        loaded = slimdiff.load(cell, cache=RESULTS / "state" / "engines")
        runs = (
            lambda: draw.draw(unet, scheduler, noise, None, steps),
            lambda loaded=loaded: loaded.sample(BATCH, batch_size=BATCH),
        )
        for run in runs:
            run()
        pairs = [tuple(map(seconds, runs)) for _ in range(ROUNDS)]
        ratios = sorted(theirs / own for theirs, own in pairs)
        ms = 1000 * statistics.median(own for _, own in pairs) / BATCH
        spread = f"×{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        sampler = loaded.settings["sampler"]
        lines.append([name, f"{sampler['method']} {sampler['steps']}", f"{ms:.1f}", spread])
        print(*lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", nargs="+", required=True, help="MODEL/RECIPE=FOLDER; the first is timed")
    parser.add_argument("--fast", nargs="+", default=[], help="recipes of its model to time")
    parser.add_argument("--out", type=Path, required=True, help="both tables, in Markdown")
    args = parser.parse_args()
    pick_device(0, 1)
    cells = RESULTS / "cells" / DATASET
    folders = {
        cells / name / "seed0": Path(folder) for name, _, folder in (each.partition("=") for each in args.folders)
    }
    compared = [compare(cell, folder) for cell, folder in folders.items()]
    first, folder = next(iter(folders.items()))
    entrants = {
        name: cells / first.parts[-3] / name / "seed0" / "model.safetensors" for name in (first.parts[-2], *args.fast)
    }
    timed = times(folder, entrants)
    heads = [
        "cell",
        f"largest difference, {COMPARED} images",
        "equal pixels",
        "FID of diffusers' images",
        "of slimdiff's",
    ]
    text = grid(heads, compared) + "\n\n" + grid(["recipe", "sampler", "ms per image", "plain diffusers takes"], timed)
    files.write_text(args.out, text + "\n")


if __name__ == "__main__":
    main()
