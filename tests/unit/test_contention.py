"""Other processes during a measurement: exact arithmetic on given counters, and real processes on one core."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import write_small_model

from slimdiff.profiling import contention as module
from slimdiff.profiling import profile as profiling
from slimdiff.profiling.contention import Contention, Counters, Watch, contention, read_counters
from slimdiff.profiling.latency import Latencies

CPU = torch.device("cpu")
SETTINGS = {"batch_size": 16, "repeats": 10, "warmup": 1, "seed": 0}
TICKS_S = 1 / os.sysconf("SC_CLK_TCK")
STAT = """cpu  9 9 9 9 9 9 9 9 9 9
cpu0 100 20 30 1000 7 4 5 6 50 0
cpu1 200 0 10 2000 0 0 0 1 0 0
cpu2 900 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


@pytest.mark.parametrize(
    ("cores", "needed", "busy", "stolen", "own", "percent"),
    [
        (2, 2, 20.0, 0.0, 20.0, 0.0),
        (2, 2, 20.0, 0.0, 16.0, 20.0),
        (2, 2, 16.0, 4.0, 16.0, 20.0),  # the host of a virtual machine
        (2, 2, 19.9, 0.0, 20.0, 0.0),  # rounding
        (16, 2, 160.0, 0.0, 20.0, 0.0),  # 14 others in parallel, on cores that are free
        (16, 2, 160.0, 0.0, 10.0, 50.0),
        (16, 1, 155.0, 0.0, 10.0, 0.0),  # a GPU's process
        (2, 8, 20.0, 0.0, 15.0, 25.0),  # more threads than cores
    ],
)
def test_only_use_beyond_the_free_cores_counts(cores, needed, busy, stolen, own, percent):
    before = Counters(at=5.0, cores=cores, counted=1000.0, busy=300.0, stolen=7.0, own=2.0)
    after = Counters(15.0, cores, 1000.0 + 10 * cores, 300.0 + busy, 7.0 + stolen, 2.0 + own)
    found = contention(before, after, needed)
    assert found.percent == pytest.approx(percent)
    assert found.disturbs == (percent > module.TOLERATED_PCT)


def test_counters_are_those_of_the_cores_that_the_process_may_use(tmp_path, monkeypatch):
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(module, "STAT", tmp_path / "stat")
    monkeypatch.setattr(module, "PROCESSES", tmp_path)  # this process may have children that run
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    found = read_counters()
    assert found.cores == 2
    assert found.busy == pytest.approx((100 + 20 + 30 + 4 + 5 + 200 + 10) * TICKS_S)
    assert found.stolen == pytest.approx(7 * TICKS_S)
    assert found.counted == pytest.approx((100 + 20 + 30 + 1000 + 7 + 4 + 5 + 6 + 200 + 10 + 2000 + 1) * TICKS_S)
    assert found.own == pytest.approx(time.process_time() + sum(os.times()[2:4]), abs=0.2)


def test_without_figures_nothing_is_called_disturbed(tmp_path, monkeypatch):
    """A system without the file, one whose counters stand still, and runs that are too short."""
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(module, "STAT", tmp_path / "stat")
    assert contention(read_counters(), read_counters(), 1) is None
    monkeypatch.setattr(module, "STAT", tmp_path / "none")
    assert read_counters() is None
    assert contention(None, None, 1) is None
    short = Contention(0.09, 0.1, 0.1)
    assert short.percent is short.disturbs is None
    assert (short + Contention(0.0, 0.8, 0.8)).percent == pytest.approx(10.0)
    path = tmp_path / "model.safetensors"
    write_small_model(path, "ncsn")
    found = profiling.profile(path, SETTINGS, CPU)
    assert found["other_cpu_pct"] is found["disturbed"] is None
    assert found["inference_ms_per_image"] > 0


def timings(*percents: float | None) -> Callable[[], Latencies]:
    runs = iter([None if percent is None else Contention(percent / 100, 1.0, 1.0) for percent in percents])
    return lambda: Latencies((1.0,), (), next(runs))


@pytest.mark.parametrize(
    ("percents", "kept"),
    [((3.0,), 3.0), ((30.0, 3.0), 3.0), ((30.0, 60.0), 30.0), ((60.0, 30.0), 30.0), ((None,), None)],
)
def test_a_disturbed_timing_is_repeated_once(percents, kept):
    found = profiling._least_disturbed(timings(*percents)).contention
    assert (found and found.percent) == (kept and pytest.approx(kept))


def test_a_profile_says_what_others_took(tmp_path, monkeypatch):
    """Half of the only core, in each of the two readings around the timed rounds of batches and of single images."""
    path = tmp_path / "model.safetensors"
    write_small_model(path, "ncsn")
    ticks, timings, stop = iter(range(1, 1000)), [], Watch.stop

    def read() -> Counters:
        n = float(next(ticks))
        return Counters(at=n, cores=1, counted=n, busy=n, stolen=0.0, own=0.5 * n)

    monkeypatch.setattr(module, "read_counters", read)
    monkeypatch.setattr(Watch, "stop", lambda self: timings.append(None) or stop(self))
    found = profiling.profile(path, {**SETTINGS, "repeats": 2}, CPU)
    assert (found["other_cpu_pct"], found["disturbed"]) == (pytest.approx(50.0), True)
    assert len(timings) == 2 * profiling.TRIES


@pytest.mark.parametrize(
    ("batch", "single", "percent"),
    [
        ((0.2, 10.0), (0.3, 1.0), 30.0),  # a burst during the short timing: 5 % of both
        ((3.0, 10.0), (0.0, 1.0), 30.0),
        ((0.2, 10.0), (0.05, 0.1), 100 * 0.25 / 10.1),  # too short to tell alone
        ((0.05, 0.1), (0.05, 0.1), 50.0),
        ((0.05, 0.1), (0.01, 0.05), None),
        ((0.2, 10.0), None, None),
    ],
)
def test_one_disturbed_timing_is_enough(batch, single, percent):
    parts = [None if part is None else Contention(*part, part[1]) for part in (batch, single)]
    assert profiling._others_pct(*parts) == (None if percent is None else pytest.approx(percent))


def read_from(monkeypatch: pytest.MonkeyPatch, *readings: tuple[float, float]) -> None:
    """Let the counters show these (seconds, processor time of others) on four cores, one after the other."""
    known = [Counters(at, 4, 4 * at, others + at, 0.0, at) for at, others in readings]
    clock = iter(at for at, _ in readings[1:])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module, "read_counters", iter(known).__next__)


@pytest.mark.parametrize(
    ("others", "percent"),
    [
        ((0.0, 0.0, 0.0), 0.0),
        ((3.0, 3.0, 3.0), 0.0),  # on the three cores that the measurement leaves free
        ((0.0, 4.0, 0.0), 100 / 3),  # the burst needs all four; a mean of 4/3 would hide it
        ((4.0, 4.0, 4.0), 100.0),
    ],
)
def test_idle_time_does_not_make_up_for_a_burst(others, percent, monkeypatch):
    ends = [sum(others[:n]) for n in range(4)]
    read_from(monkeypatch, *((float(n), end) for n, end in enumerate(ends)))
    watch = Watch(needed=1)
    watch.look()
    watch.look()
    assert watch.stop().percent == pytest.approx(percent)


def test_short_intervals_are_not_ended(monkeypatch):
    """Rounds of 0.1 s end every second interval, and a short last one belongs to the one before."""
    read_from(monkeypatch, (0.0, 0.0), (0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.35, 0.35))
    taken = iter([Counters(at, 1, at, at, 0.0, 0.5 * at) for at in (0.0, 0.2, 0.35)])
    read: list[float] = []

    def counters() -> Counters:
        read.append(0.0)
        return next(taken)

    monkeypatch.setattr(module, "read_counters", counters)
    watch = Watch(needed=1)
    watch.look()
    watch.look()
    watch.look()
    assert len(read) == 2
    found = watch.stop()
    assert (found.wall_s, found.percent) == (pytest.approx(0.35), pytest.approx(50.0))


def test_own_time_is_that_of_compilers_too():
    """A child and its child compute: they count while they run, and once when they have ended."""
    script = "import subprocess, sys; [subprocess.run([sys.executable, '-S', '-c', {!r}]) for _ in range(2)]"
    busy = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    before, start, own = read_counters(), os.times(), []
    with subprocess.Popen([sys.executable, "-S", "-c", script.format(busy)]) as child:
        while child.poll() is None:
            own.append(read_counters().own)
            time.sleep(0.05)
    used = os.times()
    own.append(read_counters().own)
    assert all(earlier <= later + 2 * TICKS_S for earlier, later in itertools.pairwise(own))
    assert own[-1] - before.own == pytest.approx(sum(used[:4]) - sum(start[:4]), abs=0.1)
    assert own[-1] - before.own > 0.6
    assert own[-2] - before.own > 0.3, "the first grandchild, before the child was waited for"


@contextlib.contextmanager
def foreign_process() -> Iterator[None]:
    """Compute in a process that is no descendant of this one: its parent has ended."""
    program = [sys.executable, "-S", "-c", "while True: pass"]
    starter = f"import subprocess as s; print(s.Popen({program!r}, stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    pid = int(subprocess.check_output([sys.executable, "-c", starter], timeout=60))
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def one_core() -> Iterator[None]:
    """Keep this thread, and processes that it starts, on one core."""
    if not Path("/proc/thread-self/schedstat").exists():
        pytest.skip("this system does not say how long a thread waits for a core")
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def waited(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of `run`, and in percent how long this thread was ready without running (proc_schedstat)."""

    def read() -> list[int]:
        return [int(text) for text in Path("/proc/thread-self/schedstat").read_text().split()[:2]]

    before = read()
    result = run()
    ran, waiting = (after - start for after, start in zip(read(), before, strict=True))
    return result, 100 * waiting / (ran + waiting)


def measure() -> Contention:
    before, end = read_counters(), time.monotonic() + 0.7
    while time.monotonic() < end:
        pass
    return contention(before, read_counters(), 1)


def test_a_process_on_the_same_core_disturbs(one_core, tmp_path):
    """On one core, what others take is what a busy thread waits, however busy the machine is otherwise."""
    path = tmp_path / "model.safetensors"
    write_small_model(path, "ncsn")
    alone, waiting = waited(measure)
    assert alone.percent == pytest.approx(waiting, abs=10.0)
    with foreign_process():
        shared, waiting = waited(measure)
        found = profiling.profile(path, SETTINGS, CPU)
    assert shared.percent == pytest.approx(waiting, abs=10.0)
    assert shared.percent > 30.0
    assert shared.disturbs
    assert found["disturbed"]
    assert found["other_cpu_pct"] > 30.0


def test_a_profile_alone_is_not_disturbed(one_core, tmp_path):
    path = tmp_path / "model.safetensors"
    write_small_model(path, "ncsn")
    for _ in range(5):
        found, waiting = waited(lambda: profiling.profile(path, SETTINGS, CPU))
        if waiting < 5.0:
            break
    else:
        pytest.skip(f"other processes of this machine kept the test waiting {waiting:.0f} % of the time")
    assert not found["disturbed"]
    assert found["other_cpu_pct"] <= module.TOLERATED_PCT
