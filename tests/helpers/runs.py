"""Runs for tests of clusters: two tiny cells, in clones that can be slowed down."""

from pathlib import Path

from clones import STAGE_FORKS, clone, with_site

PRESETS = ("--configfile", "config/smoke.yaml", "cells.yaml")
CELLS = """\
matrix:
  - {dataset: digits, model: ncsn, optimizations: [baseline, l1-30], seeds: [0]}
"""
# In addition to the profile: this Slurm answers at once, so its first status check can be early.
PROFILE = ("--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2")

TRAINING = Path("results/train/digits/ncsn/plain/seed0")
STATE = Path("results/state/train/digits/ncsn/plain/seed0/state.safetensors")
LOG = Path("results/logs/train/digits/ncsn/plain/seed0.log")


def prepared(target: Path) -> Path:
    """Return a clone that requests these cells and can be slowed down; its stages may be forks (stage_forks.py)."""
    folder = clone(target)
    (folder / "cells.yaml").write_text(CELLS, encoding="utf-8")
    return with_site(folder, Path(__file__).with_name("slow.py"), STAGE_FORKS)


def on_node(*options: str) -> tuple[str, str]:
    """Return arguments that pass options of sbatch to every job."""
    return "--default-resources", f"slurm_extra='{' '.join(options)}'"


def text_of(path: Path) -> str:
    """Return the text of the file so far; empty if the file is missing."""
    return path.read_text(encoding="utf-8") if path.exists() else ""
