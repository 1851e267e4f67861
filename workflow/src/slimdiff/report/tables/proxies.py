"""The table of proxies: how well cheap numbers rank pruned modules by FID."""

from pathlib import Path

import pandas as pd

from slimdiff.analysis import proxies, statistics
from slimdiff.analysis.findings import Findings
from slimdiff.io import files
from slimdiff.report.tables.markdown import grid, interval, missing, text

CAPTION = (
    "Cells that differ from their baseline by one pruned module alone. ρ is Spearman's rank correlation over these "
    "cells, between the ratio of in-domain FID to the baseline of the same seed and a number known before sampling: 1 "
    f"means the same order, 0 none. Its {100 * statistics.CONFIDENCE:g} % interval is from {proxies.RESAMPLES} "
    "bootstrap resamples of modules, each with all its cells. Best in: share of the resamples in which no other proxy "
    "correlates more. The largest correlation is in bold. A dash: the proxy is constant, missing in a cell, or there "
    f"are fewer than {proxies.MIN_MODULES} modules."
)
NONE = "No recipe of this matrix prunes one module alone."
HEADINGS = {
    "denoising_loss": "denoising loss / baseline's",
    "denoising_loss_low": "denoising loss / baseline's, low noise",
    "denoising_loss_middle": "denoising loss / baseline's, middle noise",
    "denoising_loss_high": "denoising loss / baseline's, high noise",
    "fraction_removed": "share of parameters zeroed or removed",
    "macs_saved": "share of multiply-accumulates saved",
}
DECIMALS = dict.fromkeys(("rho", "low", "high", "best_share"), 3)


def write_all(findings: Findings, folder: Path) -> None:
    """Write the table `proxies` into `folder`."""
    frame = findings.proxies
    files.write_text(folder / "proxies.csv", frame.round(DECIMALS).to_csv(index=False))
    files.write_text(folder / "proxies.md", to_markdown(frame))


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a table per data set and model; the proxy with the largest correlation is in bold."""
    header = ["method", "proxy", "modules", "cells", "Spearman's ρ [95 %]", "best in"]
    parts = ["# Proxies for the FID of a pruned module", CAPTION]
    for (dataset, model), block in frame.groupby(["dataset", "model"], sort=False):
        most = block.groupby("method")["rho"].transform("max")
        lines = []
        for row, best in zip(block.to_dict("records"), block["rho"] > most - proxies.TIE_TOLERANCE, strict=True):
            rho = interval(row["rho"], row["low"], row["high"], 2)
            share = text(row["best_share"], 0) if missing(row["best_share"]) else f"{100 * row['best_share']:.0f} %"
            proxy = HEADINGS[row["proxy"]]
            lines.append([row["method"], proxy, str(row["modules"]), str(row["cells"]), rho, share])
            if best:
                lines[-1][1] = f"**{proxy}**"
        parts += [f"## {dataset}, {model}", grid(header, lines)]
    return "\n\n".join(parts if len(frame) else [*parts, NONE]) + "\n"
