"""The table of claims and verdicts, from the record that the stage `claims` writes."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimdiff.io import files
from slimdiff.report.tables.markdown import NOTHING, grid, interval, plain, text

CAPTION = (
    "Each claim is a list of comparisons between cells, and is replicated where all of them are. A comparison is "
    "replicated or contradicted where the {confidence:g} % t-interval over paired seeds lies wholly on one side and, "
    "for the in-domain FID, the ratio is beyond {resolution}; else it is unresolved. Numbers are ratios of left to "
    "right, or the value of the left where there is no right. The last columns hold the report's own numbers, and "
    "whether these bear out what it claims. docs/claims.md has the rules."
)
COLUMNS = ("comparison", "left", "right", "column", "seeds", "effect", "low", "high", "verdict", "why")
REPORTED = ("paper_left", "paper_right", "paper_effect", "paper_holds")
HOLDS = {True: "yes", False: "no", None: NOTHING}


def write_all(record: Mapping[str, Any], folder: Path) -> None:
    """Write the table `claims` into `folder`, of `record`: what `verdicts.to_json` gives."""
    files.write_text(folder / "claims.csv", to_csv(record))
    files.write_text(folder / "claims.md", to_markdown(record))


def to_csv(record: Mapping[str, Any]) -> str:
    """For programs: one line per comparison, with the verdict on its claim."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["id", "dataset", "claim_verdict", "paper_bears_out", *COLUMNS, *REPORTED, "claim", "source"])
    for claim in record["claims"]:
        head = [claim["id"], claim["dataset"], claim["verdict"], claim["paper_supports"]]
        for part in claim["parts"]:
            values = [_written(part[name]) for name in (*COLUMNS, *REPORTED)]
            lines.writerow([*head, *values, claim["claim"], claim["source"]])
    return out.getvalue()


def to_markdown(record: Mapping[str, Any]) -> str:
    """For people: all claims with their verdicts, then each with its comparisons."""
    counts = ", ".join(f"{number} {verdict}" for verdict, number in record["verdicts"].items() if number)
    header = ["claim", "data set", "verdict", "what is claimed", "the report's own numbers bear it out"]
    lines = [
        [f"`{c['id']}`", c["dataset"], f"**{c['verdict']}**", c["claim"], c["paper_supports"]] for c in record["claims"]
    ]
    caption = CAPTION.format(confidence=100 * record["confidence"], resolution=record["resolution"])
    parts = ["# The report's claims", caption, f"{counts or 'There are no claims'}.", grid(header, lines)]
    for claim in record["claims"]:
        parts += [plain(f"## {claim['id']}: {claim['verdict']} ({claim['dataset']})")]
        parts += [plain(f"{claim['claim']} ({claim['source']})")]
        parts.append(_comparisons(claim))
        if claim["contradictions"]:
            parts.append(
                "The report on these cells:\n\n" + "\n".join(f"- {plain(note)}" for note in claim["contradictions"])
            )
    return "\n\n".join(parts) + "\n"


def _comparisons(claim: Mapping[str, Any]) -> str:
    header = ["comparison", "left", "right", "seeds", "ours [95 %]", "verdict", "why", "the report", "bears it out"]
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
                part["verdict"],
                part["why"].replace(prefix, ""),
                _reported(part),
                HOLDS[part["paper_holds"]],
            ]
        )
    return grid(header, lines)


def _reported(part: Mapping[str, Any]) -> str:
    if part["paper_effect"] is None:
        return NOTHING
    ratio = text(part["paper_effect"], 3)
    return ratio if part["right"] is None else f"{ratio} ({part['paper_left']:.10g} / {part['paper_right']:.10g})"


def _written(value: Any) -> Any:
    """A number with ten digits at most, and nothing where there is none."""
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else value
