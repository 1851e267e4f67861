"""Findings on recipes: better, worse, equivalent, unresolved or disturbed. docs/claims.md explains the rules.

Each recipe is compared with its reference over the same seeds. A ratio below 1 is better.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from slimdiff.analysis.statistics import ALPHA, Ratio, Recipe, benjamini_hochberg, equivalence_p

BETTER, WORSE, EQUIVALENT, UNRESOLVED, DISTURBED = FINDINGS = (
    *("better", "worse", "equivalent", "unresolved", "disturbed"),
)
# Why a recipe has no finding: it is the reference itself, every seed failed, and so on.
IS_REFERENCE, FAILED, NO_REFERENCE, NO_VALUE = MISSING = ("reference", "failed", "no reference", "no value")
KEEPS = (EQUIVALENT, BETTER)  # findings on images that let a smaller or faster recipe count
ONE_SEED = "one seed: no interval and no test"
NOT_POSITIVE = "a seed lacks a value above 0, so it has no ratio"
UNWATCHED = "whether other processes disturbed the profiles was not measured"


@dataclass(frozen=True)
class Margins:
    """Ratios, above 1. Only ratios beyond them are better or worse, and within them two recipes are equivalent.

    Images have two, since a metric that resolves little must not make more recipes equivalent.
    """

    quality: Mapping[str, float] | float  # that distances resolve, by data set or for all
    equivalence: float  # of distances, at most the margin of quality
    size: float  # of files
    speed: float  # of times

    def of_images(self, *datasets: str) -> float:
        """Return the margin of distances on `datasets`: the largest of theirs.

        A data set that `quality` does not name has the largest of all.
        """
        if not isinstance(self.quality, Mapping):
            return self.quality
        largest = max(self.quality.values())
        return max(self.quality.get(dataset, largest) for dataset in datasets)

    def of_equivalence(self, *datasets: str) -> float:
        """Return the margin within which distances on `datasets` are equivalent."""
        return min(self.equivalence, self.of_images(*datasets))

    def restrict(self, datasets: Iterable[str]) -> "Margins":
        """Return the margins with one of quality for each of `datasets`; unchanged without any."""
        return replace(self, quality={name: self.of_images(name) for name in datasets} or self.quality)

    @property
    def quality_text(self) -> str:
        """The margins of quality in words: one number if all are equal, else each with its data set."""
        own = self.quality if isinstance(self.quality, Mapping) else {"": self.quality}
        if len(set(own.values())) == 1:
            return f"{next(iter(own.values())):g}"
        return ", ".join(f"{margin:g} ({name})" for name, margin in own.items())


@dataclass(frozen=True)
class Finding:
    """What the seeds say of a recipe in one respect."""

    finding: str  # of FINDINGS or MISSING
    why: str = ""  # the reason for a finding other than better, worse and equivalent
    p: float = math.nan  # of a ratio of 1, corrected for all recipes; NaN without a test
    p_equivalent: float = math.nan  # of a ratio beyond the margin, likewise


@dataclass(frozen=True)
class Evidence:
    """The measured ratios of a recipe to its reference that a finding rests on."""

    ratios: tuple[Ratio, ...]  # of one or more columns that must agree
    names: tuple[str, ...]  # of these columns, for the reason
    margin: float  # of a difference
    equivalence: float  # the margin of equivalence, at most `margin`
    exact: bool = False  # one seed is enough: seeds move the values by less than the margin


def decide(evidence: Mapping[Recipe, Evidence], untested: int = 0) -> dict[Recipe, Finding]:
    """Return the finding on each recipe, corrected for the number of recipes and of those `untested`.

    A recipe is better or worse if the paired t-tests of all its columns reject a ratio of 1 in one direction and every
    mean ratio is beyond the margin; it is equivalent if two one-sided tests of all its columns reject a ratio beyond
    the margin of equivalence. Requiring all columns needs no correction (an intersection-union test); the number of
    recipes does: that of Benjamini and Hochberg runs over the recipes, once for differences and once for
    equivalence, so that at most 5 % of the findings of each kind are expected to be false.
    """
    differences = [_difference_p(own.ratios) for own in evidence.values()]
    p_values = dict(zip(evidence, benjamini_hochberg(differences, untested), strict=True))
    equivalent = [_equivalence_p(own) for own in evidence.values()]
    p_equivalent = dict(zip(evidence, benjamini_hochberg(equivalent, untested), strict=True))
    tests = len(evidence) + untested
    return {recipe: _find(own, p_values[recipe], p_equivalent[recipe], tests) for recipe, own in evidence.items()}


def _find(evidence: Evidence, p: float, p_equivalent: float, tests: int) -> Finding:
    ratios, margin = evidence.ratios, evidence.margin
    worse, better = (_beyond(ratios, margin), _beyond([ratio.inverse for ratio in ratios], margin))
    inside = all(1 / evidence.equivalence < ratio.mean < evidence.equivalence for ratio in ratios)
    if ratios[0].n == 1:
        if not evidence.exact:
            return Finding(UNRESOLVED, ONE_SEED)
        return Finding(WORSE if worse else BETTER if better else EQUIVALENT if inside else UNRESOLVED)
    if not _complete(ratios):
        return Finding(UNRESOLVED, NOT_POSITIVE)
    if p < ALPHA and (better or worse):
        return Finding(WORSE if worse else BETTER, "", p, p_equivalent)
    if p_equivalent < ALPHA:
        return Finding(EQUIVALENT, "", p, p_equivalent)
    return Finding(UNRESOLVED, _doubt(evidence, p, tests), p, p_equivalent)


def _doubt(evidence: Evidence, p: float, tests: int) -> str:
    """Return why an unresolved finding is neither a difference nor equivalence."""
    ratios, names = evidence.ratios, evidence.names
    if p < ALPHA:
        return f"different, but not beyond the margin of {evidence.margin:.3g}"
    if _difference_p(ratios) < ALPHA or _equivalence_p(evidence) < ALPHA:
        return f"decided alone, not after the correction for {tests} recipes"
    alone = [name for ratio, name in zip(ratios, names, strict=True) if ratio.p < ALPHA]
    if len(ratios) > 1 and len(alone) == 1:
        return f"{alone[0]} alone decides; the others do not agree"
    if len({ratio.mean > 1 for ratio in ratios}) > 1:
        return f"{' and '.join(names)} point in opposite directions"
    return "the interval is too wide"


def _beyond(ratios: Sequence[Ratio], margin: float) -> bool:
    return all(ratio.mean > margin for ratio in ratios)


def _difference_p(ratios: Sequence[Ratio]) -> float:
    """Return the largest p-value of a ratio of 1; 1 if the ratios differ in direction, NaN without a test."""
    if not _complete(ratios):
        return math.nan
    return max(ratio.p for ratio in ratios) if len({ratio.mean > 1 for ratio in ratios}) == 1 else 1.0


def _equivalence_p(evidence: Evidence) -> float:
    if not _complete(evidence.ratios):
        return math.nan
    return max(equivalence_p(ratio, evidence.equivalence) for ratio in evidence.ratios)


def _complete(ratios: Sequence[Ratio]) -> bool:
    """Whether every column has a ratio for the same two or more seeds: dropping seeds below 0 would bias the others."""
    return ratios[0].n > 1 and len({ratio.n for ratio in ratios}) == 1
