"""How much of the processor cores that a measurement needs other processes take, by Linux's counters.

Interleaving (slimdiff.profiling.latency) cancels a steady load. A load that comes and goes does not cancel: the more of
the cores others take, the further a speedup may be from that of an idle machine (docs/decisions).

Others may use the cores that a measurement leaves free. They take what exceeds these, in each interval of at least
SHORTEST_S: idle time before a burst does not make up for it.
"""

import functools
import itertools
import operator
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TOLERATED_PCT = 10.0  # of the needed cores; up to here the error of a speedup stays below 10 % (docs/decisions)
SHORTEST_S = 0.2  # the kernel counts in steps of 10 ms, which is too coarse for less
STAT = Path("/proc/stat")
PROCESSES = Path("/proc")
# Fields of a process's stat (proc_pid_stat(5)) after its name: utime, stime, cutime, cstime
PARENT, TIMES = 1, slice(11, 15)
# Fields of a processor's line in STAT (proc_stat(5)), after its name. Time of guests is part of that of users.
USER, NICE, SYSTEM, IDLE, IOWAIT, IRQ, SOFTIRQ, STEAL = range(8)
BUSY = (USER, NICE, SYSTEM, IRQ, SOFTIRQ)


@dataclass(frozen=True)
class Counters:
    """Seconds since the start of the system (`busy`, `stolen`) or of the process (`own`)."""

    at: float  # a clock
    cores: int  # that the process may run on
    counted: float  # by all of these cores, idle time included
    busy: float  # processor time of every process on these cores
    stolen: float  # time in which a virtual machine's host ran something else on them
    own: float  # processor time of this process and its descendants, of those that ended if their parents waited


@dataclass(frozen=True)
class Contention:
    """Use of the cores that a measurement needs by others."""

    taken_s: float  # processor time that others took beyond the cores that the measurement left free
    needed_s: float  # number of needed cores × wall time
    wall_s: float

    def __add__(self, other: "Contention") -> "Contention":
        """Return the contention over both measurements."""
        sums = (self.taken_s + other.taken_s, self.needed_s + other.needed_s, self.wall_s + other.wall_s)
        return Contention(*sums)

    @property
    def percent(self) -> float | None:
        """The share of the needed cores that others took, 0 to 100; None for measurements too short to tell."""
        return min(100.0, 100.0 * self.taken_s / self.needed_s) if self.wall_s >= SHORTEST_S else None

    @property
    def disturbs(self) -> bool | None:
        """Whether others took so much that times do not count; None for measurements too short to tell."""
        return None if self.percent is None else self.percent > TOLERATED_PCT


def read_counters() -> Counters | None:
    """Return the counters of now; None where the system has none."""
    if sys.platform != "linux":
        return None
    cores = os.sched_getaffinity(0)
    try:
        lines = [line.split() for line in STAT.read_text(encoding="ascii").splitlines()]
    except OSError:
        return None
    fields = [[int(text) for text in line[1:9]] for line in lines if line[0] in {f"cpu{core}" for core in cores}]
    if not fields:
        return None
    ticks = [sum(column) for column in zip(*fields, strict=True)]
    unit = 1.0 / os.sysconf("SC_CLK_TCK")
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Counters(
        at=time.monotonic(),
        cores=len(fields),
        counted=sum(ticks) * unit,
        busy=sum(ticks[field] for field in BUSY) * unit,
        stolen=ticks[STEAL] * unit,
        own=own + unit * _descendants_ticks(os.getpid()),
    )


def _descendants_ticks(pid: int) -> int:
    """Return the processor time of the living descendants of `pid`, such as compilers, and of children they waited for.

    RUSAGE_CHILDREN counts a child when it has ended, so the sum of both never jumps. In ticks of the kernel.
    """
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for path in PROCESSES.glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        own = int(path.parent.name)
        children.setdefault(int(fields[PARENT]), []).append(own)
        ticks[own] = sum(int(text) for text in fields[TIMES])
    below = list(children.get(pid, []))
    for child in below:  # grows while it runs
        below += children.get(child, [])
    return sum(ticks[child] for child in below)


def contention(before: Counters | None, after: Counters | None, needed: int) -> Contention | None:
    """Return what others took between two readings from a measurement that needs `needed` cores.

    On a machine with more cores, others may use the rest, in the mean over the interval. None where the system counts
    nothing, as some sandboxes do.
    """
    if before is None or after is None or after.counted == before.counted:
        return None
    wall, needed = after.at - before.at, min(needed, after.cores)
    others = (after.busy - before.busy) + (after.stolen - before.stolen) - (after.own - before.own)
    return Contention(max(0.0, others - (after.cores - needed) * wall), needed * wall, wall)


class Watch:
    """What others take from a measurement, from here to `stop`."""

    def __init__(self, needed: int) -> None:
        self._needed = needed  # cores
        self._readings = [read_counters()]

    def look(self) -> None:
        """End an interval here if it is at least SHORTEST_S long."""
        if self._is_long():
            self._readings.append(read_counters())

    def stop(self) -> Contention | None:
        """Return the sum over the intervals; a last one that is too short belongs to the one before. None: unknown."""
        if len(self._readings) > 1 and not self._is_long():
            self._readings.pop()
        ends = itertools.pairwise([*self._readings, read_counters()])
        found = [contention(before, after, self._needed) for before, after in ends]
        known = [each for each in found if each is not None]
        return functools.reduce(operator.add, known) if len(known) == len(found) else None

    def _is_long(self) -> bool:
        last = self._readings[-1]
        return last is not None and time.monotonic() - last.at >= SHORTEST_S
