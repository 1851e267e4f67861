"""Our numbers next to the paper's, line by line: the frame of tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE, REFERENCE, Measure, TableSpec
from slimdiff.analysis.statistics import Outcome, Ratio, Summary, percent_change
from slimdiff.config.lookup import walk_starts

PAPER_DATASET = "mnist"  # the paper's data set
NOT_RUN = "not run"
MAX_OTHERS = 20  # recipes outside the paper's tables that a panel shows


@dataclass(frozen=True)
class Line:
    """One recipe to show, with the paper's row for it if there is one."""

    optimization: str
    label: str = ""  # the paper's name for it
    note: str = ""
    kind: str = "other"  # if the config lacks the recipe
    paper: Mapping[str, Any] | None = None


def spec_lines(paper: pd.DataFrame, spec: TableSpec, family: str) -> list[Line]:
    """Return the lines of `spec` for `family`: its baseline, the paper's lines in their order, then the extra ones."""
    baseline = _baseline(paper, spec, family)
    lines = [_line(row, spec.kind) for row in _records(paper, spec.paper_table, family)]
    if baseline is not None and spec.baseline_table != spec.paper_table:
        lines.insert(0, _line(baseline, spec.kind))
    return lines + [Line(name, note=note, kind=_line_kind(name, spec.kind)) for name, note in spec.extra]


def compare(
    matrix: Matrix,
    findings: Findings,
    lines: Sequence[Line],
    measures: Sequence[Measure],
    family: str,
    baseline: str,
    paper_baseline: Mapping[str, Any] | None,
) -> pd.DataFrame:
    """Return one row per data set, model of `family` and line. Families that were not run have the paper's numbers.

    Columns: dataset, model, optimization, label, kind; status ("ok", "not run", "failed: …", "1 of 3 seeds failed: …");
    seeds (without the failed ones); disturbed (seeds whose times do not count) and unwatched (of which that is
    unknown); reference (the recipe that its images are compared with, or empty); for each measure `m` its mean m, m_low
    and m_high (95 %) and m_change_percent, and the paper's paper_p and paper_p_change_percent; approximate (columns
    that the paper prints with a tilde); finding on the images, or "not run"; note. Missing numbers are NaN.

    Changes of images are relative to the reference, those of costs to `baseline`. If `baseline` is not the recipe of
    that name, every change is relative to it.
    """
    settings = matrix.config
    side = REFERENCE if baseline == BASELINE else baseline
    differences = findings.differences[side]
    rows = []
    for dataset, model in pairs(matrix, family):
        for line in lines:
            recipe = (dataset, model, line.optimization)
            outcome = findings.outcomes.get(recipe, Outcome())
            row: dict[str, Any] = {
                "dataset": dataset,
                "model": model,
                "optimization": line.optimization,
                "label": line.label,
                "kind": kind(line.optimization, settings, line.kind),
                "status": _status(outcome),
                "seeds": outcome.seeds - outcome.failed,
                "disturbed": outcome.disturbed,
                "unwatched": outcome.unwatched,
                "reference": differences[recipe].reference if recipe in differences else "",
            }
            for measure in measures:
                ratio = findings.ratio(measure.column, recipe, side) if measure.change else Ratio()
                row |= _our_numbers(measure, findings.summary(measure.column, recipe), ratio)
                row |= _paper_numbers(measure, line.paper, paper_baseline)
            finding = differences[recipe].images.finding if recipe in differences else NOT_RUN
            approximate = (line.paper or {}).get("approximate")
            rows.append(row | {"approximate": approximate, "finding": finding, "note": line.note})
    return pd.DataFrame(rows)


def table(matrix: Matrix, findings: Findings, paper: pd.DataFrame, spec: TableSpec) -> pd.DataFrame:
    """Return `compare` for the table `spec`, one family after the other."""
    frames = []
    for family in spec.families:
        lines, paper_baseline = spec_lines(paper, spec, family), _baseline(paper, spec, family)
        frames.append(compare(matrix, findings, lines, spec.measures, family, spec.baseline, paper_baseline))
    return pd.concat(frames, ignore_index=True)


def techniques(
    matrix: Matrix, findings: Findings, paper: pd.DataFrame, specs: Sequence[TableSpec], measures: Sequence[Measure]
) -> pd.DataFrame:
    """Return `compare` for the lines of several tables of the same families, then every other recipe that was run.

    Lines without a number in the paper or the matrix are left out. The column `listed` marks recipes of the tables.
    """
    first = specs[0]
    recipes = matrix.frame[["model", "optimization"]]
    frames = []
    for family in first.families:
        listed = [line for spec in specs for line in spec_lines(paper, spec, family)]
        lines = {line.optimization: line for line in reversed(listed)}  # the first line of each name wins
        order = list(dict.fromkeys(line.optimization for line in listed))
        models = {model for _, model in pairs(matrix, family)}
        run = recipes[recipes["model"].isin(models)]["optimization"].unique()
        order += [optimization for optimization in run if optimization not in lines]
        chosen = [lines.get(optimization, Line(optimization)) for optimization in order]
        paper_baseline = _baseline(paper, first, family)
        frame = compare(matrix, findings, chosen, measures, family, first.baseline, paper_baseline)
        frames.append(frame.assign(listed=frame["optimization"].isin(lines)))
    frame = pd.concat(frames, ignore_index=True)
    return frame[(frame["status"] != NOT_RUN) | (frame["label"] != "")].reset_index(drop=True)


def drop_crowd(frame: pd.DataFrame, max_others: int = MAX_OTHERS) -> pd.DataFrame:
    """Return the lines of `techniques` that fit into a figure, in their order.

    Of the recipes outside the tables, each data set and model keeps the `max_others` with the lowest FID.
    """
    others = frame[~frame["listed"]].sort_values("fid_indomain", kind="stable")
    kept = others.groupby(["dataset", "model"], sort=False).head(max_others).index
    return frame[frame["listed"] | frame.index.isin(kept)].reset_index(drop=True)


def pairs(matrix: Matrix, family: str) -> list[tuple[str, str]]:
    """Return the (dataset, model) pairs of `family` in the order of the matrix; the paper's own if it has none."""
    family_of = families(matrix)
    rows = matrix.frame[["dataset", "model"]].drop_duplicates().itertuples(index=False)
    run = [(str(dataset), str(model)) for dataset, model in rows if family_of[model] == family]
    return run or [(PAPER_DATASET, family)]


def families(matrix: Matrix) -> dict[str, str]:
    """Return the family of each model of `matrix`. A model that the config lacks is its own family."""
    models = matrix.config.get("models", {})
    return {str(model): str(models.get(model, {}).get("family", model)) for model in matrix.frame["model"].unique()}


def kind(optimization: str, config: Mapping[str, Any], default: str = "other") -> str:
    """Return what `optimization` does to a model: a kind of technique, "several" or "other".

    The recipe named baseline is of the kind "baseline". A recipe that `config` lacks is of the kind `default`.
    """
    if optimization == BASELINE:
        return "baseline"
    recipe = config.get("optimizations", {}).get(optimization)
    if recipe is None:
        return default
    settings = config.get("trainings", {})
    names = [name for name in walk_starts(settings, recipe.get("training", "")) if name in settings]
    trainings = [settings[name] for name in reversed(names)]
    training = {key: value for options in trainings for key, value in options.items()}
    prunings = [step["prune"] for step in (*trainings, recipe) if "prune" in step]
    applies = {
        "pruned": any(step.get("method") not in ("channels", "blocks") for step in prunings),
        "channel-pruned": any(step.get("method") == "channels" for step in prunings),
        "block-pruned": any(step.get("method") == "blocks" for step in prunings),
        "quantized": bool(recipe.get("quantize"))
        or training.get("linear", "float") != "float"
        or training.get("optimizer_state", "float") != "float",
        "grouped": training.get("groups", 1) != 1,
        "EMA": recipe.get("weights", "raw") == "ema",
        "sampler": bool(recipe.get("sampler")),
        "engine": recipe.get("engine", "torch") != "torch" or recipe.get("precision", "fp32") != "fp32",
    }
    kinds = [name for name, holds in applies.items() if holds]
    if len(kinds) > 1:
        return "several"
    return kinds[0] if kinds else "other"


def percent_text(percent: float, decimals: int = 0) -> str:
    """Format a change with its sign and a true minus; ± if it rounds to 0."""
    number = round(percent, decimals)
    return f"{'+' if number > 0 else '−' if number < 0 else '±'}{abs(number):.{decimals}f} %"


def _records(paper: pd.DataFrame, table_name: str, family: str) -> list[dict[str, Any]]:
    chosen = paper[(paper["table"] == table_name) & (paper["model"] == family)]
    return [{str(name): value for name, value in row.items()} for row in chosen.to_dict("records")]


def _baseline(paper: pd.DataFrame, spec: TableSpec, family: str) -> dict[str, Any] | None:
    """Return the paper's row of the baseline of `family`, if it prints one."""
    rows = [row for row in _records(paper, spec.baseline_table, family) if row["optimization"] == spec.baseline]
    return rows[0] if rows else None


def _line(row: Mapping[str, Any], kind: str) -> Line:
    notes = [] if pd.isna(row["note"]) else [str(row["note"])]
    if not pd.isna(row["total_ms"]):
        notes.insert(0, f"{row['samples']} images in {row['total_ms']:.0f} ms")
    name = str(row["optimization"])
    return Line(name, str(row["label"]), "; ".join(notes), _line_kind(name, kind), row)


def _line_kind(optimization: str, kind: str) -> str:
    """Return the kind of a line in a table of `kind`; a name with ema+ combines several."""
    return "several" if optimization.startswith("ema+") else kind


def _status(outcome: Outcome) -> str:
    if not outcome.seeds:
        return NOT_RUN
    if outcome.failed == outcome.seeds:
        return f"failed: {outcome.reason}"
    return f"{outcome.failed} of {outcome.seeds} seeds failed: {outcome.reason}" if outcome.failed else "ok"


def _our_numbers(measure: Measure, summary: Summary, ratio: Ratio) -> dict[str, float]:
    row = {measure.column: summary.mean}
    if measure.interval:
        row |= {f"{measure.column}_low": summary.low, f"{measure.column}_high": summary.high}
    if measure.change:
        row[f"{measure.column}_change_percent"] = percent_change(ratio.mean)
    return row


def _paper_numbers(
    measure: Measure, line: Mapping[str, Any] | None, baseline: Mapping[str, Any] | None
) -> dict[str, float]:
    if not measure.paper:
        return {}
    value = _number(line, measure.paper)
    row = {f"paper_{measure.paper}": value}
    if measure.change:
        row[f"paper_{measure.paper}_change_percent"] = percent_change(value / _number(baseline, measure.paper))
    return row


def _number(row: Mapping[str, Any] | None, column: str) -> float:
    return float("nan") if row is None or pd.isna(row[column]) else float(row[column])
