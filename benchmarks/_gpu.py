"""Run the parts of benchmarks/gpu.sh in order of worth, each within its limit, and write what they found as it comes.

The parts are processes, so that one that hangs or crashes costs itself alone. This one never touches the device: with a
context of its own it would be the other process that disturbs the profiles.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimdiff import __version__
from slimdiff.io.files import read_json, write_json, write_text

ROOT = Path(__file__).parents[1]
GRACE_S = 15.0  # to save a training, after SIGTERM
PATIENCE = 10  # factor on the limits of dry parts, which only a busy machine needs
SHORTEST_S = 5.0  # of a part that is worth its start
OWN = str(Path(__file__).with_name("_gpu_parts.py"))
TESTS = ["-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider"]
SNAKEMAKE = ["-m", "snakemake", "--cores", "all", "--resources", "gpu=1"]
CLONE = "clone"  # in the folder of the results
CLONED = ("Snakefile", "config.yaml", "config", "envs", "profiles", "workflow")
# Columns of a cell's row on the page.
SHOWN = ("fid_indomain", "train_s", "inference_ms_per_image", "speedup", "gpu_allocated_bytes", "energy_j_per_image")

Found = dict[str, dict[str, Any]]  # line of a table → its numbers and words


def outcomes(out: Path, log: str) -> Found:
    """Count the tests that pytest has finished, in a log that may be cut off."""
    words = re.findall(r"^\S+::.* (PASSED|FAILED|SKIPPED|ERROR)\b", log, re.MULTILINE)
    return {"tests": {word.lower(): words.count(word) for word in dict.fromkeys(words)}} if words else {}


def cells(out: Path, log: str) -> Found:
    """Return Snakemake's jobs, and the rows of the cells that are finished; of a dry run, the planned jobs."""
    if planned := re.search(r"^total +(\d+)$", log, re.MULTILINE):
        return {"jobs": {"planned": int(planned[1])}}
    jobs = re.findall(r"(\d+) of (\d+) steps", log)
    found: Found = {"jobs": {"done": int(jobs[-1][0]), "of": int(jobs[-1][1])}} if jobs else {}
    folder = out / CLONE / "results" / "cells"
    for path in sorted(folder.glob("*/*/*/*/row.json")):
        row = read_json(path)
        found["/".join(path.relative_to(folder).parts[:-1])] = {name: row[name] for name in SHOWN}
    return found


def clone(folder: Path) -> None:
    """Make a fresh clone that shares ROOT's data: the user's results and locks are left alone, and no cell is old."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in CLONED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    (ROOT / "data").mkdir(exist_ok=True)
    (folder / "data").symlink_to(ROOT / "data")


def own_file(name: str) -> Callable[[Path, str], Found]:
    """Return a function that reads the results that the part `name` of _gpu_parts.py has written so far."""

    def read(out: Path, log: str) -> Found:
        path = out / f"{name}.json"
        return read_json(path) if path.exists() else {}

    return read


@dataclass(frozen=True)
class Part:
    """A part of the ten minutes."""

    name: str
    title: str
    limit_s: float
    command: list[str]
    dry: list[str]
    read: Callable[[Path, str], Found]
    folder: str = ""  # where it runs: one in the folder of the results; empty: ROOT


def measured(name: str, title: str, limit_s: float) -> Part:
    """Return a part of _gpu_parts.py."""
    return Part(name, title, limit_s, [OWN, name], [OWN, name, "--dry"], own_file(name))


PARTS = (
    measured("machine", "Machine", 20),
    Part(
        *("tests", "Tests marked gpu", 110),
        [*TESTS, "tests/unit", "tests/numerics"],
        [*TESTS, "tests/unit/test_on_gpus.py"],
        outcomes,
    ),
    Part("default", "Default run", 160, SNAKEMAKE, [*SNAKEMAKE, "--dry-run", "--quiet", "rules"], cells, CLONE),
    measured("unet", "The paper's U-Net at 64×64", 130),
    measured("bitsandbytes", "bitsandbytes against the CPU's emulation", 20),
    measured("training", "A training of config/paper-short.yaml", 70),
    measured("engines", "A profile of each engine", 90),
)


def run(part: Part, out: Path, limit_s: float, dry: bool) -> dict[str, Any]:
    """Run a part for `limit_s` seconds at most; return its status, its seconds and what it found."""
    command, start = part.dry if dry else part.command, time.monotonic()
    options = ["--out", str(out / f"{part.name}.json")] if OWN in command else []
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if dry else {})
    path = out / f"{part.name}.log"
    folder = out / part.folder if part.folder else ROOT
    if part.folder:
        clone(folder)
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command, *options],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,  # with all that it starts
        )
        try:
            code = process.wait(limit_s)
            status = "ok" if code == 0 else f"failed: exit status {code}"
        except subprocess.TimeoutExpired:
            status = f"cut off after {limit_s:.0f} s"
            end(process)
        except BaseException:  # Ctrl-C does not reach its session
            end(process)
            raise
        finally:  # children that it left behind would keep the device
            kill(process, signal.SIGKILL)
    text = path.read_text(encoding="utf-8", errors="replace")
    if status.startswith("failed") and text.strip():
        status += f", {text.strip().splitlines()[-1][:200]}"
    return {"status": status, "s": round(time.monotonic() - start, 1), "found": part.read(out, text)}


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a part and its children, after time to save."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        kill(process, number)
        try:
            process.wait(GRACE_S)
            return
        except subprocess.TimeoutExpired:
            continue


def kill(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to a part and its children, if any is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def page(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    machine = report["parts"]["machine"]["found"].get("machine", {})
    lines = [
        f"# {machine.get('gpu_model') or machine.get('cpu_model') or 'No device'}",
        "",
        f"`bash benchmarks/gpu.sh{' --dry' if report['dry'] else ''}`, slimdiff {report['slimdiff']}, commit "
        f"{report['commit']}, {report['started_at']}. [gpu.json](gpu.json) holds all numbers.",
    ]
    for part in PARTS:
        done = report["parts"].get(part.name)
        if done is None:
            continue
        lines += ["", f"## {part.title}", "", f"{done['status']}, {done['s']} s", *table(done["found"])]
    return "\n".join(lines) + "\n"


def table(found: Found) -> list[str]:
    """Return the lines of a table, with a column for each number that some line has."""
    columns = list(dict.fromkeys(name for values in found.values() for name in values))
    if not columns:
        return []
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[name, *(shown(values.get(column)) for column in columns)] for name, values in found.items()]
    return ["", *(f"| {' | '.join(row)} |" for row in rows)]


def shown(value: Any) -> str:
    """Return a number with four digits, and anything else as text."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def commit() -> str:
    """Return the commit of ROOT, with -dirty if its files differ; without git or a repository, unknown."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return described.stdout.strip() or "unknown"


def main() -> int:
    """Run all parts; return 1 if one failed, and 2 without a device."""
    arguments = argparse.ArgumentParser(description="Measure a CUDA device, or with --dry the script itself on a CPU.")
    arguments.add_argument("--dry", action="store_true", help="every part on tiny input on the CPU")
    arguments.add_argument("--out", type=Path, default=ROOT / "results" / "gpu", help="folder (default: results/gpu)")
    arguments.add_argument("--minutes", type=float, default=10.0, help="for all parts together (default: 10)")
    given = arguments.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("gpu.json", "README.md", *(f"{part.name}.json" for part in PARTS)):  # of an earlier run
        (out / name).unlink(missing_ok=True)
    report: dict[str, Any] = {
        "slimdiff": __version__,
        "commit": commit(),
        "dry": given.dry,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "parts": {},
    }
    patience = PATIENCE if given.dry else 1
    deadline = time.monotonic() + 60.0 * given.minutes * patience
    for part in PARTS:
        left = deadline - time.monotonic()
        if left < SHORTEST_S:
            done: dict[str, Any] = {"status": "left out: no time was left", "s": 0.0, "found": {}}
        else:
            done = run(part, out, min(part.limit_s * patience, left), given.dry)
        report["parts"][part.name] = done
        write_json(out / "gpu.json", report)
        write_text(out / "README.md", page(report))
        print(f"{part.name}: {done['status']}, {done['s']} s; {json.dumps(done['found'])[:200]}", flush=True)
        if part.name == "machine" and done["status"].startswith("failed"):
            print(f"error: see {out / 'machine.log'}", file=sys.stderr)
            return 2
    return int(any(done["status"].startswith("failed") for done in report["parts"].values()))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the running part, too
    sys.exit(main())
