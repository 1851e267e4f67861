"""Interleaved timing of models, with a simulated clock."""

from dataclasses import dataclass, field

import pytest
import torch

from slimdiff.inference.sampling import Sampled
from slimdiff.profiling import latency
from slimdiff.profiling.latency import time_interleaved

CPU = torch.device("cpu")


@dataclass
class Clock:
    """A clock that advances only during sampling; `load` is the machine's other load, by run."""

    now: float = 0.0
    runs: int = 0
    load: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now


@dataclass
class Model:
    """A model that takes `s` seconds per image on an idle machine."""

    clock: Clock
    s: float
    turns: list[str]
    name: str = "model"

    def prepare(self, batch_size: int) -> None:
        """Compiling is not timed."""
        self.clock.now += 1000.0

    def sample(self, n: int, seed: int, batch_size: int) -> Sampled:
        assert n == batch_size
        slowed = self.clock.load[self.clock.runs] if self.clock.load else 1.0
        self.clock.now += self.s * n * slowed
        self.clock.runs += 1
        self.turns.append(self.name)
        return Sampled(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), 1.0, "", batch_size=batch_size)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", made)
    return made


def test_models_are_timed_alternately_and_the_order_alternates(clock):
    turns = []
    found = time_interleaved(Model(clock, 0.01, turns, "a"), Model(clock, 0.04, turns, "b"), 10, 3, 1, 0, CPU)
    assert "".join(turns) == "baabbaab"
    assert found.ms == pytest.approx((10.0, 10.0, 10.0))
    assert found.speedups() == pytest.approx([4.0, 4.0, 4.0])
    assert (found.median(), found.spread()) == pytest.approx((10.0, 0.0))


def test_a_slower_machine_changes_the_times_but_not_the_ratios(clock):
    """Each round has its own load: times differ threefold, while the ratio equals that of an idle machine."""
    clock.load = [load for load in (9.0, 1.0, 2.0, 3.0) for _ in range(2)]
    found = time_interleaved(Model(clock, 0.01, []), Model(clock, 0.02, []), 1, 3, 1, 0, CPU)
    assert found.ms == pytest.approx((10.0, 20.0, 30.0))  # the warm-up round is not counted
    assert found.speedups() == pytest.approx([2.0, 2.0, 2.0])
    assert (found.median(), found.spread()) == pytest.approx((20.0, 10.0))


def test_without_a_baseline_there_are_times_but_no_ratios(clock):
    found = time_interleaved(Model(clock, 0.01, []), None, 1, 1, 0, 0, CPU)
    assert (found.median(), found.spread(), found.speedups()) == (pytest.approx(10.0), 0.0, [])
