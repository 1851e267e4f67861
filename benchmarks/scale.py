"""Growth of time and memory with the number of cells, for every part that reads all cells, on synthetic results.

Each part runs in its own process (_scale_parts.py). Measured are its CPU seconds, the least noisy time, and
its peak resident memory. Two exponents of growth: the slope of log seconds over log cells by least squares, and that of
the last two sizes, for Python parts after subtracting the seconds of an empty process.

    python benchmarks/scale.py --out results/benchmarks.json                       # 100 and 1,000 cells
    python benchmarks/scale.py --out results/benchmarks.json --cells 100 1000 10000
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEFAULT_CELLS = (100, 1000)
PARTS = ("nothing", "aggregate", "claims", "tables", "figures", "page")
CONFIGS = ("--config", "config.yaml", "--config", "overlay.yaml")
COMMANDS = {  # in the linked clone
    "status": [sys.executable, "-m", "slimdiff.cli", "status", *CONFIGS, "--json"],
    "matrix so far": [sys.executable, "-m", "slimdiff.cli", "matrix", *CONFIGS, "--json"],
    "dry run": [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "--forceall",
        "--quiet",
        "all",
        "--configfile",
        "overlay.yaml",
    ],
}


def measured(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Return CPU seconds and peak resident memory (MB) of `command`, run in `folder`."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read()[-4000:]}")
    return {"s": round(usage.ru_utime + usage.ru_stime, 2), "mb": round(usage.ru_maxrss / 1000, 1)}


def environment() -> dict[str, str]:
    """Return the environment: one thread, and the package of this clone."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "src"), "OMP_NUM_THREADS": "1"}


def measure(cells: int, parts: Sequence[str], folder: Path) -> dict[str, dict[str, float]]:
    """Measure each of `parts` at this number of cells, and the size of the matrix and the page."""
    own = [sys.executable, str(Path(__file__).with_name("_scale_parts.py"))]
    measured([*own, "make", str(folder), "--cells", str(cells)], folder)
    found = {}
    for part in parts:
        command = COMMANDS.get(part) or [*own, part, str(folder)]
        found[part] = measured(command, folder)
        print(f"{cells} cells, {part}: {found[part]}", flush=True)
    for part, name in (("aggregate", "matrix.parquet"), ("page", "report.html")):
        if (folder / "results" / name).exists():
            found[part]["file_mb"] = round((folder / "results" / name).stat().st_size / 1e6, 2)
    return found


def exponents(sizes: Sequence[int], seconds: Sequence[float], empty: float) -> dict[str, float]:
    """Return the exponents of growth over all sizes, and over the last two without an `empty` process's seconds."""
    slope = statistics.linear_regression([math.log(n) for n in sizes], [math.log(s) for s in seconds]).slope
    before, after = (max(value - empty, 0.01) for value in seconds[-2:])
    return {"exponent": round(slope, 2), "exponent_last": round(math.log(after / before, sizes[-1] / sizes[-2]), 2)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, help="JSON file that collects the benchmarks")
    arguments.add_argument("--cells", type=int, nargs="+", default=DEFAULT_CELLS, help="multiples of 100, ascending")
    arguments.add_argument("--parts", nargs="+", default=[*PARTS, *COMMANDS], help="what to measure, in this order")
    given = arguments.parse_args()
    found = {}
    for cells in given.cells:
        with tempfile.TemporaryDirectory() as folder:
            found[cells] = measure(cells, given.parts, Path(folder))
    for part in given.parts:
        by_size = {str(cells): found[cells][part] for cells in given.cells}
        entry: dict[str, Any] = {"cells": by_size}
        if len(given.cells) > 1:
            seconds = [figures["s"] for figures in by_size.values()]
            empty = found[given.cells[0]]["nothing"]["s"] if part in PARTS and "nothing" in given.parts else 0.0
            entry |= exponents(given.cells, seconds, empty)
        print(json.dumps({part: entry}))
        if given.out:
            from _record import keep  # imported late: it loads torch, and children inherit the parent's peak memory

            keep(given.out, f"{part} of a matrix, by cells", entry, 1)


if __name__ == "__main__":
    main()
