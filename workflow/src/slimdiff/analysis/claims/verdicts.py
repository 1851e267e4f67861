"""Verdicts on claims: what a matrix says about each, and whether the paper's own numbers support it.

docs/claims.md explains the rules.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.claims.expressions import EVERY, Comparison, Expression, Failure, Place
from slimdiff.analysis.claims.file import Claim
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import VERSUS_PAPER
from slimdiff.analysis.paper import PAPER_DATASET, families
from slimdiff.analysis.statistics import CONFIDENCE, FRECHET, RESOLUTION, Outcome, Recipe

REPLICATED, CONTRADICTED, UNRESOLVED, NOT_RUN = VERDICTS = ("replicated", "contradicted", "unresolved", "not run")
WORST_FIRST = (CONTRADICTED, NOT_RUN, UNRESOLVED, REPLICATED)  # a claim takes the first verdict that any part has
# Deterministic columns: one seed is enough.
DETERMINISTIC = ("params", "params_nonzero", "macs", "size_bytes", "size_gzip_bytes", "size_packed_bytes")
PAPER_COLUMNS = {measure.column: measure.paper for measure in VERSUS_PAPER}
ONE_SEED = "one seed, no interval"


@dataclass(frozen=True)
class Part:
    """One comparison between two cells, or of one cell with a number. None: there is no such number."""

    comparison: str  # as the claim has it
    left: str  # dataset/model/optimization
    right: str | None
    column: str | None  # of the left; None: the claim is that the cell fails
    seeds: int  # that count; of two cells, those in common
    effect: float | None  # geometric mean of left / right, or mean of left without a right
    low: float | None  # 95 % t-interval of the effect
    high: float | None
    verdict: str
    why: str
    paper_left: float | None = None
    paper_right: float | None = None
    paper_effect: float | None = None
    paper_holds: bool | None = None  # whether the comparison holds for the paper's own numbers


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim on one data set."""

    id: str
    claim: str
    source: str
    file: str
    dataset: str
    verdict: str  # one of VERDICTS
    paper_supports: str  # whether the source's own numbers support the claim: yes, no, "yes, where …", "no number"
    contradictions: tuple[str, ...]  # of the source with itself
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Effect:
    """The measured effect of a comparison, over `n` of the seeds in `shared`."""

    shared: list[int]
    n: int
    mean: float
    low: float
    high: float


def evaluate_claims(matrix: Matrix, paper: pd.DataFrame, claims: Iterable[Claim]) -> list[Verdict]:
    """Return the verdict on each claim, for each data set of the matrix that it covers."""
    evidence = _Evidence(matrix, paper)
    verdicts = []
    for claim in claims:
        notes = evidence.notes(claim.comparisons)
        for dataset in _datasets(claim, matrix.frame):
            parts = tuple(part for expression in claim.comparisons for part in _parts(expression, dataset, evidence))
            verdicts.append(
                Verdict(
                    claim.id,
                    claim.claim,
                    claim.source,
                    claim.file,
                    dataset,
                    overall(part.verdict for part in parts),
                    _paper_supports(parts),
                    (*claim.contradictions, *notes),
                    parts,
                )
            )
    return verdicts


def overall(verdicts: Iterable[str]) -> str:
    """Return the verdict on a claim from those on its parts; without parts, NOT_RUN."""
    present = set(verdicts)
    return next((verdict for verdict in WORST_FIRST if verdict in present), NOT_RUN)


def to_json(matrix: Matrix, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return `verdicts` as JSON values, with the matrix they are of and the number of each."""
    source, counts = matrix.provenance, Counter(verdict.verdict for verdict in verdicts)
    origin = {key: source.get(key) for key in ("slimdiff", "git_commit", "written_at")}
    return {
        "matrix": origin | {"cells": len(matrix.frame)},
        "confidence": CONFIDENCE,
        "resolution": RESOLUTION,
        "verdicts": {verdict: counts[verdict] for verdict in VERDICTS},
        "claims": [asdict(verdict) for verdict in verdicts],
    }


def decide(
    operator: str, mean: float, low: float, high: float, within: float | None = None, resolution: float = 1.0
) -> tuple[str, str]:
    """Return the verdict on “mean OPERATOR 1”, and the reason if it is not replicated.

    Args:
        operator: "<", ">" or "=".
        mean: the effect / the threshold.
        low: lower end of its interval.
        high: upper end of its interval.
        within: margin of "=", as a share.
        resolution: ratios closer to 1 than this are no difference, whatever the interval.
    """
    if operator == "=":
        margin = max(1 + (within or 0.0), resolution)
        if 1 / margin <= low and high <= margin:
            return REPLICATED, ""
        if high < 1 / margin or low > margin:
            return CONTRADICTED, "the interval lies outside the margin"
        return UNRESOLVED, "the interval extends beyond the margin"
    below = operator == "<"
    claimed, opposite = (high < 1, low >= 1) if below else (low > 1, high <= 1)
    if not claimed and not opposite:
        return UNRESOLVED, "the interval contains the threshold"
    if 1 / resolution <= mean <= resolution and resolution > 1:
        return UNRESOLVED, f"ratio within the resolution of {resolution}"
    return (REPLICATED, "") if claimed else (CONTRADICTED, "the interval lies on the other side of the threshold")


class _Evidence:
    """Look-ups in the matrix and in the paper's numbers."""

    def __init__(self, matrix: Matrix, paper: pd.DataFrame) -> None:
        self.families = families(matrix)
        self.recipes = matrix.config.get("optimizations", {})
        self.outcomes = statistics.outcomes(matrix.frame)
        self._frame = matrix.frame
        self._paper: list[dict[Any, Any]] = paper.to_dict("records")
        self._values: dict[str, dict[Recipe, dict[int, float]]] = {}

    def outcome(self, cell: Recipe) -> Outcome:
        """Return the outcome of `cell`; one without seeds if it was not run."""
        return self.outcomes.get(cell, Outcome())

    def values(self, column: str, cell: Recipe) -> dict[int, float]:
        """Return seed → value of `column`, of the seeds of `cell` that did not fail."""
        if column not in self._values:
            self._values[column] = statistics.by_seed(self._frame, column)
        return self._values[column].get(cell, {})

    def models(self, dataset: str, family: str, *recipes: str) -> list[str]:
        """Return the models of `family` on `dataset` with all of `recipes`, else all that ran, else the family."""
        models = dict.fromkeys(model for data, model, _ in self.outcomes if data == dataset)
        own = [model for model in models if self.families[model] == family]
        required = [recipe for recipe in recipes if recipe != EVERY]
        complete = [model for model in own if all((dataset, model, recipe) in self.outcomes for recipe in required)]
        return complete or own or [family]

    def techniques(self, dataset: str, model: str, family: str) -> list[str]:
        """Return the recipes of *: those of the paper's tables and of the matrix that keep the model's sampler.

        On data sets other than the paper's, only those of the matrix.
        """
        rows = self._paper if dataset == PAPER_DATASET else []
        printed = [str(row["optimization"]) for row in rows if row["model"] == family and row["table"].isdigit()]
        run = [recipe for data, name, recipe in self.outcomes if (data, name) == (dataset, model)]
        own = [name for name in dict.fromkeys([*printed, *run]) if not self.recipes.get(name, {}).get("sampler")]
        return own or [EVERY]

    def printed(self, column: str, place: Place, recipe: str) -> float | None:
        """Return the paper's first number for a cell: Table 9 repeats others and comes last."""
        if place.dataset not in (None, PAPER_DATASET) or column not in PAPER_COLUMNS:
            return None
        for row in self._paper:
            value = row[PAPER_COLUMNS[column]]
            if (row["model"], row["optimization"]) == (place.family, recipe) and not pd.isna(value):
                return float(value)
        return None

    def notes(self, expressions: Iterable[Expression]) -> tuple[str, ...]:
        """Return the notes of paper_reference.csv on the cells of `expressions`."""
        places = [place for expression in expressions for place in expression.places]
        named = {(place.family, place.recipe) for place in places if place.dataset in (None, PAPER_DATASET)}
        notes = []
        for row in self._paper:
            family, recipe, numbered = row["model"], row["optimization"], row["table"].isdigit()
            if ((family, recipe) in named or ((family, EVERY) in named and numbered)) and not pd.isna(row["note"]):
                where = f"Table {row['table']}" if numbered else f"Section {row['section']}"
                notes.append(f"{where}, {row['label']}: {row['note']}")
        return tuple(notes)


def _datasets(claim: Claim, frame: pd.DataFrame) -> list[str]:
    """Return the data sets that the claim names, or every one of the matrix if it leaves one open."""
    named = [place.dataset for expression in claim.comparisons for place in expression.places]
    if None in named:
        return [str(name) for name in frame["dataset"].unique()] or [PAPER_DATASET]
    return [" and ".join(dict.fromkeys(name for name in named if name))]


def _parts(expression: Expression, dataset: str, evidence: _Evidence) -> Iterator[Part]:
    """Yield the comparison for each pair of models, and each technique, that it covers."""
    if isinstance(expression, Failure):
        place = expression.place
        data = place.dataset or dataset
        for model in evidence.models(data, place.family, place.recipe):
            yield _failure(expression, (data, model, place.recipe), evidence)
        return
    left, right = expression.left.place, expression.right.place if expression.right else None
    left_data, right_data = left.dataset or dataset, (right or left).dataset or dataset
    same_model = right is None or (left_data, left.family) == (right_data, right.family)
    required = [left.recipe, *([right.recipe] if right and same_model else [])]
    models = evidence.models(left_data, left.family, *required)
    others = [None] if right is None or same_model else evidence.models(right_data, right.family, right.recipe)
    for model, other in itertools.product(models, others):
        right_cell: Recipe | None = (right_data, other or model, right.recipe) if right else None
        recipes = evidence.techniques(left_data, model, left.family) if left.recipe == EVERY else [left.recipe]
        for recipe in recipes:
            if (left_data, model, recipe) != right_cell:
                yield _comparison(expression, (left_data, model, recipe), right_cell, evidence)


def _failure(expression: Failure, cell: Recipe, evidence: _Evidence) -> Part:
    outcome, name = evidence.outcome(cell), _name(cell)
    if not outcome.seeds:
        verdict, why = NOT_RUN, f"{name} was not run"
    elif outcome.seeds == 1:
        why = f"one seed: {'it failed: ' + outcome.reason if outcome.failed else 'it did not fail'}"
        verdict = UNRESOLVED
    elif outcome.failed == outcome.seeds:
        verdict, why = REPLICATED, f"all {outcome.seeds} seeds failed: {outcome.reason}"
    elif outcome.failed:
        verdict, why = UNRESOLVED, _some_failed(cell, outcome)
    else:
        verdict, why = CONTRADICTED, f"none of {outcome.seeds} seeds failed"
    return Part(expression.text, name, None, None, outcome.seeds, None, None, None, verdict, why)


def _comparison(expression: Comparison, left: Recipe, right: Recipe | None, evidence: _Evidence) -> Part:
    sides = [(expression.left.column, left)]
    if expression.right and right:
        sides.append((expression.right.column, right))
    values = [evidence.values(column, cell) for column, cell in sides]
    deterministic = all(column in DETERMINISTIC for column, _ in sides)
    effect = _effect(values, deterministic)
    verdict, why = _obstacle(sides, values, effect, evidence) or _decide(expression, effect)
    outcomes = [(cell, evidence.outcome(cell)) for _, cell in sides]
    if not any(_all_failed(outcome) for _, outcome in outcomes):
        why = "; ".join(
            [why] * bool(why) + [_some_failed(cell, outcome) for cell, outcome in outcomes if outcome.failed]
        )
    return Part(
        expression.text,
        _name(left),
        _name(right) if right else None,
        expression.left.column,
        effect.n,
        _finite(effect.mean),
        _finite(effect.low),
        _finite(effect.high),
        verdict,
        why,
        *_paper_numbers(expression, left[2], evidence),
    )


def _effect(values: Sequence[dict[int, float]], deterministic: bool) -> Effect:
    """Return the effect of one or two sides, each seed → value.

    A single seed has an interval of width 0 if the columns are deterministic or both sides are equal.
    """
    if len(values) == 1:
        summary = statistics.summarize(list(values[0].values()))
        effect = Effect(list(values[0]), summary.n, summary.mean, summary.low, summary.high)
    else:
        left, right = values
        ratio = statistics.paired(left, right)
        shared = [seed for seed in left if seed in right]
        effect = Effect(shared, ratio.n, ratio.mean, ratio.low, ratio.high)
        deterministic |= bool(shared) and all(left[seed] == right[seed] for seed in shared)
    if effect.n == 1 and deterministic:
        return Effect(effect.shared, 1, effect.mean, effect.mean, effect.mean)
    return effect


def _obstacle(
    sides: Sequence[tuple[str, Recipe]], values: Sequence[dict[int, float]], effect: Effect, evidence: _Evidence
) -> tuple[str, str] | None:
    """Return the verdict and the reason if the sides cannot be compared."""
    outcomes = {cell: evidence.outcome(cell) for _, cell in sides}
    not_run = [_name(cell) for _, cell in sides if not outcomes[cell].seeds]
    failed = [f"{_name(cell)} failed: {outcomes[cell].reason}" for _, cell in sides if _all_failed(outcomes[cell])]
    no_value = [f"{column} of {_name(cell)}" for (column, cell), own in zip(sides, values, strict=True) if not own]
    if not_run:
        return NOT_RUN, f"{_were(not_run)} not run"
    if failed:
        return UNRESOLVED, "; ".join(failed)
    if no_value:
        return NOT_RUN, f"{_were(no_value)} not measured"
    if not effect.shared:
        return UNRESOLVED, "no seed in common"
    if effect.n < len(effect.shared):
        return UNRESOLVED, "a value is not above 0, so there is no ratio"
    return (UNRESOLVED, ONE_SEED) if math.isnan(effect.low) else None


def _decide(expression: Comparison, effect: Effect) -> tuple[str, str]:
    columns = {expression.left.column, *({expression.right.column} if expression.right else ())}
    factor, resolution = expression.factor, RESOLUTION if columns & set(FRECHET) else 1.0
    ratios = (effect.mean / factor, effect.low / factor, effect.high / factor)
    return decide(expression.operator, *ratios, within=expression.within, resolution=resolution)


def _paper_numbers(
    expression: Comparison, recipe: str, evidence: _Evidence
) -> tuple[float | None, float | None, float | None, bool | None]:
    """Return the paper's numbers for both sides, their ratio (or the left one), and whether the comparison holds."""
    left = evidence.printed(expression.left.column, expression.left.place, recipe)
    right = None
    effect = left
    if expression.right:
        right = evidence.printed(expression.right.column, expression.right.place, expression.right.place.recipe)
        effect = None if left is None or right is None else left / right
    if effect is None:
        return left, right, None, None
    scaled = effect / expression.factor
    holds = decide(expression.operator, scaled, scaled, scaled, expression.within)[0] == REPLICATED
    return left, right, effect, holds


def _paper_supports(parts: Iterable[Part]) -> str:
    held = {part.paper_holds for part in parts}
    if False in held:
        return "no"
    if True not in held:
        return "no number"
    return "yes, where it prints a number" if None in held else "yes"


def _all_failed(outcome: Outcome) -> bool:
    return 0 < outcome.seeds == outcome.failed


def _some_failed(cell: Recipe, outcome: Outcome) -> str:
    return f"{outcome.failed} of {outcome.seeds} seeds of {_name(cell)} failed: {outcome.reason}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _were(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'were' if len(names) > 1 else 'was'}"


def _name(cell: Recipe) -> str:
    return "/".join(cell)
