"""Slows down a clone's trainings, so that they can be disturbed on a machine of any speed.

Copied into a clone's package folder as sitecustomize.py, which every Python imports at its start. While a file named
`slow` exists in the clone, each step of a training takes longer by the seconds in it, or by two if it is empty; its
results stay the same. A training never is a fork (stage_forks.py), so that tests can kill it.
"""

import os
import sys
import time
from pathlib import Path

if "slimdiff.stages.train" in sys.orig_argv:
    from slimdiff.training import optimizers

    of_step = optimizers.learning_rate_factor

    def slowly(schedule: str, step: int, steps: int) -> float:
        """Return the factor of the learning rate, after a delay."""
        if Path("slow").exists():
            time.sleep(float(Path("slow").read_text(encoding="utf-8") or 2.0))
        return of_step(schedule, step, steps)

    optimizers.learning_rate_factor = slowly
    os.environ.pop("STAGE_FORKS", None)
