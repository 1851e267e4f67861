"""Energy per image by counters of the hardware: NVML's of a GPU, RAPL's of the processor packages. Never an estimate.

Both count the whole device, its idle power and other processes included.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")  # Linux: intel-rapl, of AMD's processors too
ZONE = re.compile(r"intel-rapl:\d+")  # without subzones, which are parts of a package
SHORTEST_S = 2.0  # NVML's counter moves every 0.1 s at worst, so this is 5 % at most
MOST_W = 1000.0  # of a processor package: its counter overflows in a minute at the earliest


class Counter(Protocol):
    """A counter of energy."""

    source: str

    def joules(self) -> float | None:
        """Return the energy since some moment; None: unknown."""


class Rapl:
    """The sum over all processor packages, since this object was made.

    Args:
        zones: their folders in POWERCAP.
    """

    source = "rapl"

    def __init__(self, zones: list[Path]) -> None:
        self._ranges = {zone: _read(zone, "max_energy_range_uj") for zone in zones}
        self._last = {zone: _read(zone, "energy_uj") for zone in zones}
        self._total = 0  # microjoules
        self._read_at, self._complete = time.monotonic(), True

    def joules(self) -> float | None:
        """Return the energy; None once a counter was unreadable, or not read for so long that it may have overflowed
        twice."""
        try:
            now = {zone: _read(zone, "energy_uj") for zone in self._last}
        except OSError:
            return None
        at = time.monotonic()
        self._complete = self._complete and at - self._read_at < min(self._ranges.values()) / 1e6 / MOST_W
        self._total += sum((now[zone] - last) % self._ranges[zone] for zone, last in self._last.items())
        self._last, self._read_at = now, at
        return self._total / 1e6 if self._complete else None


def open_rapl(folder: Path = POWERCAP) -> Rapl | None:
    """Return the counters of this machine; None where it has none or hides one, as most systems do from users."""
    try:
        zones = [path for path in folder.iterdir() if ZONE.fullmatch(path.name)]
        packages = [zone for zone in zones if (zone / "name").read_text(encoding="ascii").startswith("package")]
        return Rapl(packages) if packages else None
    except OSError:
        return None


def joules_per_image(counter: Counter, sample: Callable[[], None], images: int) -> float | None:
    """Return the energy of calling `sample`, which makes `images` images, for SHORTEST_S or once.

    None if the counter stands still or fails.
    """
    first, start, runs = counter.joules(), time.perf_counter(), 0
    last = first
    while not runs or time.perf_counter() - start < SHORTEST_S:
        sample()
        runs += 1
        last = counter.joules()
    if first is None or last is None or last <= first:
        return None
    return (last - first) / (runs * images)


def _read(zone: Path, name: str) -> int:
    return int((zone / name).read_text(encoding="ascii"))
