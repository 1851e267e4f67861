"""Tables of the differences between recipes: their findings over seeds, and our changes next to the paper's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from slimdiff.analysis import differences
from slimdiff.analysis.differences import KINDS, RATIOS
from slimdiff.analysis.findings import SHARES, Findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.analysis.measures import BASELINE, FID, KID, LIKENESS, PACKED, SIZE, TIME, VERSUS_PAPER, Measure
from slimdiff.analysis.paper import NOT_RUN, percent_text
from slimdiff.analysis.statistics import ALPHA
from slimdiff.io import files
from slimdiff.report.contents import TABLES
from slimdiff.report.tables.markdown import NOTHING, grid, interval, missing, p_value, text, unwatched, without_value

DIFFERENCES_CAPTION = (
    "Images are compared with the reference over the same seeds: `baseline`, or the uncompressed recipe of the same "
    "training; *why* names what else differs. Files and times are compared with `baseline`; times are taken in turns. "
    "Ratios are geometric means over seeds with 95 % t-intervals of the logarithms, differences of shares are in "
    "percentage points. **Images** are better or worse if FID and KID both say so in paired t-tests of the logarithms "
    "and both exceed {quality}; they are equivalent if two one-sided tests put both within {equivalence:g}. The margin "
    "of sizes is {size:g}, that of times at least {speed:g}. p-values are corrected for all recipes of this page "
    f"(Benjamini and Hochberg), and findings need one below {ALPHA:.2f}. Unresolved does not mean equal. With one seed "
    "nothing but a size is decided."
)
VERSUS_CAPTION = (
    "Change of each recipe: of FID relative to its reference (`baseline`, or the uncompressed recipe trained "
    "likewise), of size and time relative to `baseline`; ours with the 95 % t-interval over seeds, and the paper's. "
    "Metrics, machines, samplers and sizes differ, so compare signs and rough sizes. Our times are taken in turns. "
    "Direction says whether better or worse images (differences.md) agree with the paper's FID; it is open for other "
    "findings. A tilde marks numbers that the paper prints as approximate or only elsewhere."
)
HEADINGS = {  # ours, the paper's
    FID.column: ("in-domain FID, ours", "Inception FID, paper"),
    SIZE.column: ("gzip size, ours", "size, paper"),
    TIME.column: ("time per image, ours", "time per image, paper"),
}
ENDS = ("", "_low", "_high")
RATIO_NAMES = (*(f"{column}_ratio" for column in RATIOS), "fid_indomain_baseline_ratio")
DECIMALS = {
    **dict.fromkeys(
        ("fid_indomain", "fid_indomain_low", "fid_indomain_high", "fid_indomain_sd", "fid_indomain_sampling_sd"), 3
    ),
    **dict.fromkeys([f"{name}{end}" for name in RATIO_NAMES for end in ENDS], 4),
    **dict.fromkeys(SHARES, 4),
    **dict.fromkeys([f"{share}_points{end}" for share in SHARES for end in ENDS], 2),
    **dict.fromkeys([measure.column for measure in LIKENESS], 4),
    "bits_per_weight": 3,
    **dict.fromkeys([f"{kind}_p{end}" for kind in KINDS for end in ("", "_equivalent")], 6),
}


def write_all(matrix: Matrix, findings: Findings, paper: pd.DataFrame, folder: Path) -> None:
    """Write the tables `differences` and `versus-paper` into `folder`."""
    frame = differences.table(matrix, findings, paper, TABLES)
    files.write_text(folder / "differences.csv", differences_csv(frame))
    files.write_text(folder / "differences.md", differences_markdown(frame, findings))
    in_paper = frame[frame["in_paper"]]
    files.write_text(folder / "versus-paper.csv", versus_paper_csv(in_paper))
    files.write_text(folder / "versus-paper.md", versus_paper_markdown(in_paper))


def differences_csv(frame: pd.DataFrame) -> str:
    """Return one line per recipe of the data sets and models in the matrix."""
    texts = [f"{kind}_{part}" for kind in KINDS for part in ("finding", "why")]
    columns = ["dataset", "model", "optimization", "status", "seeds", "reference", *DECIMALS, *texts]
    return frame.loc[frame["ran"], columns].round(DECIMALS).to_csv(index=False)


def differences_markdown(frame: pd.DataFrame, findings: Findings) -> str:
    """Return two tables per data set and model in the matrix: images, then size and speed."""
    margins = findings.margins
    caption = DIFFERENCES_CAPTION.format(**asdict(margins) | {"quality": margins.quality_text})
    parts = ["# Differences between recipes", caption]
    ran = frame[frame["ran"] & (frame["status"] != NOT_RUN)]
    for (dataset, model), block in ran.groupby(["dataset", "model"], sort=False):
        rows = block.to_dict("records")
        conditional = bool(block["class_accuracy"].notna().any())
        header = ["recipe", "seeds", "reference", "FID [95 %]", "SD over seeds", "SD of sampling", "FID ratio [95 %]"]
        header += ["KID ratio [95 %]", "coverage, points", *["class accuracy, points"] * conditional]
        likeness = [measure for measure in LIKENESS if block[measure.column].notna().any()]
        header += [measure.heading for measure in likeness]
        header += ["FID ratio to `baseline`", "p", "p, equivalence", "images", "why"]
        parts += [f"## {dataset}, {model}", grid(header, [_images(row, conditional, likeness) for row in rows])]
        header = ["recipe", "packed size ratio", "gzip size ratio", "bits per weight", "size", "time ratio [95 %]"]
        parts.append(grid([*header, "p", "speed", "why"], [_costs(row) for row in rows]))
    return "\n\n".join(parts) + "\n"


def versus_paper_csv(frame: pd.DataFrame) -> str:
    """Return one line per recipe, with changes in percent of its reference or the baseline."""
    changes = [f"{measure.column}_change_{end}" for measure in VERSUS_PAPER for end in ("percent", "low", "high")]
    changes += [f"paper_{measure.paper}_change_percent" for measure in VERSUS_PAPER]
    columns = ["dataset", "model", "optimization", "label", "status", "seeds", "reference", "finding", "direction"]
    return frame[[*columns, *changes, "note"]].round(dict.fromkeys(changes, 1)).to_csv(index=False)


def versus_paper_markdown(frame: pd.DataFrame) -> str:
    """Return a table per data set and model, and one for a family that was not run."""
    header = ["recipe", "in the paper", "seeds", "reference"]
    for measure in VERSUS_PAPER:
        header += HEADINGS[measure.column]
    timed = frame[TIME.column].notna()
    caption = [VERSUS_CAPTION, *unwatched(timed & (frame["unwatched"] > 0), timed, "recipes")]
    parts = ["# Ours and the paper's", " ".join(caption)]
    for (dataset, model), block in frame.groupby(["dataset", "model"], sort=False):
        others = block[block["optimization"] != BASELINE]
        parts += [
            f"## {dataset}, {model}",
            grid([*header, "direction"], [_versus_paper(row) for row in others.to_dict("records")]),
        ]
    return "\n\n".join(parts) + "\n"


def _images(row: Mapping[Any, Any], conditional: bool, likeness: Sequence[Measure]) -> list[str]:
    failures = [str(row["status"])] if "seeds failed" in str(row["status"]) else []
    return [
        f"`{row['optimization']}`",
        str(row["seeds"]) if row["seeds"] else NOTHING,
        _reference(row),
        interval(row["fid_indomain"], row["fid_indomain_low"], row["fid_indomain_high"], 2),
        text(row["fid_indomain_sd"], 2),
        text(row["fid_indomain_sampling_sd"], 2),
        _interval(row, f"{FID.column}_ratio", 2),
        _interval(row, f"{KID.column}_ratio", 2),
        _interval(row, "coverage_points", 1),
        *[_interval(row, "class_accuracy_points", 1)] * conditional,
        *(text(row[measure.column], measure.decimals) for measure in likeness),
        _interval(row, "fid_indomain_baseline_ratio", 2),
        p_value(row["images_p"]),
        p_value(row["images_p_equivalent"]),
        str(row["images_finding"]),
        "; ".join(dict.fromkeys(note for note in (row["images_why"], *failures) if note)),
    ]


def _costs(row: Mapping[Any, Any]) -> list[str]:
    return [
        f"`{row['optimization']}`",
        *(text(row[f"{column}_ratio"], 3) for column in (PACKED.column, SIZE.column)),
        text(row["bits_per_weight"], 2),
        str(row["size_finding"]),
        _interval(row, f"{TIME.column}_ratio", 2),
        p_value(row["speed_p"]),
        str(row["speed_finding"]),
        str(row["speed_why"]),
    ]


def _reference(row: Mapping[Any, Any]) -> str:
    own = row["optimization"] == BASELINE or not row["reference"]
    return NOTHING if own else f"`{row['reference']}`"


def _interval(row: Mapping[Any, Any], name: str, decimals: int) -> str:
    mean, low, high = (row[f"{name}{end}"] for end in ENDS)
    return interval(mean, low, high, decimals)


def _versus_paper(row: Mapping[Any, Any]) -> list[str]:
    line = [f"`{row['optimization']}`", str(row["label"] or NOTHING), str(row["seeds"] or row["status"])]
    line.append(_reference(row))
    for measure in VERSUS_PAPER:
        column = measure.column
        change = [row[f"{column}_change_{end}"] for end in ("percent", "low", "high")]
        line.append(without_value(row, column) if missing(change[0]) else change_text(*change))
        tilde = "~" if measure.paper in str(row["approximate"]).split(";") else ""
        printed = change_text(row[f"paper_{measure.paper}_change_percent"])
        line.append(printed if printed == NOTHING else tilde + printed)
    return [*line, str(row["direction"] or NOTHING)]


def change_text(percent: float, low: float = float("nan"), high: float = float("nan")) -> str:
    """Return a change as text, with its interval if that is wider than a point."""
    if missing(percent):
        return NOTHING
    mean, *ends = (percent_text(number, 1) for number in (percent, low, high) if not missing(number))
    has_width = len(set(ends)) > 1
    return f"{mean} [{', '.join(end.removesuffix(' %') for end in ends)}]" if has_width else mean
