"""The table of claims and verdicts, from the record of the stage `claims`."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimdiff.analysis.decisions import Margins
from slimdiff.io import files
from slimdiff.report.tables.markdown import NOTHING, grid, interval, plain, text

CAPTION = (
    "Each claim is a list of comparisons between cells, and is replicated if all of them are. A comparison is "
    "replicated or contradicted if the {confidence:g} % t-interval over paired seeds lies entirely on one side and the"
    " ratio exceeds the margin (images {quality}, for = {equivalence:g}, sizes {size:g}, speed {speed:g}); otherwise "
    "it is unresolved. Comparisons of images need FID and KID to agree. Numbers are ratios left / right, or the value "
    "of the left without a right. A verdict holds for the scale of the run, which is given with it. The last columns "
    "hold the paper's own numbers, and whether these support its claim. docs/claims.md has the rules."
)
COLUMNS = (
    *("comparison", "left", "right", "column", "seeds", "effect", "low", "high"),
    *("second_column", "second_effect", "second_low", "second_high", "verdict", "why"),
)
PAPER_COLUMNS = ("paper_left", "paper_right", "paper_effect", "paper_holds")
HOLDS = {True: "yes", False: "no", None: NOTHING}


def write_all(record: Mapping[str, Any], folder: Path) -> None:
    """Write the table `claims` into `folder`; `record` is from `verdicts.to_json`."""
    files.write_text(folder / "claims.csv", to_csv(record))
    files.write_text(folder / "claims.md", to_markdown(record))


def to_csv(record: Mapping[str, Any]) -> str:
    """Return one line per comparison, with the verdict on its claim."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(
        ["id", "dataset", "claim_verdict", "paper_supports", *COLUMNS, *PAPER_COLUMNS, "claim", "source", "scale"]
    )
    for claim in record["claims"]:
        head = [claim["id"], claim["dataset"], claim["verdict"], claim["paper_supports"]]
        for part in claim["parts"]:
            values = [_csv_value(part[name]) for name in (*COLUMNS, *PAPER_COLUMNS)]
            lines.writerow([*head, *values, claim["claim"], claim["source"], claim["scale"]])
    return out.getvalue()


def to_markdown(record: Mapping[str, Any]) -> str:
    """Return all claims with their verdicts, then each claim with its comparisons."""
    counts = ", ".join(f"{number} {verdict}" for verdict, number in record["verdicts"].items() if number)
    header = ["claim", "data set", "verdict", "statement", "supported by the paper's own numbers"]
    lines = [
        [f"`{c['id']}`", c["dataset"], f"**{c['verdict']}**", c["claim"], c["paper_supports"]] for c in record["claims"]
    ]
    margins = record["margins"] | {"quality": Margins(**record["margins"]).quality_text}
    caption = CAPTION.format(confidence=100 * record["confidence"], **margins)
    parts = ["# Claims", caption, f"{counts or 'No claims'}.", grid(header, lines)]
    for claim in record["claims"]:
        parts += [plain(f"## {claim['id']}: {claim['verdict']} ({claim['dataset']})")]
        parts += [plain(f"{claim['claim']} ({claim['source']})")]
        parts += [plain(f"Scale: {claim['scale']}.")] if claim["scale"] else []
        parts.append(_comparisons(claim))
        if claim["contradictions"]:
            parts.append(
                "Notes on the paper's numbers of these cells:\n\n"
                + "\n".join(f"- {plain(note)}" for note in claim["contradictions"])
            )
    return "\n\n".join(parts) + "\n"


def _comparisons(claim: Mapping[str, Any]) -> str:
    header = [
        "comparison",
        "left",
        "right",
        "seeds",
        "ours [95 %]",
        "KID [95 %]",
        "verdict",
        "why",
        "the paper",
        "supports the claim",
    ]
    lines = []
    for part in claim["parts"]:
        prefix = f"{claim['dataset']}/"
        lines.append(
            [
                f"`{part['comparison']}`",
                part["left"].removeprefix(prefix),
                (part["right"] or NOTHING).removeprefix(prefix),
                str(part["seeds"]),
                interval(part["effect"], part["low"], part["high"], 3),
                interval(part["second_effect"], part["second_low"], part["second_high"], 3),
                part["verdict"],
                part["why"].replace(prefix, ""),
                _paper_numbers(part),
                HOLDS[part["paper_holds"]],
            ]
        )
    return grid(header, lines)


def _paper_numbers(part: Mapping[str, Any]) -> str:
    if part["paper_effect"] is None:
        return NOTHING
    ratio = text(part["paper_effect"], 3)
    return ratio if part["right"] is None else f"{ratio} ({part['paper_left']:.10g} / {part['paper_right']:.10g})"


def _csv_value(value: Any) -> Any:
    """Return floats with at most ten digits, and an empty text for None."""
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else value
