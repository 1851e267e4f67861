"""FID after pruning the whole bottom of the U-Net: nine tenths of each module that can be pruned alone without loss.

Nothing is trained; the trainings, settings and baselines come from a run of config/sensitivity.yaml:

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
CELL, TRAINING = Path("cells/mnist/ddpm/baseline"), Path("train/mnist/ddpm/plain")
MODULES = ("down3", "attend3", "bottom1", "bottom2", "bottom3")
METHODS = {
    "the smallest weights": {"method": "l1", "amount": 0.9},
    "channels": {"method": "channels", "importance": "l1", "amount": 0.9},
}
NETWORKS = [
    f"--{kind}={ROOT}/workflow/resources/{folder}/mnist.safetensors"
    for kind, folder in (("extractors", "extractors"), ("classifier", "classifiers"))
]


def stage(name: str, settings: Any, *arguments: str) -> None:
    """Run a stage by hand."""
    command = [sys.executable, "-m", f"slimdiff.stages.{name}", "--settings", json.dumps(settings), "--code", "by hand"]
    subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)


def fid(results: Path, seed: str, prune: dict[str, Any], folder: Path) -> tuple[float, int]:
    """Return the FID of one seed's images, and the bytes of its packed model."""
    row = records.read_json(results / CELL / seed / "row.json")["settings"]
    settings = json.loads(row) if isinstance(row, str) else row
    steps = [{"prune": {**prune, "scope": f"module:{module}"}} for module in MODULES]
    model, packed, samples, score = (folder / name for name in ("model.safetensors", "model.packed", "s.npz", "s.json"))
    weights, data = results / TRAINING / seed / "weights.safetensors", results / "data/mnist"
    made = (f"--out={model}", f"--out-packed={packed}")
    stage("compress", {**settings["compress"], "steps": steps}, f"--weights={weights}", *made)
    alone = ("--gpu=0", "--threads=1")
    stage("sample", settings["sample"], *alone, f"--model={model}", f"--out={samples}", f"--out-grid={folder}/grid.png")
    known = (f"--images={data}/images.safetensors", f"--reference={data}/reference.safetensors", *NETWORKS)
    stage("score", settings["score"], *alone, f"--samples={samples}", *known, f"--out={score}")
    return float(records.read_json(score)["fid_indomain"]), packed.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of a finished run of the study")
    parser.add_argument("--out", type=Path, required=True, help="the table, in Markdown")
    arguments = parser.parse_args()
    seeds = sorted(path.name for path in (arguments.results / CELL).glob("seed*"))
    lines = []
    for method, prune in METHODS.items():
        own, sizes = {}, []
        for place, seed in enumerate(seeds):
            with tempfile.TemporaryDirectory() as folder:
                own[place], size = fid(arguments.results, seed, prune, Path(folder))
            sizes.append(size)
        base = {
            place: float(records.read_json(arguments.results / CELL / seed / "score.json")["fid_indomain"])
            for place, seed in enumerate(seeds)
        }
        ratio = statistics.paired(own, base)
        shown = f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        fids = ", ".join(f"{value:.1f}" for value in own.values())
        lines.append([method, fids, shown, f"{sum(sizes) / len(sizes) / 1e6:.2f} MB"])
        print(*lines[-1], flush=True)
    files.write_text(
        arguments.out, grid(["nine tenths of", "FID", "ratio to the baseline [95 %]", "packed"], lines) + "\n"
    )


if __name__ == "__main__":
    main()
