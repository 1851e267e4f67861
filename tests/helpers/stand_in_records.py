"""Stub stages up to `profile`, whose records make real rows; some jobs are killed, as by the kernel.

Tests copy this file into a clone as sitecustomize.py, like stand_in.py; `row` and `aggregate` are real.
$KILLED lists jobs as STAGE:PART, with a part of their paths; they kill themselves, as the kernel does without memory.
$HELD lists jobs in the same way that wait for the file $GO, so that a test can inspect a run in progress.
"""

import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

REAL = ("row", "aggregate")


def named(variable: str, stage: str, words: list[str]) -> bool:
    jobs = [job.partition(":") for job in os.environ.get(variable, "").split()]
    return any(name == stage and any(part in word for word in words) for name, _, part in jobs)


def main(stage: str, words: list[str]) -> None:
    if named("KILLED", stage, words):
        print(f"{stage} goes on and on", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    while named("HELD", stage, words) and not Path(os.environ["GO"]).exists():
        time.sleep(0.05)
    if stage in REAL:
        return
    record = {
        "status": "ok",
        "reason": "",
        "fid_indomain": 12.5,
        "fid_indomain_pct": 2.5,
        "started_at": "2026-11-23T10:00:00+00:00",
    }
    given = dict(pairwise(words))
    record |= {key: given[f"--{key}"] for key in ("identity", "code") if f"--{key}" in given}
    if "--settings" in given:
        record["settings"] = json.loads(given["--settings"])
    outputs = [Path(value) for key, value in pairwise(words) if key.startswith("--out")]
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "samples.npz":
            import numpy as np

            from slimdiff.io.samples import Samples, write_samples

            images = np.full((4, 1, 8, 8), 7, np.uint8)
            write_samples(path, Samples(images, np.zeros(0, np.int64), ("a",), sampler={}, network_evaluations=1.0))
        else:
            path.write_text(json.dumps(record if path.suffix == ".json" else str(path)))
    os._exit(0)


stage_module = next((word for word in sys.orig_argv if word.startswith("slimdiff.stages.")), None)
if stage_module is not None:
    main(stage_module.rpartition(".")[2], sys.orig_argv)
