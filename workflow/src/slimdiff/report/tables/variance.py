"""The table of variance components: how much scores move with each source of randomness."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.findings import Findings
from slimdiff.io import files
from slimdiff.report.tables.markdown import NOTHING, grid, interval, missing

CAPTION = (
    "How much a score moves if one source of randomness alone is drawn anew: standard deviation of its natural "
    f"logarithm (0.05 is about 5 %) with a {100 * statistics.CONFIDENCE:g} % interval, pooled over sets of cells that "
    "share all other seeds. `all`: one seed draws every source, as without `mask_seed` and `sampling_seed`. Every "
    "source moves the finite sample of images, too, so sampling is the floor of the others. Share: of the sum of the "
    "sources' variances, where the matrix has all sources of a recipe."
)
NONE = "No two cells of this matrix are the same recipe with other seeds."
HEADINGS = {"fid_indomain": "SD of log FID", "kid": "SD of log KID"}
DECIMALS = dict.fromkeys(("sd", "low", "high", "share"), 4)


def write_all(findings: Findings, folder: Path) -> None:
    """Write the table `variance` into `folder`."""
    files.write_text(folder / "variance.csv", findings.variance.round(DECIMALS).to_csv(index=False))
    files.write_text(folder / "variance.md", to_markdown(findings.variance))


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a table per data set and model, one line per recipe and source."""
    percent = f"[{100 * statistics.CONFIDENCE:g} %]"
    header = ["recipe", "redrawn", "cells", "sets", *(f"{name} {percent}" for name in HEADINGS.values()), "share"]
    parts = ["# Components of variance", CAPTION]
    for (dataset, model), block in frame.groupby(["dataset", "model"], sort=False):
        lines = []
        for (recipe, source), own in block.groupby(["optimization", "redrawn"], sort=False):
            rows = {row["metric"]: row for row in own.to_dict("records")}
            first = next(iter(rows.values()))
            numbers = [_deviation(rows[metric]) if metric in rows else NOTHING for metric in HEADINGS]
            share = NOTHING if missing(first["share"]) else f"{100 * first['share']:.0f} %"
            lines.append([f"`{recipe}`", str(source), str(first["cells"]), str(first["sets"]), *numbers, share])
        parts += [f"## {dataset}, {model}", grid(header, lines)]
    return "\n\n".join(parts if len(frame) else [*parts, NONE]) + "\n"


def _deviation(row: Mapping[Any, Any]) -> str:
    return interval(row["sd"], row["low"], row["high"], 3)
