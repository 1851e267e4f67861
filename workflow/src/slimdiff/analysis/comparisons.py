"""Every recipe against its reference: findings on images, size and speed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from slimdiff.analysis import decisions, statistics
from slimdiff.analysis.decisions import DISTURBED, Evidence, Finding, Margins
from slimdiff.analysis.derived import size_column
from slimdiff.analysis.measures import BASELINE, IMAGES, PACKED, SIZE, TIME
from slimdiff.analysis.references import is_confounded, recipe_settings, unlike
from slimdiff.analysis.statistics import Outcome, Ratio, Recipe

COLUMNS = (*(measure.column for measure in IMAGES), SIZE.column, PACKED.column, TIME.column)
Ratios = Mapping[str, Mapping[Recipe, Ratio]]


@dataclass(frozen=True)
class Difference:
    """A recipe against others: its images against its reference, its file and its time against the baseline."""

    reference: str  # the recipe that images are compared with; empty if there is none
    images: Finding
    size: Finding  # of the packed file, of the gzip file if the baseline has no packed one
    speed: Finding  # timed in turns


def compare(
    frame: pd.DataFrame,
    ratios: Ratios,
    references: Mapping[Recipe, str | None],
    baseline: str,
    margins: Margins,
    speed_margins: Mapping[tuple[str, str], float],
) -> dict[Recipe, Difference]:
    """Return the findings on every recipe of a matrix, in its order.

    Args:
        frame: `derived.derive` of the matrix.
        ratios: COLUMNS → recipe → its ratio, of IMAGES to its reference, of others to `baseline`.
        references: recipe → its reference.
        margins: of images and sizes.
        speed_margins: `derived.speed_margins` of the matrix.
    """
    models = dict.fromkeys(recipe[:2] for recipe in references)
    sizes = {model: size_column(frame, *model) for model in models}
    images = tuple(measure.column for measure in IMAGES)
    plain: dict[Recipe, str | None] = {
        recipe: baseline if (*recipe[:2], baseline) in references else None for recipe in references
    }
    kinds: dict[str, dict[Recipe, tuple[tuple[str, ...], tuple[float, float], str | None]]] = {
        "images": {
            recipe: (images, (margins.of_images(recipe[0]), margins.of_equivalence(recipe[0])), reference)
            for recipe, reference in references.items()
        },
        "size": {recipe: ((sizes[recipe[:2]],), (margins.size,) * 2, plain[recipe]) for recipe in references},
        "speed": {recipe: ((TIME.column,), (speed_margins[recipe[:2]],) * 2, plain[recipe]) for recipe in references},
    }
    measured = {column: statistics.by_seed(frame, column) for column in COLUMNS}
    settings = recipe_settings(frame)
    outcomes = statistics.outcomes(frame)
    found: dict[str, dict[Recipe, Finding]] = {}
    for kind, wanted in kinds.items():
        found[kind], evidence = {}, {}
        for recipe, (columns, own_margins, reference) in wanted.items():
            own = tuple(ratios[column].get(recipe, Ratio()) for column in columns)
            lacking = next((column for column in columns if not measured[column].get(recipe)), "")
            obstacle = _is_reference(recipe, reference, settings)
            obstacle = obstacle or _obstacle(reference, lacking, outcomes[recipe], baseline if kind != "images" else "")
            if obstacle is None and not all(ratio.n for ratio in own):
                obstacle = _without_ratio(recipe, reference or "", columns, measured, outcomes)
            if obstacle is None and kind == "speed" and outcomes[recipe].unwatched:
                obstacle = Finding(decisions.UNRESOLVED, decisions.UNWATCHED)
            if obstacle is None and kind == "images":
                obstacle = _undecidable(recipe, reference or "", measured, settings, outcomes)
            if obstacle is None:
                evidence[recipe] = Evidence(own, columns, *own_margins, exact=kind == "size")
            else:
                found[kind][recipe] = obstacle
        untested = sum(finding.finding != decisions.IS_REFERENCE for finding in found[kind].values())
        found[kind] |= decisions.decide(evidence, untested)
    for recipe, finding in found["images"].items():
        if finding.finding not in decisions.MISSING:
            names = unlike(settings[recipe], settings[(*recipe[:2], references[recipe] or "")])
            found["images"][recipe] = _remarked(finding, f"trained otherwise: {', '.join(names)}" if names else "")
    for recipe, finding in found["speed"].items():
        outcome = outcomes[recipe]
        if outcome.disturbed and finding.finding not in (DISTURBED, *decisions.MISSING):
            why = f"{outcome.disturbed} of {outcome.seeds - outcome.failed} profiles disturbed, left out"
            found["speed"][recipe] = _remarked(finding, why)
    return {
        recipe: Difference(reference or "", *(found[kind][recipe] for kind in kinds))
        for recipe, reference in references.items()
    }


def _remarked(finding: Finding, remark: str) -> Finding:
    """Return a finding with one more reason, if there is one."""
    return replace(finding, why="; ".join(filter(None, (finding.why, remark))))


def _undecidable(
    recipe: Recipe,
    name: str,
    measured: Mapping[str, Mapping[Recipe, Mapping[int, float]]],
    settings: Mapping[Recipe, Mapping[str, Any]],
    outcomes: Mapping[Recipe, Outcome],
) -> Finding | None:
    """Return why the images of a recipe decide nothing though they have ratios to those of the recipe `name`."""
    reference = (recipe[0], recipe[1], name)
    for other in (recipe, reference):
        if failed := outcomes[other].failed:  # the seeds that are left are the better ones
            why = f"{failed} of {outcomes[other].seeds} seeds of {other[2]} failed"
            return Finding(decisions.UNRESOLVED, why)

    def seeds(column: str) -> set[int]:
        own, theirs = measured[column][recipe], measured[column][reference]
        return {seed for seed in own if min(own[seed], theirs.get(seed, 0)) > 0}

    if len({frozenset(seeds(measure.column)) for measure in IMAGES}) > 1:
        return Finding(decisions.UNRESOLVED, decisions.NOT_POSITIVE)
    if is_confounded(settings[recipe], settings[reference], settings.get((*recipe[:2], BASELINE), {})):
        return Finding(decisions.UNRESOLVED, "the matrix lacks an uncompressed recipe of the same training")
    return None


def _without_ratio(
    recipe: Recipe,
    name: str,
    columns: Sequence[str],
    measured: Mapping[str, Mapping[Recipe, Mapping[int, float]]],
    outcomes: Mapping[Recipe, Outcome],
) -> Finding:
    """Return why a recipe that has values has no ratio to the recipe `name`."""
    reference = (recipe[0], recipe[1], name)
    if reference in outcomes and outcomes[reference].failed == outcomes[reference].seeds:
        return Finding(decisions.NO_REFERENCE, f"{name} failed")
    if all(measured[column][recipe].keys() & measured[column].get(reference, {}).keys() for column in columns):
        return Finding(decisions.UNRESOLVED, decisions.NOT_POSITIVE)
    return Finding(decisions.NO_REFERENCE, f"no seed in common with {name}")


def _is_reference(
    recipe: Recipe, reference: str | None, settings: Mapping[Recipe, Mapping[str, Any]]
) -> Finding | None:
    """Return the finding on the reference itself, under this or another name; None if the recipe is another one."""
    if recipe[2] == reference:
        return Finding(decisions.IS_REFERENCE)
    own = settings[recipe]
    if own and own == settings.get((*recipe[:2], reference or "")):
        return Finding(decisions.IS_REFERENCE, f"the settings are those of {reference}")
    return None


def _obstacle(reference: str | None, lacking: str, outcome: Outcome, baseline: str) -> Finding | None:
    """Return why a recipe cannot be compared, or None if it can.

    Args:
        reference: the recipe to compare with; None if the matrix holds none.
        lacking: the column that the recipe has no value in, or "".
        baseline: the only reference that will do; "" if another one may.
    """
    if lacking == TIME.column and outcome.disturbed:
        ran = outcome.seeds - outcome.failed
        return Finding(DISTURBED, f"other processes ran during {outcome.disturbed} of {ran} profiles")
    name = "speedup" if lacking == TIME.column else lacking
    if outcome.failed == outcome.seeds:
        return Finding(decisions.FAILED, outcome.reason)
    if lacking:
        return Finding(decisions.NO_VALUE, f"{name} was not measured")
    if reference is None:
        wanted = f"`{baseline}`" if baseline else "baseline known to be trained for as long, such as `longer`"
        return Finding(decisions.NO_REFERENCE, f"the matrix holds no {wanted}")
    return None
