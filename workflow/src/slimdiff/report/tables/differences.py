"""Tables of what the seeds tell apart, and of our changes beside the report's."""

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
    "The seed is the unit: each recipe is held against `baseline` of the same seeds. The ratio is the geometric mean "
    "of the seeds' ratios of FID with its 95 % t-interval, p that of a paired t-test on log FID, and Holm's correction "
    f"runs over the {{tests}} tests of this page. A recipe is better or worse where the corrected p is below "
    f"{1 - statistics.CONFIDENCE:.2f} and the ratio is beyond {statistics.RESOLUTION}, the resolution of the in-domain "
    "FID; everything else is unresolved, which does not mean equal. With one seed there is neither an interval nor a "
    "test. SD over seeds holds the noise of training and of sampling; SD of sampling is from the draw of images alone."
)
BESIDE_CAPTION = (
    "Change of each recipe against the baseline of its own family, ours with the 95 % t-interval over seeds and the "
    "report's. Ours are other metrics, machines, samplers and sizes, so compare signs and rough sizes. Direction says "
    "whether an FID that was found better or worse (differences.md) points where the report's does; it is open where "
    "nothing was found. A tilde marks what the report prints as approximate or only elsewhere."
)
HEADINGS = {"fid_indomain": "FID", "size_gzip_bytes": "gzip size", "inference_ms_per_image": "ms per image"}
HEADINGS |= {"train_ms_per_epoch": "training per epoch"}
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
    files.write_text(folder / "versus-paper.csv", beside_csv(frame))
    files.write_text(folder / "versus-paper.md", beside_markdown(frame))


def differences_csv(frame: pd.DataFrame) -> str:
    """For programs: one line per recipe of a data set and model of which anything was run."""
    columns = ["dataset", "model", "optimization", "status", "seeds", *DIFFERENCE_DECIMALS, "finding", "why"]
    return frame.loc[frame["ran"], columns].round(DIFFERENCE_DECIMALS).to_csv(index=False)


def differences_markdown(frame: pd.DataFrame) -> str:
    """For people: a table for each data set and model of which anything was run."""
    header = ["recipe", "seeds", "FID [95 %]", "SD over seeds", "SD of sampling", "ratio to baseline [95 %]"]
    header += ["p", "p, Holm", "finding", "why"]
    ran = frame[frame["ran"]]
    parts = ["# What the seeds tell apart", DIFFERENCES_CAPTION.format(tests=int(ran["p"].notna().sum()))]
    for (dataset, model), block in ran.groupby(["dataset", "model"], sort=False):
        lines = [_difference(row) for row in block.to_dict("records")]
        parts += [f"## {dataset}, {model}", grid(header, lines)]
    return "\n\n".join(parts) + "\n"


def beside_csv(frame: pd.DataFrame) -> str:
    """For programs: one line per recipe, changes in percent of the baseline."""
    changes = [f"{measure.column}_change_{end}" for measure in VERSUS_PAPER for end in ("percent", "low", "high")]
    theirs = [f"paper_{measure.paper}_change_percent" for measure in VERSUS_PAPER]
    columns = ["dataset", "model", "optimization", "label", "status", "seeds", "finding", "direction"]
    return frame[[*columns, *changes, *theirs, "note"]].round(dict.fromkeys([*changes, *theirs], 1)).to_csv(index=False)


def beside_markdown(frame: pd.DataFrame) -> str:
    """For people: a table for each data set and model, and for each family that was not run."""
    header = ["recipe", "in the report", "seeds"]
    for measure in VERSUS_PAPER:
        header += [f"{HEADINGS[measure.column]}, ours", f"{HEADINGS[measure.column]}, report"]
    parts = ["# Ours beside the report's", BESIDE_CAPTION]
    for (dataset, model), block in frame.groupby(["dataset", "model"], sort=False):
        others = block[block["optimization"] != BASELINE]
        parts += [
            f"## {dataset}, {model}",
            grid([*header, "direction"], [_beside(r) for r in others.to_dict("records")]),
        ]
    return "\n\n".join(parts) + "\n"


def _difference(row: Mapping[Any, Any]) -> list[str]:
    partly = [str(row["status"])] if "seeds failed" in str(row["status"]) else []
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
        "; ".join(dict.fromkeys(note for note in (row["why"], *partly) if note)),
    ]


def _beside(row: Mapping[Any, Any]) -> list[str]:
    line = [f"`{row['optimization']}`", str(row["label"] or NOTHING), str(row["seeds"] or row["status"])]
    for measure in VERSUS_PAPER:
        column = measure.column
        line.append(_change(*(row[f"{column}_change_{end}"] for end in ("percent", "low", "high"))))
        tilde = "~" if measure.paper in str(row["approximate"]).split(";") else ""
        theirs = _change(row[f"paper_{measure.paper}_change_percent"])
        line.append(theirs if theirs == NOTHING else tilde + theirs)
    return [*line, str(row["direction"] or NOTHING)]


def _change(percent: float, low: float = float("nan"), high: float = float("nan")) -> str:
    """A change as people write it, with its interval if that is wider than a point."""
    if missing(percent):
        return NOTHING
    shown, *ends = (percent_text(number, 1) for number in (percent, low, high) if not missing(number))
    wide = len(set(ends)) > 1
    return f"{shown} [{', '.join(end.removesuffix(' %') for end in ends)}]" if wide else shown
