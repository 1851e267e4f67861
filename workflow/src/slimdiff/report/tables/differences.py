"""Tables of the differences between recipes: their tests over seeds, and our changes next to the paper's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from slimdiff.analysis import differences, statistics
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE, VERSUS_PAPER
from slimdiff.analysis.paper import percent_text
from slimdiff.io import files
from slimdiff.report.contents import TABLES
from slimdiff.report.tables.markdown import NOTHING, grid, interval, missing, p_value, text

DIFFERENCES_CAPTION = (
    "Each recipe is compared with `baseline` over the same training seeds. The ratio is the geometric mean of the "
    "seeds' ratios of in-domain FID, with its 95 % t-interval; p is from a paired t-test on log FID, and Holm's "
    "correction covers the {tests} tests of this page. A recipe is better or worse if the corrected p is below "
    f"{1 - statistics.CONFIDENCE:.2f} and the ratio exceeds {statistics.RESOLUTION}, the resolution of the in-domain "
    "FID. Everything else is unresolved, which does not mean equal. One seed has neither interval nor test. SD over "
    "seeds includes the noise of training and of sampling, SD of sampling that of sampling alone."
)
VERSUS_CAPTION = (
    "Change of each recipe relative to the baseline of its own family: ours with the 95 % t-interval over seeds, and "
    "the paper's. Metrics, machines, samplers and sizes differ, so compare signs and rough sizes. Direction says "
    "whether a better or worse FID (differences.md) agrees with the paper; it is open for unresolved differences. A "
    "tilde marks numbers that the paper prints as approximate or only elsewhere."
)
HEADINGS = {  # ours, the paper's
    "fid_indomain": ("in-domain FID, ours", "Inception FID, paper"),
    "size_gzip_bytes": ("gzip size, ours", "size, paper"),
    "inference_ms_per_image": ("ms per image, ours", "ms per image, paper"),
    "train_ms_per_epoch": ("training per epoch, ours", "training per epoch, paper"),
}
DIFFERENCE_DECIMALS = {
    **dict.fromkeys(
        ("fid_indomain", "fid_indomain_low", "fid_indomain_high", "fid_indomain_sd", "fid_indomain_sampling_sd"), 3
    ),
    **dict.fromkeys(("ratio", "ratio_low", "ratio_high"), 4),
    **dict.fromkeys(("p", "p_holm"), 6),
}


def write_all(matrix: Matrix, findings: Findings, paper: pd.DataFrame, folder: Path) -> None:
    """Write the tables `differences` and `versus-paper` into `folder`."""
    frame = differences.table(matrix, findings, paper, TABLES)
    files.write_text(folder / "differences.csv", differences_csv(frame))
    files.write_text(folder / "differences.md", differences_markdown(frame))
    files.write_text(folder / "versus-paper.csv", versus_paper_csv(frame))
    files.write_text(folder / "versus-paper.md", versus_paper_markdown(frame))


def differences_csv(frame: pd.DataFrame) -> str:
    """Return one line per recipe of the data sets and models in the matrix."""
    columns = ["dataset", "model", "optimization", "status", "seeds", *DIFFERENCE_DECIMALS, "finding", "why"]
    return frame.loc[frame["ran"], columns].round(DIFFERENCE_DECIMALS).to_csv(index=False)


def differences_markdown(frame: pd.DataFrame) -> str:
    """Return a table per data set and model in the matrix."""
    header = ["recipe", "seeds", "in-domain FID [95 %]", "SD over seeds", "SD of sampling", "ratio to baseline [95 %]"]
    header += ["p", "p, Holm", "finding", "why"]
    ran = frame[frame["ran"]]
    parts = ["# Differences between recipes", DIFFERENCES_CAPTION.format(tests=int(ran["p"].notna().sum()))]
    for (dataset, model), block in ran.groupby(["dataset", "model"], sort=False):
        lines = [_difference(row) for row in block.to_dict("records")]
        parts += [f"## {dataset}, {model}", grid(header, lines)]
    return "\n\n".join(parts) + "\n"


def versus_paper_csv(frame: pd.DataFrame) -> str:
    """Return one line per recipe, with changes in percent of the baseline."""
    changes = [f"{measure.column}_change_{end}" for measure in VERSUS_PAPER for end in ("percent", "low", "high")]
    changes += [f"paper_{measure.paper}_change_percent" for measure in VERSUS_PAPER]
    columns = ["dataset", "model", "optimization", "label", "status", "seeds", "finding", "direction"]
    return frame[[*columns, *changes, "note"]].round(dict.fromkeys(changes, 1)).to_csv(index=False)


def versus_paper_markdown(frame: pd.DataFrame) -> str:
    """Return a table per data set and model, and one for a family that was not run."""
    header = ["recipe", "in the paper", "seeds"]
    for measure in VERSUS_PAPER:
        header += HEADINGS[measure.column]
    parts = ["# Ours and the paper's", VERSUS_CAPTION]
    for (dataset, model), block in frame.groupby(["dataset", "model"], sort=False):
        others = block[block["optimization"] != BASELINE]
        parts += [
            f"## {dataset}, {model}",
            grid([*header, "direction"], [_versus_paper(row) for row in others.to_dict("records")]),
        ]
    return "\n\n".join(parts) + "\n"


def _difference(row: Mapping[Any, Any]) -> list[str]:
    failures = [str(row["status"])] if "seeds failed" in str(row["status"]) else []
    return [
        f"`{row['optimization']}`",
        str(row["seeds"]) if row["seeds"] else NOTHING,
        interval(row["fid_indomain"], row["fid_indomain_low"], row["fid_indomain_high"], 2),
        text(row["fid_indomain_sd"], 2),
        text(row["fid_indomain_sampling_sd"], 2),
        interval(row["ratio"], row["ratio_low"], row["ratio_high"], 2),
        p_value(row["p"]),
        p_value(row["p_holm"]),
        str(row["finding"]),
        "; ".join(dict.fromkeys(note for note in (row["why"], *failures) if note)),
    ]


def _versus_paper(row: Mapping[Any, Any]) -> list[str]:
    line = [f"`{row['optimization']}`", str(row["label"] or NOTHING), str(row["seeds"] or row["status"])]
    for measure in VERSUS_PAPER:
        column = measure.column
        line.append(_change(*(row[f"{column}_change_{end}"] for end in ("percent", "low", "high"))))
        tilde = "~" if measure.paper in str(row["approximate"]).split(";") else ""
        printed = _change(row[f"paper_{measure.paper}_change_percent"])
        line.append(printed if printed == NOTHING else tilde + printed)
    return [*line, str(row["direction"] or NOTHING)]


def _change(percent: float, low: float = float("nan"), high: float = float("nan")) -> str:
    """Return a change as text, with its interval if that is wider than a point."""
    if missing(percent):
        return NOTHING
    mean, *ends = (percent_text(number, 1) for number in (percent, low, high) if not missing(number))
    has_width = len(set(ends)) > 1
    return f"{mean} [{', '.join(end.removesuffix(' %') for end in ends)}]" if has_width else mean
