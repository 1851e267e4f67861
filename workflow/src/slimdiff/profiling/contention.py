"""How much of the processor cores that a measurement needs other processes take, by Linux's counters.

Interleaving (slimdiff.profiling.latency) cancels a steady load. A load that comes and goes does not cancel: the more of
the cores others take, the further a speedup may be from that of an idle machine (docs/decisions).
"""

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TOLERATED_PCT = 10.0  # of the needed cores; up to here the error of a speedup stays below 10 % (docs/decisions)
SHORTEST_S = 0.2  # the kernel counts in steps of 10 ms, which is too coarse for less
STAT = Path("/proc/stat")
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
    own: float  # processor time of this process, and of its children that have ended


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
    return Counters(
        at=time.monotonic(),
        cores=len(fields),
        counted=sum(ticks) * unit,
        busy=sum(ticks[field] for field in BUSY) * unit,
        stolen=ticks[STEAL] * unit,
        own=sum(usage.ru_utime + usage.ru_stime for usage in usages),
    )


def contention(before: Counters | None, after: Counters | None, needed: int) -> Contention | None:
    """Return what others took between two readings from a measurement that needs `needed` cores.

    On a machine with more cores, others may use the rest. None where the system counts nothing, as some sandboxes do.
    """
    if before is None or after is None or after.counted == before.counted:
        return None
    wall, needed = after.at - before.at, min(needed, after.cores)
    others = (after.busy - before.busy) + (after.stolen - before.stolen) - (after.own - before.own)
    return Contention(max(0.0, others - (after.cores - needed) * wall), needed * wall, wall)
