"""Verdicts on claims: what a matrix says about each, and what the report's own numbers say.

docs/claims.md has the rules in plain words; slimdiff.analysis.statistics the intervals and the resolution.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import paper as comparison
from slimdiff.analysis import statistics
from slimdiff.analysis.claims.expressions import EVERY, Comparison, Expression, Failure, Place
from slimdiff.analysis.claims.file import Claim
from slimdiff.analysis.paper import PAPER_DATASET
from slimdiff.analysis.statistics import CONFIDENCE, FRECHET, RESOLUTION, Outcome, Recipe

REPLICATED, CONTRADICTED, UNRESOLVED, NOT_RUN = VERDICTS = ("replicated", "contradicted", "unresolved", "not run")
GRAVEST = (CONTRADICTED, NOT_RUN, UNRESOLVED, REPLICATED)  # a claim is what the first of these is that a part is
# Columns that no seed's luck moves: one seed tells them.
DETERMINISTIC = ("params", "params_nonzero", "macs", "size_bytes", "size_gzip_bytes", "size_packed_bytes")
PAPER_COLUMNS = {  # our column → the report's of like meaning
    "fid_indomain": "fid",
    "size_gzip_bytes": "size_bytes",
    "inference_ms_per_image": "inference_ms",
    "train_ms_per_epoch": "train_ms_per_epoch",
}
ONE_SEED = "one seed, no interval"


@dataclass(frozen=True)
class Part:
    """One comparison between two cells, or of one cell with a number. None stands for a number that there is not."""

    comparison: str  # as the claim has it
    left: str  # dataset/model/optimization
    right: str | None
    column: str | None  # of the left; None: the claim is that the cell fails
    seeds: int  # that count: paired ones, where there are two cells
    effect: float | None  # geometric mean of left / right, or mean of left where there is no right
    low: float | None  # 95 % t-interval of the effect
    high: float | None
    verdict: str
    why: str
    paper_left: float | None = None
    paper_right: float | None = None
    paper_effect: float | None = None
    paper_holds: bool | None = None  # whether the report's own numbers, as printed, bear out what it claims


@dataclass(frozen=True)
class Verdict:
    """What becomes of a claim on one data set."""

    id: str
    claim: str
    source: str
    file: str
    dataset: str
    verdict: str  # one of VERDICTS
    report: str  # whether its own numbers bear it out: yes, no, yes where it prints a number, no number
    contradictions: tuple[str, ...]  # of the source with itself
    parts: tuple[Part, ...]


def judge(matrix: pd.DataFrame, paper: pd.DataFrame, claims: Iterable[Claim]) -> list[Verdict]:
    """The verdict on each claim, for each data set of the matrix that it may be about."""
    evidence = _Evidence(matrix, paper)
    verdicts = []
    for claim in claims:
        notes = evidence.notes(claim.comparisons)
        for dataset in _datasets(claim, matrix):
            parts = tuple(part for expression in claim.comparisons for part in _parts(expression, dataset, evidence))
            verdicts.append(
                Verdict(
                    claim.id,
                    claim.claim,
                    claim.source,
                    claim.file,
                    dataset,
                    overall(part.verdict for part in parts),
                    _report_verdict(parts),
                    (*claim.contradictions, *notes),
                    parts,
                )
            )
    return verdicts


def overall(verdicts: Iterable[str]) -> str:
    """The verdict on a claim whose parts have these; one about every technique has none in a matrix without any."""
    found = set(verdicts)
    return next((verdict for verdict in GRAVEST if verdict in found), NOT_RUN)


def to_json(matrix: pd.DataFrame, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """`verdicts` as JSON values, with the matrix that they are of and how many there are of each."""
    source = matrix.attrs.get("provenance", {})
    counts = Counter(verdict.verdict for verdict in verdicts)
    return {
        "matrix": {key: source.get(key) for key in ("slimdiff", "git_commit", "written_at")} | {"cells": len(matrix)},
        "confidence": CONFIDENCE,
        "resolution": RESOLUTION,
        "verdicts": {verdict: counts[verdict] for verdict in VERDICTS},
        "claims": [asdict(verdict) for verdict in verdicts],
    }


def decide(
    operator: str, mean: float, low: float, high: float, within: float | None = None, resolution: float = 1.0
) -> tuple[str, str]:
    """The verdict on “mean OPERATOR 1”, and why it is not replicated.

    Args:
        operator: "<", ">" or "=".
        mean: of the effect, in units of the threshold.
        low: lower end of its interval.
        high: upper end.
        within: of "=", the share by which it may be off.
        resolution: a ratio nearer to 1 than this is no difference, whatever the interval.
    """
    if operator == "=":
        margin = max(1 + (within or 0.0), resolution)
        if 1 / margin <= low and high <= margin:
            return REPLICATED, ""
        if high < 1 / margin or low > margin:
            return CONTRADICTED, "the interval lies outside of the margin"
        return UNRESOLVED, "the interval reaches over the margin"
    below = operator == "<"
    claimed, other = (high < 1, low >= 1) if below else (low > 1, high <= 1)
    if not claimed and not other:
        return UNRESOLVED, "the interval holds the threshold"
    if 1 / resolution <= mean <= resolution and resolution > 1:
        return UNRESOLVED, f"within the resolution, a ratio of {resolution}"
    return (REPLICATED, "") if claimed else (CONTRADICTED, "the interval lies on the other side of the threshold")


class _Evidence:
    """The matrix and the report's numbers, as comparisons ask for them."""

    def __init__(self, matrix: pd.DataFrame, paper: pd.DataFrame) -> None:
        self.families = comparison.families(matrix)
        self.recipes = comparison.config(matrix).get("optimizations", {})
        self.outcomes = statistics.outcomes(matrix)
        self._matrix = matrix
        self._paper: list[dict[Any, Any]] = paper.to_dict("records")
        self._values: dict[str, dict[Recipe, dict[int, float]]] = {}

    def values(self, column: str, cell: Recipe) -> dict[int, float]:
        """What `column` is at each seed of `cell` that did not fail."""
        if column not in self._values:
            self._values[column] = statistics.by_seed(self._matrix, column)
        return self._values[column].get(cell, {})

    def models(self, dataset: str, family: str, *recipes: str) -> list[str]:
        """The models of `family` that all of `recipes` were run with on `dataset`, else all that ran, else its name."""
        ran = dict.fromkeys(model for data, model, _ in self.outcomes if data == dataset)
        own = [model for model in ran if self.families[model] == family]
        asked = [recipe for recipe in recipes if recipe != EVERY]
        whole = [model for model in own if all((dataset, model, recipe) in self.outcomes for recipe in asked)]
        return whole or own or [family]

    def techniques(self, dataset: str, model: str, family: str) -> list[str]:
        """What * stands for: the recipes of the report's tables and of the matrix that keep the model's sampler.

        Of another data set than the report's only those of the matrix.
        """
        rows = self._paper if dataset == PAPER_DATASET else []
        printed = [str(row["optimization"]) for row in rows if row["model"] == family and row["table"].isdigit()]
        ran = [recipe for data, name, recipe in self.outcomes if (data, name) == (dataset, model)]
        own = [name for name in dict.fromkeys([*printed, *ran]) if not self.recipes.get(name, {}).get("sampler")]
        return own or [EVERY]

    def printed(self, column: str, place: Place, recipe: str) -> float | None:
        """The report's number: the first that it prints, so that Table 9, which repeats others, comes last."""
        if place.dataset not in (None, PAPER_DATASET) or column not in PAPER_COLUMNS:
            return None
        for row in self._paper:
            value = row[PAPER_COLUMNS[column]]
            if (row["model"], row["optimization"]) == (place.family, recipe) and not pd.isna(value):
                return float(value)
        return None

    def notes(self, expressions: Iterable[Expression]) -> tuple[str, ...]:
        """What paper_reference.csv notes of the cells that `expressions` are about."""
        places = [place for expression in expressions for place in expression.places]
        wanted = {(place.family, place.recipe) for place in places if place.dataset in (None, PAPER_DATASET)}
        found = []
        for row in self._paper:
            family, recipe = row["model"], row["optimization"]
            named = (family, recipe) in wanted or ((family, EVERY) in wanted and row["table"].isdigit())
            if named and not pd.isna(row["note"]):
                table = f"Table {row['table']}" if row["table"].isdigit() else f"Section {row['section']}"
                found.append(f"{table}, {row['label']}: {row['note']}")
        return tuple(found)


def _datasets(claim: Claim, matrix: pd.DataFrame) -> list[str]:
    """Those that the claim names, or each of the matrix where it leaves one open."""
    named = [place.dataset for expression in claim.comparisons for place in expression.places]
    if None in named:
        return [str(name) for name in matrix["dataset"].unique()] or [PAPER_DATASET]
    return [" and ".join(dict.fromkeys(name for name in named if name))]


def _parts(expression: Expression, dataset: str, evidence: _Evidence) -> Iterator[Part]:
    """The comparison for each pair of models, and each technique, that it stands for."""
    if isinstance(expression, Failure):
        place = expression.place
        data = place.dataset or dataset
        for model in evidence.models(data, place.family, place.recipe):
            yield _failure(expression, (data, model, place.recipe), evidence)
        return
    left, right = expression.left.place, expression.right.place if expression.right else None
    own_data, other_data = left.dataset or dataset, (right or left).dataset or dataset
    together = right is None or (own_data, left.family) == (other_data, right.family)  # then of one model
    of_left = [left.recipe, *([right.recipe] if right and together else [])]
    models = evidence.models(own_data, left.family, *of_left)
    others = [None] if right is None or together else evidence.models(other_data, right.family, right.recipe)
    for model, other in itertools.product(models, others):
        second: Recipe | None = (other_data, other or model, right.recipe) if right else None
        recipes = evidence.techniques(own_data, model, left.family) if left.recipe == EVERY else [left.recipe]
        for recipe in recipes:
            if (own_data, model, recipe) != second:
                yield _comparison(expression, (own_data, model, recipe), second, evidence)


def _failure(expression: Failure, cell: Recipe, evidence: _Evidence) -> Part:
    outcome = evidence.outcomes.get(cell, Outcome())
    if not outcome.seeds:
        verdict, why = NOT_RUN, f"{_name(cell)} was not run"
    elif outcome.seeds == 1:
        verdict, why = (
            UNRESOLVED,
            f"one seed: {'it failed: ' + outcome.reason if outcome.failed else 'it did not fail'}",
        )
    elif outcome.failed == outcome.seeds:
        verdict, why = REPLICATED, f"all {outcome.seeds} seeds failed: {outcome.reason}"
    elif outcome.failed:
        verdict, why = UNRESOLVED, _some_failed(cell, outcome)
    else:
        verdict, why = CONTRADICTED, f"none of {outcome.seeds} seeds failed"
    return Part(expression.text, _name(cell), None, None, outcome.seeds, None, None, None, verdict, why)


def _comparison(expression: Comparison, left: Recipe, right: Recipe | None, evidence: _Evidence) -> Part:
    columns = (expression.left.column, *((expression.right.column,) if expression.right else ()))
    cells = (left, *((right,) if right else ()))
    resolution = RESOLUTION if set(columns) & set(FRECHET) else 1.0
    values = [evidence.values(column, cell) for column, cell in zip(columns, cells, strict=True)]
    if len(values) == 2:
        shared = [seed for seed in values[0] if seed in values[1]]
        ratio = statistics.paired(*values)
        n, mean, low, high = ratio.n, ratio.mean, ratio.low, ratio.high
        alike = bool(shared) and all(values[0][seed] == values[1][seed] for seed in shared)
    else:
        shared, alike = list(values[0]), False
        summary = statistics.summarize(list(values[0].values()))
        n, mean, low, high = summary.n, summary.mean, summary.low, summary.high
    if n == 1 and (alike or set(columns) <= set(DETERMINISTIC)):
        low = high = mean

    outcomes = [evidence.outcomes.get(cell, Outcome()) for cell in cells]
    pairs = list(zip(cells, outcomes, strict=True))
    absent = [_name(cell) for cell, outcome in pairs if not outcome.seeds]
    lost = [f"{_name(cell)} failed: {o.reason}" for cell, o in pairs if o.seeds and o.failed == o.seeds]
    blank = [f"{column} of {_name(cell)}" for column, cell in zip(columns, cells, strict=True)]
    blank = [text for text, own in zip(blank, values, strict=True) if not own]
    if absent:
        verdict, why = NOT_RUN, f"{' and '.join(absent)} {'were' if len(absent) > 1 else 'was'} not run"
    elif lost:
        verdict, why = UNRESOLVED, "; ".join(lost)
    elif blank:
        verdict, why = NOT_RUN, f"{' and '.join(blank)} {'were' if len(blank) > 1 else 'was'} not measured"
    elif not shared:
        verdict, why = UNRESOLVED, "no seed in common"
    elif n < len(shared):
        verdict, why = UNRESOLVED, "a value is not above 0, so there is no ratio"
    elif math.isnan(low):
        verdict, why = UNRESOLVED, ONE_SEED
    else:
        factor = expression.factor
        effect = (mean / factor, low / factor, high / factor)
        verdict, why = decide(expression.operator, *effect, within=expression.within, resolution=resolution)
    if not lost:
        some = [_some_failed(cell, outcome) for cell, outcome in pairs if outcome.failed]
        why = "; ".join([*([why] if why else []), *some])
    return Part(
        expression.text,
        _name(left),
        _name(right) if right else None,
        columns[0],
        n,
        _number(mean),
        _number(low),
        _number(high),
        verdict,
        why,
        *_printed(expression, left[2], evidence),
    )


def _printed(
    expression: Comparison, recipe: str, evidence: _Evidence
) -> tuple[float | None, float | None, float | None, bool | None]:
    """The report's numbers for both sides, their ratio (or the left one), and whether the comparison holds for them."""
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


def _report_verdict(parts: Iterable[Part]) -> str:
    held = {part.paper_holds for part in parts}
    if False in held:
        return "no"
    if True not in held:
        return "no number"
    return "yes, where it prints a number" if None in held else "yes"


def _some_failed(cell: Recipe, outcome: Outcome) -> str:
    return f"{outcome.failed} of {outcome.seeds} seeds of {_name(cell)} failed: {outcome.reason}"


def _name(cell: Recipe) -> str:
    return "/".join(cell)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
