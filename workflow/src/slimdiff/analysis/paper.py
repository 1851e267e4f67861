"""Our numbers beside the report's, line by line: the frame that tables and figures are drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.contents import Measure, TableSpec
from slimdiff.analysis.statistics import Outcome, Summary

PAPER_DATASET = "mnist"  # what the report trained on
NOT_RUN = "not run"
MOST_OTHERS = 20  # recipes of a data set and model that `techniques` shows beside those of the tables


@dataclass(frozen=True)
class Line:
    """One recipe to show, with the report's row for it where there is one."""

    optimization: str
    label: str = ""  # the report's name for it
    note: str = ""
    kind: str = "other"  # where the config does not say
    paper: Mapping[str, Any] | None = None


def spec_lines(paper: pd.DataFrame, spec: TableSpec, family: str) -> list[Line]:
    """The lines of `spec` for `family`: its reference first, then the report's in their order, then the extra ones."""
    reference = _reference(paper, spec, family)
    lines = [_line(row, spec.kind) for row in _records(paper, spec.paper_table, family)]
    if reference is not None and spec.reference_table != spec.paper_table:
        lines.insert(0, _line(reference, spec.kind))
    return lines + [Line(name, note=note, kind=_line_kind(name, spec.kind)) for name, note in spec.extra]


def compare(
    matrix: pd.DataFrame,
    lines: Sequence[Line],
    measures: Sequence[Measure],
    family: str,
    reference: str,
    paper_reference: Mapping[str, Any] | None,
) -> pd.DataFrame:
    """One row per data set, model of `family` and line; a family that was not run still has the report's numbers.

    Columns: dataset, model, optimization, label, kind, status ("ok", "not run", "failed: …", "1 of 3 seeds failed:
    …"), seeds (that did not fail), then for each measure `m` its mean m, m_low and m_high (95 %), m_change_percent
    against `reference` and the report's paper_p and paper_p_change_percent; approximate (columns that the report
    prints with a tilde), finding (`statistics.differences` of the FID, or "not run"), note. Missing numbers are NaN.
    """
    outcomes = statistics.outcomes(matrix)
    summaries = {measure.column: statistics.by_recipe(matrix, measure.column) for measure in measures}
    changes = {m.column: statistics.change(matrix, m.column, reference) for m in measures if m.change}
    found = statistics.differences(matrix, "fid_indomain", reference)
    rows = []
    for dataset, model in pairs(matrix, family):
        for line in lines:
            key = (dataset, model, line.optimization)
            outcome = outcomes.get(key, Outcome())
            row: dict[str, Any] = {
                "dataset": dataset,
                "model": model,
                "optimization": line.optimization,
                "label": line.label,
                "kind": kind(line.optimization, config(matrix), line.kind),
                "status": _status(outcome),
                "seeds": outcome.seeds - outcome.failed,
            }
            for measure in measures:
                summary = summaries[measure.column].get(key, Summary())
                row |= _ours(measure, summary, changes.get(measure.column, {}).get(key, Summary()))
                row |= _theirs(measure, line.paper, paper_reference)
            finding = found[key].finding if key in found else NOT_RUN
            approximate = (line.paper or {}).get("approximate")
            rows.append(row | {"approximate": approximate, "finding": finding, "note": line.note})
    return pd.DataFrame(rows)


def table(matrix: pd.DataFrame, paper: pd.DataFrame, spec: TableSpec) -> pd.DataFrame:
    """`compare` for the table that `spec` declares: its families one after the other."""
    frames = []
    for family in spec.families:
        lines, reference = spec_lines(paper, spec, family), _reference(paper, spec, family)
        frames.append(compare(matrix, lines, spec.measures, family, spec.reference, reference))
    return pd.concat(frames, ignore_index=True)


def techniques(
    matrix: pd.DataFrame, paper: pd.DataFrame, specs: Sequence[TableSpec], measures: Sequence[Measure]
) -> pd.DataFrame:
    """`compare` for the lines of several tables of the same families, then whatever else was run of these.

    A line that neither the report nor the matrix has a number for is left out. The column `listed` says which recipes
    stand in the tables.
    """
    first = specs[0]
    frames = []
    for family in first.families:
        listed = [line for spec in specs for line in spec_lines(paper, spec, family)]
        lines = {line.optimization: line for line in reversed(listed)}  # the first of each name has the last word
        order = list(dict.fromkeys(line.optimization for line in listed))
        models = {model for _, model in pairs(matrix, family)}
        run = matrix[matrix["model"].isin(models)]["optimization"].unique()
        order += [optimization for optimization in run if optimization not in lines]
        chosen = [lines.get(optimization, Line(optimization)) for optimization in order]
        frame = compare(matrix, chosen, measures, family, first.reference, _reference(paper, first, family))
        frames.append(frame.assign(listed=frame["optimization"].isin(lines)))
    frame = pd.concat(frames, ignore_index=True)
    return frame[(frame["status"] != NOT_RUN) | (frame["label"] != "")].reset_index(drop=True)


def fewer(frame: pd.DataFrame, most: int = MOST_OTHERS) -> pd.DataFrame:
    """The lines of `techniques` without those that would crowd a figure, in their order.

    Of the recipes that stand in no table each data set and model keeps the `most` with the lowest FID.
    """
    others = frame[~frame["listed"]].sort_values("fid_indomain", kind="stable")
    kept = others.groupby(["dataset", "model"], sort=False).head(most).index
    return frame[frame["listed"] | frame.index.isin(kept)].reset_index(drop=True)


def pairs(matrix: pd.DataFrame, family: str) -> list[tuple[str, str]]:
    """The (dataset, model) pairs of `family` in the order of the matrix, or the report's own where none was run."""
    known = families(matrix)
    seen = matrix[["dataset", "model"]].drop_duplicates().itertuples(index=False)
    found = [(str(d), str(m)) for d, m in seen if known[m] == family]
    return found or [(PAPER_DATASET, family)]


def families(matrix: pd.DataFrame) -> dict[str, str]:
    """The family of each model in `matrix`.

    The config in the matrix's provenance says it; a model that it does not know is a family of its own.
    """
    models = config(matrix).get("models", {})
    return {str(model): str(models.get(model, {}).get("family", model)) for model in matrix["model"].unique()}


def kind(optimization: str, settings: Mapping[str, Any], unknown: str = "other") -> str:
    """What `optimization` does to a model: one of the kinds of figures, several of them, or other.

    "baseline" is the recipe of that name; `unknown` is said of one that `settings`, the config, does not hold.
    """
    if optimization == "baseline":
        return "baseline"
    recipe = settings.get("optimizations", {}).get(optimization)
    if recipe is None:
        return unknown
    trainings = _chain(settings.get("trainings", {}), recipe.get("training"))
    training = {key: value for options in trainings for key, value in options.items()}
    prunings = [step["prune"] for step in (*trainings, recipe) if "prune" in step]
    kinds = {
        "pruned": any(step.get("method") != "channels" for step in prunings),
        "channel-pruned": any(step.get("method") == "channels" for step in prunings),
        "quantized": bool(recipe.get("quantize"))
        or training.get("linear", "float") != "float"
        or training.get("optimizer_state", "float") != "float",
        "grouped": training.get("groups", 1) != 1,
        "EMA": recipe.get("weights", "raw") == "ema",
        "sampler": bool(recipe.get("sampler")),
        "engine": recipe.get("engine", "torch") != "torch" or recipe.get("precision", "fp32") != "fp32",
    }
    found = [name for name, holds in kinds.items() if holds]
    if len(found) > 1:
        return "several"
    return found[0] if found else "other"


def _chain(trainings: Mapping[str, Any], name: str | None) -> list[Mapping[str, Any]]:
    """The options of a training and of those that it starts from, the first one first."""
    chain: list[Mapping[str, Any]] = []
    while name is not None and name in trainings and len(chain) < len(trainings):
        chain.insert(0, trainings[name])
        name = trainings[name].get("start")
    return chain


def percent_text(percent: float, decimals: int = 0) -> str:
    """A change as people write it: with its sign, a true minus, and ± where it rounds to nothing."""
    number = round(percent, decimals)
    return f"{'+' if number > 0 else '−' if number < 0 else '±'}{abs(number):.{decimals}f} %"


def config(matrix: pd.DataFrame) -> Mapping[str, Any]:
    """The config that the matrix was made with; empty where its provenance does not hold it."""
    found: Mapping[str, Any] = matrix.attrs.get("provenance", {}).get("config", {})
    return found


def _records(paper: pd.DataFrame, table_name: str, family: str) -> list[dict[str, Any]]:
    chosen = paper[(paper["table"] == table_name) & (paper["model"] == family)]
    return [{str(name): value for name, value in row.items()} for row in chosen.to_dict("records")]


def _reference(paper: pd.DataFrame, spec: TableSpec, family: str) -> dict[str, Any] | None:
    """The report's row of the reference recipe of `family`, if it prints one."""
    found = [row for row in _records(paper, spec.reference_table, family) if row["optimization"] == spec.reference]
    return found[0] if found else None


def _line(row: Mapping[str, Any], kind: str) -> Line:
    notes = [] if pd.isna(row["note"]) else [str(row["note"])]
    if not pd.isna(row["total_ms"]):
        notes.insert(0, f"{row['samples']} images in {row['total_ms']:.0f} ms")
    name = str(row["optimization"])
    return Line(name, str(row["label"]), "; ".join(notes), _line_kind(name, kind), row)


def _line_kind(optimization: str, kind: str) -> str:
    """The kind of a line in a table of `kind`: by their names some have averaged weights as well."""
    return "several" if optimization.startswith("ema+") else kind


def _status(outcome: Outcome) -> str:
    if not outcome.seeds:
        return NOT_RUN
    if outcome.failed == outcome.seeds:
        return f"failed: {outcome.reason}"
    return f"{outcome.failed} of {outcome.seeds} seeds failed: {outcome.reason}" if outcome.failed else "ok"


def _ours(measure: Measure, summary: Summary, change: Summary) -> dict[str, float]:
    row = {measure.column: summary.mean}
    if measure.interval:
        row |= {f"{measure.column}_low": summary.low, f"{measure.column}_high": summary.high}
    if measure.change:
        row[f"{measure.column}_change_percent"] = change.mean
    return row


def _theirs(measure: Measure, line: Mapping[str, Any] | None, reference: Mapping[str, Any] | None) -> dict[str, float]:
    if not measure.paper:
        return {}
    value = _number(line, measure.paper)
    row = {f"paper_{measure.paper}": value}
    if measure.change:
        row[f"paper_{measure.paper}_change_percent"] = 100 * (value / _number(reference, measure.paper) - 1)
    return row


def _number(row: Mapping[str, Any] | None, column: str) -> float:
    return float("nan") if row is None or pd.isna(row[column]) else float(row[column])
