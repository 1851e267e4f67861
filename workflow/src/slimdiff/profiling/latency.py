"""Interleaved timing of two models, so that other load on the machine slows both.

Wall times of one model taken minutes apart differ by more than most recipes change them; the ratio of two consecutive
runs does not. Each round samples one batch from both models, in alternating order, and gives one ratio. A GPU is timed
by its own events, and warmed up until its rounds are alike: its first ones load kernels and raise its clock.
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from slimdiff.inference.model import LoadedModel
from slimdiff.profiling.contention import Contention, Watch
from slimdiff.profiling.nvml import Nvml
from slimdiff.runtime.devices import synchronize
from slimdiff.runtime.memory import OutOfMemory

STABLE_ROUNDS, STABLE_RATIO = 3, 1.05  # a GPU is warm when this many rounds differ by this factor at most
# of the warm-up: one that never settles shows in the interquartile range
MOST_ROUNDS, MOST_S = 20, 30.0


@dataclass(frozen=True)
class Latencies:
    """Wall times per image, one per round."""

    ms: tuple[float, ...]  # times of the model
    baseline_ms: tuple[float, ...]  # times of the baseline; empty without one
    contention: Contention | None = None  # other processes during these rounds; None: unknown
    gpu_processes: int | None = None  # most other processes on the GPU; None: unknown, or no GPU

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
    nvml: Nvml | None = None,
) -> Latencies:
    """Time the sampling of one batch, from drawing the noise to pixels on the CPU.

    Args:
        baseline: timed alternately with `model`; None: time `model` alone.
        batch_size: images per run.
        repeats: rounds to record.
        warmup: rounds before them; a GPU gets more until it is warm.
        nvml: of the GPU, which counts its processes.

    Raises:
        OutOfMemory: the batch does not fit in memory; a smaller one would be another measurement.
    """
    models = [model] if baseline is None else [model, baseline]
    for loaded in models:
        loaded.prepare(batch_size)
    turns = itertools.count()

    def time_round() -> list[float]:
        order = range(len(models)) if next(turns) % 2 else reversed(range(len(models)))
        ms = {index: _run_ms(models[index], batch_size, seed, device) / batch_size for index in order}
        return [ms[index] for index in range(len(models))]

    start, warm = time.monotonic(), [time_round() for _ in range(warmup)]
    while device.type == "cuda" and not _is_stable(warm) and len(warm) < MOST_ROUNDS:
        if len(warm) >= STABLE_ROUNDS and time.monotonic() - start > MOST_S:
            break
        warm.append(time_round())
    watch = Watch(1 if device.type == "cuda" else torch.get_num_threads())  # one core feeds a GPU
    rounds, others = [], []
    for _ in range(repeats):
        rounds.append(time_round())
        watch.look()
        others.append(nvml.other_processes() if nvml else None)
    own, *of_baseline = zip(*rounds, strict=True)
    return Latencies(own, of_baseline[0] if of_baseline else (), watch.stop(), most(others))


def most(counts: Sequence[int | None]) -> int | None:
    """Return the largest count; None if one is unknown."""
    known = [count for count in counts if count is not None]
    return max(known) if len(known) == len(counts) else None


def _is_stable(rounds: Sequence[Sequence[float]]) -> bool:
    """Return whether the last rounds' times of every model differ by STABLE_RATIO at most."""
    last = rounds[-STABLE_ROUNDS:]
    return len(last) == STABLE_ROUNDS and all(max(ms) <= STABLE_RATIO * min(ms) for ms in zip(*last, strict=True))


def _run_ms(loaded: LoadedModel, batch_size: int, seed: int, device: torch.device) -> float:
    synchronize(device)
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        sample_at_once(loaded, batch_size, seed)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)
    start = time.perf_counter()
    sample_at_once(loaded, batch_size, seed)
    synchronize(device)
    return (time.perf_counter() - start) * 1000.0


def sample_at_once(loaded: LoadedModel, batch_size: int, seed: int) -> None:
    """Sample one batch of `batch_size` images; raise OutOfMemory if memory ran out and it was halved."""
    sampled = loaded.sample(batch_size, seed=seed, batch_size=batch_size)
    if sampled.batch_size != batch_size:
        raise OutOfMemory((batch_size,))
