"""Interleaved timing of two models, so that other load on the machine slows both.

Wall times of one model taken minutes apart differ by more than most recipes change them; the ratio of two consecutive
runs does not. Each round samples one batch from both models, in alternating order, and gives one ratio.
"""

import statistics
import time
from dataclasses import dataclass

import torch

from slimdiff.inference.model import LoadedModel
from slimdiff.profiling.contention import Contention, Watch
from slimdiff.runtime.devices import synchronize
from slimdiff.runtime.memory import OutOfMemory


@dataclass(frozen=True)
class Latencies:
    """Wall times per image, one per round."""

    ms: tuple[float, ...]  # times of the model
    baseline_ms: tuple[float, ...]  # times of the baseline; empty without one
    contention: Contention | None = None  # other processes during these rounds; None: unknown

    def median(self) -> float:
        """Return the median time per image in milliseconds."""
        return statistics.median(self.ms)

    def spread(self) -> float:
        """Return the interquartile range of the times per image in milliseconds; 0 after one round."""
        if len(self.ms) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive")
        return high - low

    def speedups(self) -> list[float]:
        """Return the ratio baseline / model of each round's times, ascending."""
        return sorted(baseline / ms for ms, baseline in zip(self.ms, self.baseline_ms, strict=False))


def time_interleaved(
    model: LoadedModel,
    baseline: LoadedModel | None,
    batch_size: int,
    repeats: int,
    warmup: int,
    seed: int,
    device: torch.device,
) -> Latencies:
    """Time the sampling of one batch, from drawing the noise to pixels on the CPU.

    Args:
        baseline: timed alternately with `model`; None: time `model` alone.
        batch_size: images per run.
        repeats: rounds to record.
        warmup: rounds before them.

    Raises:
        OutOfMemory: the batch does not fit in memory; a smaller one would be another measurement.
    """
    times: list[float] = []
    baseline_times: list[float] = []
    models = [(model, times)] if baseline is None else [(model, times), (baseline, baseline_times)]
    for loaded, _ in models:
        loaded.prepare(batch_size)
    needed = 1 if device.type == "cuda" else torch.get_num_threads()  # one core feeds a GPU
    watch = Watch(needed)
    for turn in range(warmup + repeats):
        if turn == warmup:
            watch = Watch(needed)
        for loaded, recorded in models if turn % 2 else reversed(models):
            ms = _run_ms(loaded, batch_size, seed, device) / batch_size
            if turn >= warmup:
                recorded.append(ms)
        watch.look()
    return Latencies(tuple(times), tuple(baseline_times), watch.stop())


def _run_ms(loaded: LoadedModel, batch_size: int, seed: int, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    sample_at_once(loaded, batch_size, seed)
    synchronize(device)
    return (time.perf_counter() - start) * 1000.0


def sample_at_once(loaded: LoadedModel, batch_size: int, seed: int) -> None:
    """Sample one batch of `batch_size` images; raise OutOfMemory if memory ran out and it was halved."""
    sampled = loaded.sample(batch_size, seed=seed, batch_size=batch_size)
    if sampled.batch_size != batch_size:
        raise OutOfMemory((batch_size,))
