"""Recipes that make a model smaller or faster while its images stay as good, by data set and model.

A smaller or faster recipe counts only inside the quality window: its images are equivalent to its reference's, or
better.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.comparisons import Difference
from slimdiff.analysis.decisions import BETTER, KEEPS, Margins
from slimdiff.analysis.derived import size_column
from slimdiff.analysis.measures import BASELINE, FID, KID, TIME
from slimdiff.analysis.statistics import Ratio, Recipe


@dataclass(frozen=True)
class RecipeComparison:
    """A recipe against its reference; ratios are recipe / reference."""

    name: str
    fid: Ratio
    kid: Ratio
    size: Ratio
    time: Ratio
    sizes: tuple[float, float]  # mean bytes of the recipe and of the baseline
    difference: Difference

    @property
    def smaller(self) -> bool:
        """Whether the file is smaller by more than the margin."""
        return self.difference.size.finding == BETTER

    @property
    def faster(self) -> bool:
        """Whether sampling is faster by more than the margin."""
        return self.difference.speed.finding == BETTER

    @property
    def keeps_images(self) -> bool:
        """Whether the images are equivalent or better."""
        return self.difference.images.finding in KEEPS


@dataclass(frozen=True)
class Group:
    """A data set and a model: its baseline, and every other recipe with a FID."""

    name: str
    baseline_fid: float
    comparisons: tuple[RecipeComparison, ...]
    size_column: str  # in which files are compared
    tolerance: float  # ratio of times below which no recipe is faster
    quality: float  # margin of equivalence of FID ratios

    def smallest(self) -> RecipeComparison | None:
        """Return the smallest recipe that keeps its images, else see `_best`."""
        return self._best([comparison for comparison in self.comparisons if comparison.smaller], "size")

    def fastest(self) -> RecipeComparison | None:
        """Return the fastest recipe that keeps its images, else see `_best`."""
        return self._best([comparison for comparison in self.comparisons if comparison.faster], "time")

    def _best(self, candidates: list[RecipeComparison], cost: str) -> RecipeComparison | None:
        """Return the cheapest candidate that keeps its images.

        Without one: the cheapest whose mean FID is within the margin; without that, the one with the lowest FID.
        """
        keeping = [candidate for candidate in candidates if candidate.keeps_images]
        near = [candidate for candidate in candidates if candidate.fid.mean <= self.quality]
        if keeping or near:
            return min(keeping or near, key=lambda candidate: getattr(candidate, cost).mean)
        return min((c for c in candidates if c.fid.n), key=lambda candidate: candidate.fid.mean, default=None)


def group(
    frame: pd.DataFrame,
    ratios: Mapping[str, Mapping[Recipe, Ratio]],
    differences: Mapping[Recipe, Difference],
    margins: Margins,
    speed_margins: Mapping[tuple[str, str], float],
) -> tuple[Group, ...]:
    """Return one group per data set and model whose baseline has a FID, in the order of the matrix.

    Args:
        frame: `derived.derive` of the matrix.
        ratios: `comparisons.COLUMNS` → recipe → its ratio to its reference.
        differences: `comparisons.compare` with these ratios.
        speed_margins: `derived.speed_margins` of the matrix.
    """
    fids = statistics.by_recipe(frame, FID.column)
    several = frame["dataset"].nunique() > 1
    groups = []
    for dataset, model in frame[["dataset", "model"]].drop_duplicates().itertuples(index=False):
        baseline = (dataset, model, BASELINE)
        if baseline not in fids or not fids[baseline].n:
            continue
        column = size_column(frame, dataset, model)
        sizes = statistics.by_recipe(frame, column)
        comparisons = tuple(
            RecipeComparison(
                name=recipe[2],
                fid=ratios[FID.column].get(recipe, Ratio()),
                kid=ratios[KID.column].get(recipe, Ratio()),
                size=ratios[column].get(recipe, Ratio()),
                time=ratios[TIME.column].get(recipe, Ratio()),
                sizes=(sizes[recipe].mean, sizes[baseline].mean),
                difference=differences[recipe],
            )
            for recipe in fids
            if recipe[:2] == baseline[:2] and recipe != baseline and fids[recipe].n
        )
        tolerance = speed_margins[dataset, model]
        name = f"{model} on {dataset}" if several else str(model)
        groups.append(Group(name, fids[baseline].mean, comparisons, column, tolerance, margins.of_equivalence(dataset)))
    return tuple(groups)
