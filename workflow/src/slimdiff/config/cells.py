"""Cells of the matrix, and the folder of each run below results/."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASELINE = "baseline"  # the recipe that all others are compared with


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the matrix."""

    dataset: str
    model: str
    optimization: str
    seed: int

    @property
    def path(self) -> str:
        """DATASET/MODEL/OPTIMIZATION/seedN: the cell's name, and its folder below results/cells."""
        return run_path(self.dataset, self.model, self.optimization, self.seed)


def run_path(dataset: str, model: str, name: str, seed: int | str) -> str:
    """Return DATASET/MODEL/NAME/seedN, where `name` is a training or an optimization."""
    return f"{dataset}/{model}/{name}/seed{seed}"


def expand(matrix: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Return the cells of `matrix` (the config's list) in its order."""
    return [
        Cell(entry["dataset"], entry["model"], optimization, seed)
        for entry in matrix
        for optimization in entry["optimizations"]
        for seed in entry["seeds"]
    ]
