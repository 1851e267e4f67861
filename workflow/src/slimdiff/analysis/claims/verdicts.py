"""Verdicts on claims: what a matrix says about each, and whether the paper's own numbers support it.

docs/claims.md explains the rules.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from slimdiff.analysis import references, statistics
from slimdiff.analysis.claims import effects
from slimdiff.analysis.claims.effects import CONTRADICTED, NOT_RUN, REPLICATED, UNRESOLVED, VERDICTS, Decision, Effect
from slimdiff.analysis.claims.expressions import PAPER_EVERY, STARS, Comparison, Expression, Failure, Place, Term
from slimdiff.analysis.claims.file import Claim
from slimdiff.analysis.claims.scale import scale_of
from slimdiff.analysis.decisions import UNWATCHED, Margins
from slimdiff.analysis.derived import speed_margins
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE, FID, KID, LATENCY, VERSUS_PAPER
from slimdiff.analysis.paper import PAPER_DATASET, families
from slimdiff.analysis.statistics import CONFIDENCE, Outcome, Recipe

WORST_FIRST = (CONTRADICTED, NOT_RUN, UNRESOLVED, REPLICATED)  # a claim takes the first verdict that any part has
SPEEDUP = "speedup"
PAPER_COLUMNS = {measure.column: measure.paper for measure in VERSUS_PAPER}


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
    second_column: str | None = None  # that must agree, of a comparison of images
    second_effect: float | None = None
    second_low: float | None = None
    second_high: float | None = None
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
    scale: str  # of the runs: epochs, preconditioning, sampler, images
    verdict: str  # one of VERDICTS
    paper_supports: str  # whether the source's own numbers support the claim: yes, no, "yes, where …", "no number"
    contradictions: tuple[str, ...]  # of the source with itself
    parts: tuple[Part, ...]


def evaluate_claims(matrix: Matrix, paper: pd.DataFrame, claims: Iterable[Claim], margins: Margins) -> list[Verdict]:
    """Return the verdict on each claim, for each data set of the matrix that it covers."""
    evidence = _Evidence(matrix, paper, margins)
    verdicts = []
    for claim in claims:
        notes = evidence.notes(claim.comparisons)
        for dataset in _datasets(claim, matrix.frame):
            pairs = [pair for expression in claim.comparisons for pair in _parts(expression, dataset, evidence)]
            parts = _corrected(pairs)
            verdicts.append(
                Verdict(
                    claim.id,
                    claim.claim,
                    claim.source,
                    claim.file,
                    dataset,
                    scale_of(matrix.frame, evidence.families, [name for part in parts for name in _cells(part)]),
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


def to_json(matrix: Matrix, verdicts: Sequence[Verdict], margins: Margins) -> dict[str, Any]:
    """Return `verdicts` as JSON values, with the matrix they are of and the number of each."""
    source, counts = matrix.provenance, Counter(verdict.verdict for verdict in verdicts)
    origin = {key: source.get(key) for key in ("slimdiff", "git_commit", "written_at")}
    return {
        "matrix": origin | {"cells": len(matrix.frame)},
        "confidence": CONFIDENCE,
        "margins": asdict(margins.restrict(matrix.frame["dataset"].unique())),
        "verdicts": {verdict: counts[verdict] for verdict in VERDICTS},
        "claims": [asdict(verdict) for verdict in verdicts],
    }


class _Evidence:
    """Look-ups in the matrix and in the paper's numbers."""

    def __init__(self, matrix: Matrix, paper: pd.DataFrame, margins: Margins) -> None:
        self.margins = margins
        self.speed_margins = speed_margins(matrix, margins.speed)
        self.references = references.references(matrix.frame)
        self.settings = references.recipe_settings(matrix.frame)
        self.epochs = {recipe: references.epochs_of(own) for recipe, own in self.settings.items()}
        self.families = families(matrix)
        self.recipes = matrix.config.get("optimizations", {})
        self.outcomes = statistics.outcomes(matrix.frame)
        self._frame = matrix.frame
        self._paper: list[dict[Any, Any]] = paper.to_dict("records")
        self._values: dict[str, dict[Recipe, dict[int, float]]] = {}

    def outcome(self, cell: Recipe) -> Outcome:
        """Return the outcome of `cell`; one without seeds if it was not run."""
        return self.outcomes.get(cell, Outcome())

    def counterpart(self, cell: Recipe, other: Recipe) -> Recipe:
        """Return `other`; of `baseline` the reference of `cell`, if that has as many epochs as `baseline`."""
        reference = (*other[:2], self.references.get(cell) or "")
        stands = other == (*cell[:2], BASELINE) and self.epochs.get(reference) == self.epochs.get(other) is not None
        return reference if stands else other

    def unlike(self, cell: Recipe, other: Recipe) -> str:
        """Return in which options of SCHEDULE two recipes of a model differ, as a sentence; "" if they do not."""
        if cell[:2] != other[:2]:
            return ""
        names = references.unlike(self.settings.get(cell, {}), self.settings.get(other, {}))
        return f"{_name(cell)} and {_name(other)} differ in {', '.join(names)}" if names else ""

    def confounded(self, cell: Recipe, other: Recipe) -> bool:
        """Whether the images of two recipes of a model show how they were trained as much as the compression."""
        own, theirs, baseline = (self.settings.get(name, {}) for name in (cell, other, (*cell[:2], BASELINE)))
        return cell[:2] == other[:2] and references.is_confounded(own, theirs, baseline)

    def values(self, column: str, cell: Recipe) -> dict[int, float]:
        """Return seed → value of `column`, of the seeds of `cell` that did not fail."""
        if column not in self._values:
            self._values[column] = statistics.by_seed(self._frame, column)
        return self._values[column].get(cell, {})

    def models(self, dataset: str, family: str, *recipes: str) -> list[str]:
        """Return the models of `family` on `dataset` with all of `recipes`, else all that ran, else the family."""
        models = dict.fromkeys(model for data, model, _ in self.outcomes if data == dataset)
        own = [model for model in models if self.families[model] == family]
        required = [recipe for recipe in recipes if recipe not in STARS]
        complete = [model for model in own if all((dataset, model, recipe) in self.outcomes for recipe in required)]
        return complete or own or [family]

    def techniques(self, dataset: str, model: str, place: Place) -> list[str]:
        """Return the recipes of a star, without the baseline and those with their own sampler.

        On the paper's data set paper/* is all of its techniques; on others those of them that the matrix holds.
        """
        run = [recipe for data, name, recipe in self.outcomes if (data, name) == (dataset, model)]
        if place.recipe == PAPER_EVERY:
            rows = [row for row in self._paper if row["model"] == place.family and row["table"].isdigit()]
            names = [str(row["optimization"]) for row in rows]
            names = names if dataset == PAPER_DATASET else [name for name in names if name in run]
        else:
            names = [name for name in run if not self.recipes.get(name, {}).get("sampler")]
        return [name for name in dict.fromkeys(names) if name != BASELINE]

    def spread(self, column: str, dataset: str, model: str, place: Place) -> tuple[dict[int, float], list[Recipe]]:
        """Return seed → the standard deviation of the logarithms of `column` over a star, and the star's cells.

        Only seeds count at which every cell has a value above 0.
        """
        cells = [(dataset, model, name) for name in self.techniques(dataset, model, place)]
        values = [self.values(column, cell) for cell in cells]
        shared = [seed for seed in (values[0] if values else {}) if all(own.get(seed, 0) > 0 for own in values)]
        return {seed: statistics.log_sd([own[seed] for own in values]) for seed in shared if len(values) > 1}, cells

    def printed(self, term: Term, recipe: str, dataset: str = PAPER_DATASET) -> float | None:
        """Return the paper's first number for a cell, Table 9's last since it repeats others; or of a spread."""
        place, column = term.place, term.column
        if (place.dataset or dataset) != PAPER_DATASET:
            return None
        if term.spread:
            names = self.techniques(PAPER_DATASET, "", Place(None, place.family, PAPER_EVERY))
            values = [self.printed(Term(column, place), name) for name in names]
            numbers = [value for value in values if value is not None]
            return statistics.log_sd(numbers) if place.recipe == PAPER_EVERY and len(numbers) > 1 else None
        if column == SPEEDUP:
            times = [self._first(place.family, name, LATENCY.paper) for name in (BASELINE, recipe)]
            return None if None in times else times[0] / times[1]  # type: ignore[operator]
        return self._first(place.family, recipe, PAPER_COLUMNS[column]) if column in PAPER_COLUMNS else None

    def _first(self, family: str, recipe: str, column: str) -> float | None:
        """Return the paper's first number in one of its columns."""
        for row in self._paper:
            if (row["model"], row["optimization"]) == (family, recipe) and not pd.isna(row[column]):
                return float(row[column])
        return None

    def notes(self, expressions: Iterable[Expression]) -> tuple[str, ...]:
        """Return the notes of paper_reference.csv on the cells of `expressions`."""
        places = [place for expression in expressions for place in expression.places]
        named = {(place.family, place.recipe) for place in places if place.dataset in (None, PAPER_DATASET)}
        notes = []
        for row in self._paper:
            family, recipe, numbered = row["model"], row["optimization"], row["table"].isdigit()
            if ((family, recipe) in named or ((family, PAPER_EVERY) in named and numbered)) and not pd.isna(
                row["note"]
            ):
                where = f"Table {row['table']}" if numbered else f"Section {row['section']}"
                notes.append(f"{where}, {row['label']}: {row['note']}")
        return tuple(notes)


def _datasets(claim: Claim, frame: pd.DataFrame) -> list[str]:
    """Return the data sets that the claim names, or every one of the matrix if it leaves one open."""
    named = [place.dataset for expression in claim.comparisons for place in expression.places]
    if None in named:
        return [str(name) for name in frame["dataset"].unique()] or [PAPER_DATASET]
    return [" and ".join(dict.fromkeys(name for name in named if name))]


def _parts(expression: Expression, dataset: str, evidence: _Evidence) -> Iterator[tuple[Part, Decision]]:
    """Yield the comparison for each pair of models, and each technique, that it covers."""
    if isinstance(expression, Failure):
        place = expression.place
        data = place.dataset or dataset
        for model in evidence.models(data, place.family, place.recipe):
            part = _failure(expression, (data, model, place.recipe), evidence)
            yield part, Decision(part.verdict, part.why)
        return
    left, right = expression.left.place, expression.right.place if expression.right else None
    left_data, right_data = left.dataset or dataset, (right or left).dataset or dataset
    same_model = right is None or (left_data, left.family) == (right_data, right.family)
    required = [left.recipe, *([right.recipe] if right and same_model else [])]
    models = evidence.models(left_data, left.family, *required)
    others = [None] if right is None or same_model else evidence.models(right_data, right.family, right.recipe)
    for model, other in itertools.product(models, others):
        right_cell: Recipe | None = (right_data, other or model, right.recipe) if right else None
        each = left.recipe in STARS and not expression.left.spread
        for recipe in evidence.techniques(left_data, model, left) if each else [left.recipe]:
            if (left_data, model, recipe) != right_cell:
                yield _comparison(expression, (left_data, model, recipe), right_cell, evidence)


def _corrected(pairs: Sequence[tuple[Part, Decision]]) -> tuple[Part, ...]:
    """Return the parts of a claim, their contradictions corrected for the number of parts (Holm).

    All parts must hold for a claim to be replicated, which needs no correction; one suffices to contradict it.
    """
    adjusted = statistics.holm([decision.p_against for _, decision in pairs])
    parts = []
    for (part, _), p in zip(pairs, adjusted, strict=True):
        if part.verdict == CONTRADICTED and not math.isnan(p) and p >= statistics.ALPHA:
            why = f"contradicted alone, not after Holm's correction for {len(pairs)} comparisons"
            part = replace(part, verdict=UNRESOLVED, why=why)
        parts.append(part)
    return tuple(parts)


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


def _comparison(
    expression: Comparison, left: Recipe, right: Recipe | None, evidence: _Evidence
) -> tuple[Part, Decision]:
    of_images = expression.right and expression.left.column not in effects.NOT_OF_IMAGES
    named = left, right
    if of_images and right:
        left, right = evidence.counterpart(right, left), evidence.counterpart(left, right)
    terms = [(expression.left, left), *([(expression.right, right)] if expression.right and right else [])]
    effect, decision = _decide(expression, terms, evidence)
    column, second = _second(expression), None
    if column is not None and decision.verdict != NOT_RUN:
        others = [(replace(term, column=column), cell) for term, cell in terms]
        second, agreeing = _decide(expression, others, evidence)
        if decision.verdict in (REPLICATED, CONTRADICTED):
            decision = _agreed(decision, agreeing, column)
            if set(second.shared) != set(effect.shared):
                decision = replace(decision, verdict=UNRESOLVED, why=f"{column} was not measured at every seed")
            elif any(evidence.outcome(cell).failed for _, cell in terms):
                decision = replace(decision, verdict=UNRESOLVED, why="the seeds that are left are the better ones")
            elif right and evidence.confounded(left, right):
                decision = replace(decision, verdict=UNRESOLVED, why="compression and training differ")
    remarks = [f"{_name(cell)} stands for {BASELINE}" for cell in (left, right) if cell and cell not in named]
    if of_images and right and decision.verdict != NOT_RUN and (unlike := evidence.unlike(left, right)):
        remarks.append(unlike)
    mean, low, high = _numbers(second) if second else (None, None, None)
    paper_left, paper_right, paper_effect, holds = _paper_numbers(expression, named[0], evidence)
    part = Part(
        expression.text,
        _name(left),
        _name(right) if right else None,
        expression.left.column,
        effect.n,
        *_numbers(effect),
        decision.verdict,
        "; ".join([*_reasons(decision, [pair for pair in terms if not pair[0].spread], evidence), *remarks]),
        second_column=column if second else None,
        second_effect=mean,
        second_low=low,
        second_high=high,
        paper_left=paper_left,
        paper_right=paper_right,
        paper_effect=paper_effect,
        paper_holds=holds,
    )
    return part, decision


def _second(expression: Comparison) -> str | None:
    """Return the column that must agree with a comparison of distances between two cells, if it is one."""
    columns = {expression.left.column, *({expression.right.column} if expression.right else ())}
    if expression.right is None or not columns <= set(effects.DISTANCES):
        return None
    return FID.column if columns == {KID.column} else KID.column


def _agreed(first: Decision, second: Decision, column: str) -> Decision:
    """Return the decision of two columns: theirs if they agree, else unresolved."""
    p_values = (first.p_against, second.p_against)
    p_against = math.nan if any(map(math.isnan, p_values)) else max(p_values)
    if first.verdict == second.verdict:
        return Decision(first.verdict, first.why, p_against)
    said = "was not measured" if second.verdict == NOT_RUN else f"does not agree: {second.why or second.verdict}"
    return Decision(UNRESOLVED, f"{column} {said}", p_against)


def _decide(
    expression: Comparison, terms: Sequence[tuple[Term, Recipe]], evidence: _Evidence
) -> tuple[Effect, Decision]:
    """Return the effect of a comparison in the columns of `terms`, and what it says."""
    values, cells = [], []
    for term, cell in terms:
        if term.spread:
            own, members = evidence.spread(term.column, *cell[:2], term.place)
        else:
            own, members = evidence.values(term.column, cell), [cell]
        values.append(own)
        cells.append((term, cell, members))
    columns = tuple(term.column for term, _ in terms)
    effect = effects.measure(values, columns)
    obstacle = _obstacle(cells, values, effect, evidence)
    margin, equivalence = effects.resolution(columns, evidence.margins, [cell[0] for _, cell in terms])
    if set(columns) & set(effects.SPEEDUPS):
        margin = equivalence = max(evidence.speed_margins.get(cell[:2], margin) for _, cell in terms)
    return effect, obstacle or effects.decide(expression, effect, margin, equivalence)


def _obstacle(
    cells: Sequence[tuple[Term, Recipe, Sequence[Recipe]]],
    values: Sequence[Mapping[int, float]],
    effect: Effect,
    evidence: _Evidence,
) -> Decision | None:
    """Return the verdict and the reason if the sides cannot be compared."""
    outcomes = {cell: evidence.outcome(cell) for _, _, members in cells for cell in members}
    not_run = [_name(cell) for cell, outcome in outcomes.items() if not outcome.seeds]
    failed = [f"{_name(cell)} failed: {own.reason}" for cell, own in outcomes.items() if _all_failed(own)]
    lacking = [(term.column, cell) for (term, cell, _), own in zip(cells, values, strict=True) if not own]
    if not_run or not outcomes:
        return Decision(NOT_RUN, f"{_were(not_run)} not run" if not_run else "no technique was run")
    if failed:
        return Decision(UNRESOLVED, "; ".join(failed))
    if lacking:
        if all(column in statistics.TIMES and evidence.outcome(cell).disturbed for column, cell in lacking):
            return Decision(UNRESOLVED, "disturbed: other processes ran during every profile")
        return Decision(NOT_RUN, f"{_were([f'{column} of {_name(cell)}' for column, cell in lacking])} not measured")
    if any(t.column in statistics.TIMES and evidence.outcome(own).unwatched for t, _, all_ in cells for own in all_):
        return Decision(UNRESOLVED, UNWATCHED)
    if not effect.shared:
        return Decision(UNRESOLVED, "no seed in common")
    if effect.n < len(effect.shared):
        return Decision(UNRESOLVED, "a value is not above 0, so there is no ratio")
    return Decision(UNRESOLVED, effects.ONE_SEED) if math.isnan(effect.low) else None


def _reasons(decision: Decision, terms: Sequence[tuple[Term, Recipe]], evidence: _Evidence) -> list[str]:
    """Return the reason of a decision, failed seeds, disturbed profiles and a longer training."""
    cells = [cell for _, cell in terms]
    outcomes = [(cell, evidence.outcome(cell)) for cell in cells]
    remarks = [decision.why] * bool(decision.why)
    if not any(_all_failed(outcome) for _, outcome in outcomes):
        remarks += [_some_failed(cell, outcome) for cell, outcome in outcomes if outcome.failed]
    timed = {cell: evidence.outcome(cell) for term, cell in terms if term.column in statistics.TIMES}
    remarks += [
        f"{own.disturbed} of {own.seeds - own.failed} profiles of {_name(cell)} disturbed"
        for cell, own in timed.items()
        if own.disturbed
    ]
    if len(cells) == 2 and cells[0][:2] == cells[1][:2] and decision.verdict != NOT_RUN:
        own, other = (evidence.epochs.get(cell) for cell in cells)
        if cells[1][2] == BASELINE and cells[0] != cells[1]:
            longer = f"{_name(cells[0])} was trained for longer than {_name(cells[1])}"
            if own is None or other is None:
                remarks.append(f"it is unknown whether {longer}")
            elif own > other:
                remarks.append(longer)
    return remarks


def _paper_numbers(
    expression: Comparison, cell: Recipe, evidence: _Evidence
) -> tuple[float | None, float | None, float | None, bool | None]:
    """Return the paper's numbers for both sides, their ratio (or the left one), and whether the comparison holds.

    None on another data set than the paper's. `cell` is the left one.
    """
    left = evidence.printed(expression.left, cell[2], cell[0])
    right = None
    effect = left
    if expression.right:
        right = evidence.printed(expression.right, expression.right.place.recipe, cell[0])
        effect = None if left is None or right is None else left / right
    if effect is None:
        return left, right, None, None
    held = effects.decide(expression, effects.exactly(effect), 1.0, 1.0).verdict == REPLICATED
    return left, right, effect, held


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


def _numbers(effect: Effect) -> tuple[float | None, float | None, float | None]:
    """Return mean and interval of an effect; None where there is none."""
    mean, low, high = (n if math.isfinite(n) else None for n in (effect.mean, effect.low, effect.high))
    return mean, low, high


def _cells(part: Part) -> list[str]:
    """Return the names of the cells of a part."""
    return [part.left, *([part.right] if part.right else [])]


def _were(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} {'were' if len(names) > 1 else 'was'}"


def _name(cell: Recipe) -> str:
    return "/".join(cell)
