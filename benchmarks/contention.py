"""How far other processes move a speedup that is timed in turns, and which figure of the kernel says so.

    python benchmarks/contention.py --out trials.csv --threads 2 --processes 1 --duty 0.5
    python benchmarks/contention.py --out trials.csv --table

Each trial is a profile's timing, one warm-up and five rounds, of the untrained NCSN (ten Heun steps, 8 images) against
itself and against half of its channels, while processes compute in bursts. A trial adds a line to the file: the speedup
and three candidates for how much the others took:

all: their share of every core; needed: their share beyond the cores that the model leaves free, which is the column
`other_cpu_pct`; waited: the share of the time of the model's own threads in which they were ready and did not run.

The table compares each speedup with the geometric mean of the quarter of the trials that others took least from.
"""

import argparse
import csv
import functools
import itertools
import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from _network import MODEL, TRAINING

from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.inference.model import LoadedModel
from slimdiff.inference.sampling import Sampled, sample_images
from slimdiff.models.registry import build_network
from slimdiff.profiling.contention import contention, read_counters
from slimdiff.profiling.latency import time_interleaved
from slimdiff.runtime.devices import pick_device

BATCH, ROUNDS, BURST_S = 8, 5, 0.5
DATASET = {"channels": 1, "height": 28, "width": 28, "saturated": 0.8}
HALF = {**MODEL, "network": {**MODEL["network"], "channels": [16, 32, 64, 128], "norm_groups": [4, 16, 16, 16]}}
FIGURES = ("all", "needed", "waited")
EDGES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 1.0)  # of the table's lines
MARGIN = 1.10


@dataclass
class Model:
    """An untrained network with the part of LoadedModel that timing needs."""

    options: dict[str, Any]

    def __post_init__(self) -> None:
        self.denoiser = build_denoiser(build_network(self.options).eval(), self.options, TRAINING)

    def prepare(self, batch_size: int) -> None:
        """Nothing to compile."""

    def sample(self, n: int, seed: int, batch_size: int) -> Sampled:
        """Sample `n` images."""
        return sample_images(self.denoiser, SamplerSettings("heun", 10), self.options, DATASET, n, batch_size, seed)


def work(duty: float, seed: int) -> None:
    """Compute in bursts of random lengths, for a share `duty` of the time, until the process is ended."""
    draw = random.Random(seed)
    while True:
        burst = draw.expovariate(1 / BURST_S)
        end = time.monotonic() + burst
        while time.monotonic() < end:
            sum(range(10_000))
        time.sleep(burst * (1 - duty) / duty)


def own_threads() -> tuple[int, int]:
    """Return the nanoseconds that this process's threads have run, and waited for a core (proc_schedstat)."""
    lines = [(task / "schedstat").read_text().split() for task in Path("/proc/self/task").iterdir()]
    return sum(int(line[0]) for line in lines), sum(int(line[1]) for line in lines)


def trial(model: Model, other: Model, threads: int) -> dict[str, float]:
    """Return the speedup of `model` over `other`, and FIGURES."""
    first, (ran, waited) = read_counters(), own_threads()
    pair = cast(tuple[LoadedModel, LoadedModel], (model, other))
    found = time_interleaved(*pair, BATCH, ROUNDS, 1, 0, torch.device("cpu"))
    last, (ran_after, waited_after) = read_counters(), own_threads()
    cores = len(os.sched_getaffinity(0))
    shares = [contention(first, last, cores), found.contention]
    every, needed = (part.taken_s / part.needed_s if part else math.nan for part in shares)
    ran, waited = ran_after - ran, waited_after - waited
    speedup = found.speedups()[ROUNDS // 2]
    return {"speedup": speedup, "all": every, "needed": needed, "waited": waited / (ran + waited)}


def measure(out: Path, threads: int, processes: int, duty: float, trials: int) -> None:
    """Add `trials` of both pairs to the file `out`."""
    pick_device(0, threads)
    pairs = {"itself": (Model(MODEL), Model(MODEL)), "half": (Model(HALF), Model(MODEL))}
    setup = {"threads": threads, "processes": processes, "duty": duty}
    for _ in range(trials):
        for name, pair in pairs.items():
            line = {**setup, "pair": name, **trial(*pair, threads)}
            is_new = not out.exists()
            with out.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, line)
                if is_new:
                    writer.writeheader()
                writer.writerow(line)


def run_among(processes: int, duty: float, run: Callable[[], None]) -> None:
    """Call `run` in a process of its own, among `processes` that compute: a child's time would count as its own."""
    context = multiprocessing.get_context("fork")  # before torch starts threads
    others = [context.Process(target=work, args=(duty, seed), daemon=True) for seed in range(processes)]
    measuring = context.Process(target=run)
    for process in (*others, measuring):
        process.start()
    measuring.join()
    for other in others:
        other.terminate()
    if measuring.exitcode:
        raise SystemExit(measuring.exitcode)


def table(trials: pd.DataFrame) -> str:
    """Return for each figure of FIGURES how the error of a speedup depends on it."""
    groups = trials.sort_values("needed").groupby(["pair", "threads"])
    truths = groups["speedup"].apply(_quiet_log_mean).rename("truth")
    joined = trials.join(truths, on=["pair", "threads"])
    error = joined["speedup"].map(math.log).sub(joined["truth"]).abs()
    lines = ["| figure | from | to | trials | error, median | 90 % | beyond 1.10 |", "|---" * 7 + "|"]
    for figure in FIGURES:
        for low, high in itertools.pairwise(EDGES):
            own = error[(joined[figure] >= low) & (joined[figure] < high)]
            if len(own):
                ends = [math.exp(own.quantile(share)) for share in (0.5, 0.9)]
                beyond = (own > math.log(MARGIN)).mean()
                numbers = f"{ends[0]:.2f} | {ends[1]:.2f} | {100 * beyond:.0f} %"
                lines.append(f"| {figure} | {100 * low:.0f} % | {100 * high:.0f} % | {len(own)} | {numbers} |")
    ranks = {figure: joined[figure].corr(error, method="spearman") for figure in FIGURES}
    named = ", ".join(f"{figure} {rank:.2f}" for figure, rank in ranks.items())
    return "\n".join([*lines, "", f"Spearman with the error: {named}"])


def _quiet_log_mean(speedups: "pd.Series[float]") -> float:
    """Return the mean logarithm of the first quarter of the trials, those with the least contention."""
    return float(speedups.head(math.ceil(len(speedups) / 4)).map(math.log).mean())


def main() -> None:
    """Measure or print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True, help="CSV file that collects the trials")
    arguments.add_argument("--table", action="store_true", help="only print the table of the file")
    arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="of the models")
    arguments.add_argument("--processes", type=int, default=0, help="number of other processes")
    arguments.add_argument("--duty", type=float, default=1.0, help="share of the time in which each of them computes")
    arguments.add_argument("--trials", type=int, default=8, help="of each pair")
    given = arguments.parse_args()
    if not given.table:
        own = (given.out, given.threads, given.processes, given.duty, given.trials)
        run_among(given.processes, given.duty, functools.partial(measure, *own))
    print(table(pd.read_csv(given.out)))


if __name__ == "__main__":
    main()
