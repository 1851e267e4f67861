"""FID and KID without most of the weights at the lowest resolution: all its modules pruned at once, nothing trained.

Trainings, settings and baselines come from a run that has baselines of both networks of the paper:

  python benchmarks/scores/bottom.py --results results --out bottom.md
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from slimdiff.analysis import statistics
from slimdiff.io import files, records
from slimdiff.report.tables.markdown import grid

ROOT = Path(__file__).parents[2]
UNET = ("down3", "attend3", "bottom1", "bottom2", "bottom3")
SMALLEST = {"method": "l1", "amount": 0.9}
CHANNELS = {"method": "channels", "importance": "l1", "amount": 0.9}
CASES: tuple[tuple[str, str, dict[str, Any], tuple[str, ...]], ...] = (
    ("ddpm", "smallest weights", SMALLEST, UNET),
    ("ddpm", "channels", CHANNELS, UNET),
    ("ncsn", "smallest weights", SMALLEST, ("conv4", "dense4", "tconv4")),
)
NETWORKS = [
    f"--{kind}={ROOT}/workflow/resources/{folder}/mnist.safetensors"
    for kind, folder in (("extractors", "extractors"), ("classifier", "classifiers"))
]


def stage(name: str, settings: Any, *arguments: str) -> None:
    """Run a stage by hand."""
    command = [sys.executable, "-m", f"slimdiff.stages.{name}", "--settings", json.dumps(settings), "--code", "by hand"]
    subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)


def scores(cell: Path, weights: Path, steps: list[Any], data: Path, folder: Path) -> dict[str, float]:
    """Return the FID, the KID and the packed bytes of one seed's network after these steps, its images as `cell`'s."""
    row = records.read_json(cell / "row.json")["settings"]
    settings = json.loads(row) if isinstance(row, str) else row
    model, packed, samples, score = (folder / name for name in ("model.safetensors", "model.packed", "s.npz", "s.json"))
    made = (f"--out={model}", f"--out-packed={packed}")
    stage("compress", {**settings["compress"], "steps": steps}, f"--weights={weights}", *made)
    alone = ("--gpu=0", "--threads=1")
    stage("sample", settings["sample"], *alone, f"--model={model}", f"--out={samples}", f"--out-grid={folder}/grid.png")
    known = (f"--images={data}/images.safetensors", f"--reference={data}/reference.safetensors", *NETWORKS)
    stage("score", settings["score"], *alone, f"--samples={samples}", *known, f"--out={score}")
    return {**records.read_json(score), "size_packed_bytes": packed.stat().st_size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="the table, in Markdown")
    arguments = parser.parse_args()
    results, lines = arguments.results, []
    for model, what, prune, modules in CASES:
        steps = [{"prune": {**prune, "scope": f"module:{module}"}} for module in modules]
        own: dict[int, dict[str, float]] = {}
        base: dict[int, dict[str, float]] = {}
        for cell in sorted((results / "cells/mnist" / model / "baseline").glob("seed*")):
            seed = int(cell.name.removeprefix("seed"))
            weights = results / "train/mnist" / model / "plain" / cell.name / "weights.safetensors"
            with tempfile.TemporaryDirectory() as folder:
                own[seed] = scores(cell, weights, steps, results / "data/mnist", Path(folder))
            base[seed] = records.read_json(cell / "row.json")
        ratios = [
            statistics.paired({s: own[s][column] for s in own}, {s: base[s][column] for s in own})
            for column in ("fid_indomain", "kid", "size_packed_bytes")
        ]
        fids = (", ".join(f"{each[s]['fid_indomain']:.2f}" for s in own) for each in (base, own))
        images = str(int(base[min(base)]["n_samples"]))
        fid, kid = (f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" for ratio in ratios[:2])
        lines.append([model, f"{what} of {', '.join(modules)}", images, *fids, fid, kid, f"{ratios[2].mean:.2f}"])
        print(*lines[-1], flush=True)
    head = ["model", "without nine tenths of the", "images", "FID of the baseline", "FID", "FID ratio [95 %]"]
    files.write_text(arguments.out, grid([*head, "KID ratio [95 %]", "packed"], lines) + "\n")


if __name__ == "__main__":
    main()
