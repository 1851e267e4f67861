"""Interleaved measurements of pairs, and the file of their ratios.

Only ratios are comparable between machines, and only if both sides take turns, since machines are noisy.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from slimdiff.io.files import write_json
from slimdiff.runtime.devices import describe_device


def interleaved(first: Callable[[], float], second: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Call both alternately; return the medians, and the ratio second / first with its range over the rounds."""
    pairs = [(first(), second()) for _ in range(rounds)]
    ratios = [b / a for a, b in pairs]
    return {
        "first": statistics.median(a for a, _ in pairs),
        "second": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "rounds": rounds,
    }


def record(name: str, measured: dict[str, Any], threads: int) -> None:
    """Print `measured`, and add it as `name` to the file that --out names."""
    arguments = argparse.ArgumentParser(description="A side-by-side speed measurement.")
    arguments.add_argument("--out", type=Path, required=True, help="JSON file that collects the benchmarks")
    keep(arguments.parse_args().out, name, measured, threads)
    print(json.dumps({name: measured}, indent=1))


def keep(out: Path, name: str, measured: dict[str, Any], threads: int) -> None:
    """Add `measured` as `name` to the file `out`."""
    entries = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    entry = {**measured, **describe_device(torch.device("cpu"), threads)}
    entries[name] = {**entry, "measured_at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_json(out, entries)
