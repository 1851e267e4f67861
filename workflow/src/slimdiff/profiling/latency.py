"""Two models timed in turns, so that whatever else this machine does slows both of them.

Wall times of one model taken minutes apart differ by more than most recipes change them; the ratio of two runs that
follow each other does not. Each round samples one batch from both, in alternating order, and gives one ratio.
"""

import statistics
import time
from dataclasses import dataclass

import torch

from slimdiff.inference.model import LoadedModel
from slimdiff.runtime.devices import synchronize
from slimdiff.runtime.memory import OutOfMemory


@dataclass(frozen=True)
class Latencies:
    """What the rounds measured."""

    ms: tuple[float, ...]  # wall time per image of the model, one for each round
    reference_ms: tuple[float, ...]  # of the reference; empty where there was none

    def median(self) -> float:
        """Median time per image, in milliseconds."""
        return statistics.median(self.ms)

    def spread(self) -> float:
        """Interquartile range of the times per image, in milliseconds; 0 after one round."""
        if len(self.ms) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.ms, n=4, method="inclusive")
        return high - low

    def speedups(self) -> list[float]:
        """How many times the model's speed is the reference's, of each round, ascending."""
        return sorted(reference / own for own, reference in zip(self.ms, self.reference_ms, strict=False))


def time_interleaved(
    model: LoadedModel,
    reference: LoadedModel | None,
    batch_size: int,
    repeats: int,
    warmup: int,
    seed: int,
    device: torch.device,
) -> Latencies:
    """Time the sampling of one batch: from drawing the noise to pixels on the CPU.

    Args:
        reference: timed in turns with `model`; None: `model` alone.
        batch_size: images per run.
        repeats: rounds that count.
        warmup: rounds before them that do not.

    Raises:
        OutOfMemory: there is no room for so many images at once; sampling fewer would be another measurement.
    """
    own: list[float] = []
    other: list[float] = []
    for entrant in (model, reference):
        if entrant is not None:
            entrant.prepare(batch_size)
    for turn in range(warmup + repeats):
        runners = [(model, own)] if reference is None else [(model, own), (reference, other)]
        for loaded, times in runners if turn % 2 else reversed(runners):
            ms = _run_ms(loaded, batch_size, seed, device) / batch_size
            if turn >= warmup:
                times.append(ms)
    return Latencies(tuple(own), tuple(other))


def _run_ms(loaded: LoadedModel, batch_size: int, seed: int, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    sample_at_once(loaded, batch_size, seed)
    synchronize(device)
    return (time.perf_counter() - start) * 1000.0


def sample_at_once(loaded: LoadedModel, batch_size: int, seed: int) -> None:
    """Sample one batch of `batch_size` images, or raise OutOfMemory where it had to be halved."""
    drawn = loaded.sample(batch_size, seed=seed, batch_size=batch_size)
    if drawn.batch_size != batch_size:
        raise OutOfMemory((batch_size,))
