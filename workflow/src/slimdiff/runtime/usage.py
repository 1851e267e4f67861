"""What a process used, by the kernel's account.

Snakemake's `benchmark` asks every 30 seconds: of a job of 43 seconds it counted 15 of processor time.
"""

import os
import resource
import sys
import time
from pathlib import Path

STARTED = time.monotonic()
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes, of ru_maxrss


def read() -> dict[str, float]:
    """Return what this process has used so far, under Snakemake's names.

    Keys: `s`, seconds since it started; `cpu_time`, seconds of processor time, of ended child processes too; `max_rss`,
    peak memory in MB of the process or of its largest ended child, in a fork with all that its server imported.
    """
    kinds = [resource.getrusage(kind) for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "s": round(_seconds(), 2),
        "cpu_time": round(sum(kind.ru_utime + kind.ru_stime for kind in kinds), 2),
        "max_rss": round(max(kind.ru_maxrss for kind in kinds) * MAXRSS_UNIT / 2**20, 2),
    }


def _seconds() -> float:
    """Return the time since the process started; where the kernel does not tell, since this module was imported."""
    if sys.platform != "linux":
        return time.monotonic() - STARTED
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    ticks = int(fields[19])  # field 22 of proc(5), since boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
