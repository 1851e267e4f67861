"""Every table, as CSV for programs and as Markdown for people."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from slimdiff.analysis import paper as comparison
from slimdiff.analysis import statistics
from slimdiff.analysis.decisions import DISTURBED
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import LATENCY, TIME, Measure, TableSpec
from slimdiff.analysis.paper import percent_text
from slimdiff.io import files
from slimdiff.report import contents
from slimdiff.report.tables import claims, differences, proxies, variance
from slimdiff.report.tables.markdown import NOTHING, grid, missing, text, unwatched, without_value

CAPTION = (
    "Changes in brackets are relative to `{baseline}`. **Compare signs and changes, never the values**: our FID is "
    "in-domain, in the features of small networks trained on the same data set; the paper's is an Inception FID whose "
    "input was normalized twice. The paper's times are from other hardware and, by default, another sampler; its "
    "numbers are for MNIST. Ours are geometric means over the seeds that did not fail, of shares plain ones, with the "
    "95 % t-interval in square brackets; a single seed has none. Changes are geometric means of the ratios per seed. "
    "The finding is on the images: FID and KID must agree (differences.md). A tilde marks a number that the paper "
    "prints as approximate or only elsewhere."
)
PAPER_HEADINGS = {"fid": "Inception FID"}  # where the paper measures another quantity
CELLS_TITLE = "All cells"
CELLS_CAPTION = (
    "One line per cell. Speedup is the baseline's time / the cell's, timed interleaved. cells.csv has every column of "
    "the matrix except the settings."
)
CELLS_COLUMNS = {  # column of the matrix → heading and decimals of the Markdown table
    "dataset": ("data set", 0),
    "model": ("model", 0),
    "optimization": ("recipe", 0),
    "seed": ("seed", 0),
    "status": ("status", 0),
    "fid_indomain": ("in-domain FID", 2),
    "fid_indomain_pct": ("in-domain FID (% of variance)", 2),
    "fid_foreign": ("FID, foreign features", 2),
    "kid": ("KID", 4),
    "mind": ("MIND", 2),
    "coverage": ("coverage", 3),
    "class_accuracy": ("class accuracy", 3),
    "psnr": ("PSNR to baseline (dB)", 1),
    "ssim": ("SSIM to baseline", 3),
    "class_tv": ("class distance (TV)", 3),
    "low_confidence": ("low confidence", 3),
    "copy_share": ("copies", 4),
    "n_samples": ("images", 0),
    "params": ("parameters", 0),
    "params_nonzero": ("non-zero", 0),
    "size_gzip_bytes": ("gzip size (bytes)", 0),
    "size_packed_bytes": ("packed (bytes)", 0),
    "inference_ms_per_image": ("ms per image", 2),
    "speedup": ("speedup", 2),
    "network_evaluations": ("network evaluations", 1),
    "train_s": ("training (s)", 0),
    "device": ("device", 0),
    "reason": ("reason", 0),
}


def write_tables(
    matrix: Matrix, findings: Findings, paper: pd.DataFrame, verdicts: Mapping[str, Any], folder: Path
) -> None:
    """Write every table into `folder`; `verdicts` is the record of the stage `claims`."""
    for spec in contents.TABLES:
        frame = comparison.table(matrix, findings, paper, spec)
        files.write_text(folder / f"{spec.name}.csv", to_csv(frame, spec.measures))
        files.write_text(folder / f"{spec.name}.md", to_markdown(frame, spec))
    differences.write_all(matrix, findings, paper, folder)
    claims.write_all(verdicts, folder)
    proxies.write_all(findings, folder)
    variance.write_all(findings, folder)
    files.write_text(folder / f"{contents.CELLS}.csv", matrix_csv(matrix.frame))
    files.write_text(folder / f"{contents.CELLS}.md", cells_markdown(matrix.frame))


def to_csv(frame: pd.DataFrame, measures: Sequence[Measure]) -> str:
    """Return `paper.compare` as CSV, our numbers rounded as `measures` say; missing numbers are empty."""
    decimals = {name: places for measure in measures for name, places in _decimals(measure).items() if name in frame}
    whole = {name: "Int64" for name, places in decimals.items() if places == 0}
    return frame.drop(columns=["kind", "approximate"]).round(decimals).astype(whole).to_csv(index=False)


def to_markdown(frame: pd.DataFrame, spec: TableSpec) -> str:
    """Return `paper.compare` as Markdown: title, caption, and one table per data set and model."""
    caption = [CAPTION.format(baseline=spec.baseline), *(m.meaning for m in spec.measures if m.meaning)]
    times = [measure.column for measure in spec.measures if measure in (LATENCY, TIME)]
    timed = frame[times].notna().any(axis=1)
    caption += unwatched(timed & (frame["unwatched"] > 0), timed, "recipes")
    parts = [f"# {spec.title}", " ".join(caption)]
    for (dataset, model), block in frame.groupby(["dataset", "model"], sort=False):
        header = ["recipe", "in the paper", "seeds"]
        for measure in spec.measures:
            header += [measure.heading] + (
                [f"{PAPER_HEADINGS.get(measure.paper, measure.heading)}, paper"] if measure.paper else []
            )
        lines = [_markdown_line(row, spec) for row in block.to_dict("records")]
        parts += [f"## {dataset}, {model}", grid([*header, "finding", "note"], lines)]
    return "\n\n".join(parts) + "\n"


def matrix_csv(frame: pd.DataFrame) -> str:
    """Return every cell with every column but the settings; disturbed times are empty."""
    return statistics.without_disturbed_times(frame).drop(columns="settings").to_csv(index=False)


def cells_markdown(frame: pd.DataFrame) -> str:
    """Return one line per cell, with those columns of CELLS_COLUMNS that have a value."""
    shown = {name: how for name, how in CELLS_COLUMNS.items() if frame[name].notna().any()}
    lines = []
    rows = zip(frame[list(shown)].to_dict("records"), statistics.disturbed_rows(frame), strict=True)
    for row, disturbed in rows:
        lost = statistics.TIMES if disturbed else ()
        lines.append([DISTURBED if name in lost else text(row[name], places) for name, (_, places) in shown.items()])
    header = [heading for heading, _ in shown.values()]
    timed = frame[list(statistics.TIMES)].notna().any(axis=1)
    caption = [CELLS_CAPTION, *unwatched(timed & frame["disturbed"].isna(), timed, "cells")]
    return "\n\n".join([f"# {CELLS_TITLE}", " ".join(caption), grid(header, lines)]) + "\n"


def _markdown_line(row: Mapping[Any, Any], spec: TableSpec) -> list[str]:
    line = [f"`{row['optimization']}`", str(row["label"] or NOTHING), _seeds(row)]
    for measure in spec.measures:
        value = row[measure.column]
        own = without_value(row, measure.column) if missing(value) else _number(value, measure)
        if measure.interval and not missing(row[f"{measure.column}_low"]):
            low, high = (_number(row[f"{measure.column}_{end}"], measure) for end in ("low", "high"))
            own += f" [{low}, {high}]"
        line.append(own + _change(row, measure.column, spec))
        if measure.paper:
            printed = text(row[f"paper_{measure.paper}"], measure.decimals)
            tilde = "~" if measure.paper in str(row["approximate"]).split(";") and printed != NOTHING else ""
            line.append(tilde + printed + _change(row, f"paper_{measure.paper}", spec))
    reference = row["reference"]
    trained_on = [f"images compared with `{reference}`"] if reference not in ("", spec.baseline) else []
    some = {LATENCY, TIME} & set(spec.measures) and 0 < row["disturbed"] < row["seeds"]
    untimed = [f"{row['disturbed']} of {row['seeds']} profiles disturbed"] if some else []
    notes = [str(row["note"])] if row["note"] else []
    return [*line, str(row["finding"]), "; ".join([*trained_on, *untimed, *notes])]


def _decimals(measure: Measure) -> dict[str, int]:
    """Return the decimals of the columns of `measure`. The paper's numbers keep their digits."""
    own = dict.fromkeys((measure.column, f"{measure.column}_low", f"{measure.column}_high"), measure.decimals)
    changes = dict.fromkeys((f"{measure.column}_change_percent", f"paper_{measure.paper}_change_percent"), 1)
    return own | changes | ({f"paper_{measure.paper}": 0} if measure.decimals == 0 else {})


def _seeds(row: Mapping[Any, Any]) -> str:
    status = str(row["status"])
    if not row["seeds"]:
        return status
    count = f"{row['seeds']}, no interval" if row["seeds"] == 1 else str(row["seeds"])
    return count if status == "ok" else f"{count}; {status}"


def _change(row: Mapping[Any, Any], column: str, spec: TableSpec) -> str:
    """Return the change of `column` in percent, in brackets; empty for the baseline itself."""
    percent = row.get(f"{column}_change_percent", math.nan)
    if math.isnan(percent) or row["optimization"] == spec.baseline:
        return ""
    return f" ({percent_text(percent, 1)})"


def _number(value: object, measure: Measure) -> str:
    """Return our `value` as text; a share in percent."""
    if measure.share and isinstance(value, float):
        return text(100 * value, measure.decimals - 2)
    return text(value, measure.decimals)
