"""The page of the paper: every number of its tables and every claim, with the published study that ran it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis.claims.file import Claim
from slimdiff.analysis.claims.verdicts import Verdict
from slimdiff.analysis.differences import direction
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE, FID, LATENCY, REFERENCE, SIZE, VERSUS_PAPER
from slimdiff.analysis.paper import NOT_RUN, PAPER_DATASET
from slimdiff.analysis.statistics import Outcome, Recipe, percent_change
from slimdiff.io.text import size
from slimdiff.report.contents import TABLES
from slimdiff.report.tables.differences import change_text
from slimdiff.report.tables.markdown import NOTHING, grid, interval, missing, text

CAPTION = (
    "Written by `slimdiff publish` from the matrices in this folder, by the rules of today ([claims](../claims.md)). "
    "Each number of the paper is next to ours, of the study that has three seeds or more of it, then the most numbers "
    "of the paper, then the newest matrix. In brackets: the change from the baseline, of images from their reference, "
    "with the 95 % t-interval over seeds. Features, machines and samplers differ: **compare signs and rough changes "
    "alone**. Direction: whether better or worse images agree with the paper's FID. A tilde marks what the paper "
    "prints as approximate or only elsewhere."
)
CLAIMS_CAPTION = (
    "The verdict of each study that ran a claim's cells, with the first comparison that decides it. Ratios are left / "
    "right with 95 % t-intervals. The third column says whether the paper's own numbers support its claim."
)
SPECS = {spec.paper_table: spec for spec in TABLES} | {
    "S4.1": TABLES[0],
    "S3.2.2": TABLES[3],
}  # sections with a baseline
ENOUGH = 3  # seeds; with as many, a study with more numbers of the paper goes first
# The three numbers of VERSUS_PAPER: heading, column of the value, and its text.
NUMBERS = (
    ("FID", FID.column, lambda value: text(value, 2)),
    ("gzip size", SIZE.column, size),
    ("ms per image", LATENCY.column, lambda value: text(value, 2)),
)


@dataclass(frozen=True)
class Study:
    """A published matrix and what follows from it."""

    name: str  # of its folder
    matrix: Matrix
    findings: Findings
    verdicts: Sequence[Verdict]

    def outcome(self, row: Mapping[str, Any]) -> Outcome:
        """Return the outcome of the recipe in a row of the paper; one without seeds if it was not run."""
        return self.findings.outcomes.get(recipe_of(row), Outcome())


def page(studies: Sequence[Study], paper: pd.DataFrame, claims: Sequence[Claim]) -> str:
    """Return the page. Numbers and claims that no study ran are on it, too."""
    rows = [{str(name): value for name, value in row.items()} for row in paper.to_dict("records")]
    lines = [_line(row, rows, _best(studies, row, rows)) for row in rows]
    n_run = sum(line[3] != NOTHING for line in lines)
    header = ["table", "in the paper", "recipe", "study", "seeds"]
    header += [f"{heading}, {side}" for heading, _, _ in NUMBERS for side in ("ours", "paper")]
    verdicts = [line for claim in claims for line in _claim_lines(claim, studies)]
    head = ["claim", "statement", "supported", "study", "seeds", "verdict", "comparison", "ratio", "KID", "paper"]
    parts = ["# The paper, number by number", CAPTION, f"{n_run} of {len(rows)} were run."]
    parts += ["## Numbers", grid([*header, "images", "direction"], lines), "## Claims", CLAIMS_CAPTION]
    return "\n\n".join([*parts, grid(head, verdicts)]) + "\n"


def recipe_of(row: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a row of the paper, of the model that is named as its family."""
    return (PAPER_DATASET, str(row["model"]), str(row["optimization"]))


def _best(studies: Sequence[Study], row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Study | None:
    """Return the study whose numbers are shown next to those of `row`."""

    def rank(study: Study) -> tuple[int, int, int, str]:
        outcome = study.outcome(row)
        seeds, coverage = outcome.seeds - outcome.failed, sum(study.outcome(other).seeds > 0 for other in rows)
        return min(seeds, ENOUGH), coverage, seeds, str(study.matrix.provenance.get("written_at", ""))

    return max((study for study in studies if study.outcome(row).seeds), key=rank, default=None)


def _line(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], study: Study | None) -> list[str]:
    spec, recipe = SPECS[str(row["table"])], recipe_of(row)
    side = REFERENCE if spec.baseline == BASELINE else spec.baseline
    places = (spec.baseline_table, row["model"], spec.baseline)
    base = next((r for r in rows if (r["table"], r["model"], r["optimization"]) == places), None)
    paper_changes = {m.paper: _paper_change(row, base, m.paper) for m in VERSUS_PAPER}
    numbers = []
    for measure, (_, column, shown) in zip(VERSUS_PAPER, NUMBERS, strict=True):
        own = NOTHING if study is None else _own(study.findings, recipe, measure.column, column, side, shown)
        numbers += [own, _printed(row, measure.paper, paper_changes[measure.paper], shown)]
    head = [f"{row['table']}", str(row["label"]), f"`{row['optimization']}`"]
    if study is None:
        return [*head, NOTHING, NOT_RUN, *numbers, NOTHING, NOTHING]
    outcome, difference = study.outcome(row), study.findings.differences[side].get(recipe)
    finding = difference.images.finding if difference else NOTHING
    failed = f", {outcome.failed} failed" if outcome.failed else ""
    seeds = study.findings.ratio(FID.column, recipe, side).n
    agrees = direction(finding, paper_changes["fid"], seeds) if recipe[2] != spec.baseline else ""
    reference = study.findings.references.get(recipe)
    if side == REFERENCE and reference not in (None, BASELINE):
        finding += f", against `{reference}`"
    place = [f"[{study.name}]({study.name}/README.md)", f"{outcome.seeds}{failed}"]
    return [*head, *place, *numbers, finding, agrees or NOTHING]


def _own(findings: Findings, recipe: Recipe, measure: str, column: str, side: str, shown: Any) -> str:
    """Return our value with its change, if that is not of the baseline itself."""
    value, ratio = findings.summary(column, recipe).mean, findings.ratio(measure, recipe, side)
    written = NOTHING if missing(value) else shown(value)
    if not ratio.n or recipe[2] == (BASELINE if side == REFERENCE else side):
        return written
    return f"{written} ({change_text(*map(percent_change, (ratio.mean, ratio.low, ratio.high)))})"


def _printed(row: Mapping[str, Any], column: str, percent: float, shown: Any) -> str:
    """Return the paper's value with its change."""
    if missing(row[column]):
        return NOTHING
    tilde = "~" if column in str(row["approximate"]).split(";") else ""
    return f"{tilde}{shown(float(row[column]))}" + ("" if missing(percent) else f" ({change_text(percent)})")


def _paper_change(row: Mapping[str, Any], base: Mapping[str, Any] | None, column: str) -> float:
    """Return the paper's change in percent; NaN for the baseline itself and without both numbers."""
    if base is None or row["optimization"] == base["optimization"] or missing(row[column]) or missing(base[column]):
        return float("nan")
    return percent_change(float(row[column]) / float(base[column]))


def _claim_lines(claim: Claim, studies: Sequence[Study]) -> Iterator[list[str]]:
    """Yield a line for each study that ran the cells of `claim`, or one without a study."""
    verdicts = [(study, each) for study in studies for each in study.verdicts if each.id == claim.id]
    supported = next((each.paper_supports for _, each in verdicts if each.dataset == PAPER_DATASET), NOTHING)
    ran = [(study, each) for study, each in verdicts if each.verdict != NOT_RUN]
    head = [f"`{claim.id}`", claim.claim, supported]
    for study, each in ran:
        part = next(part for part in each.parts if part.verdict == each.verdict)
        on = "" if each.dataset == PAPER_DATASET else f", {each.dataset}"
        place = [f"[{study.name}]({study.name}/README.md){on}", str(part.seeds), f"**{each.verdict}**"]
        ratio = interval(part.effect, part.low, part.high, 3)
        second = interval(part.second_effect, part.second_low, part.second_high, 3)
        yield [*head, *place, f"`{part.comparison}`", ratio, second, text(part.paper_effect, 3)]
        head[1:] = ["", ""]
    if not ran:
        yield [*head, NOTHING, NOTHING, f"**{NOT_RUN}**", *[NOTHING] * 4]
