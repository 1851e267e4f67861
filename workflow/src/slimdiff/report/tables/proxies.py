"""The table of proxies: how well cheap numbers rank pruned modules as their FID does."""

from pathlib import Path

import pandas as pd

from slimdiff.analysis import proxies, statistics
from slimdiff.analysis.findings import Findings
from slimdiff.io import files
from slimdiff.report.tables.markdown import grid, interval, missing, text

CAPTION = (
    "Cells whose only difference from their baseline is that one module was pruned. Spearman's rank correlation, over "
    "these cells, of the FID's ratio to the same seed's baseline with a number that is known before any image is "
    f"drawn; its {100 * statistics.CONFIDENCE:g} % interval is from a bootstrap of {proxies.RESAMPLES} draws of "
    "modules, each with all of its cells. 1: the proxy orders the cells as their FID does; 0: not at all. Best in: the "
    "share of these draws in which no other proxy correlates more; the largest correlation is in bold. A dash: the "
    f"proxy is the same in all cells or missing in one, or there are fewer than {proxies.MIN_MODULES} modules. "
    "docs/metrics.md says more."
)
NONE = "No recipe of this matrix prunes one module alone."
HEADINGS = {
    "denoising_loss": "denoising loss / the baseline's",
    "denoising_loss_low": "the same, low noise",
    "denoising_loss_middle": "the same, middle noise",
    "denoising_loss_high": "the same, high noise",
    "fraction_removed": "share of the parameters that are zero or gone",
    "macs_saved": "share of the multiply-accumulates saved",
}
DECIMALS = dict.fromkeys(("rho", "low", "high", "best_share"), 3)


def write_all(findings: Findings, folder: Path) -> None:
    """Write the table `proxies` into `folder`."""
    frame = findings.proxies
    files.write_text(folder / "proxies.csv", frame.round(DECIMALS).to_csv(index=False))
    files.write_text(folder / "proxies.md", to_markdown(frame))


def to_markdown(frame: pd.DataFrame) -> str:
    """For people: a table for each data set and model; the proxy that correlates most is in bold."""
    header = ["cells", "proxy", "modules", "number", "Spearman's ρ [95 %]", "best in"]
    parts = ["# Cheap proxies of what a pruned module costs", CAPTION]
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
