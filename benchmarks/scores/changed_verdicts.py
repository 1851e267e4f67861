"""Old and new verdicts on the published matrices, with the reason for each that changed.

    python benchmarks/scores/changed_verdicts.py --before COMMIT --out docs/results/verdicts/README.md

The old ones are read from the tables that the commit published, the new ones computed from the matrices in
docs/results. The default run is left out: with one seed nothing but a size is decided.
"""

import argparse
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

from slimdiff.analysis import findings
from slimdiff.analysis.claims import file, verdicts
from slimdiff.analysis.claims.effects import NOT_RUN, REPLICATED
from slimdiff.analysis.claims.verdicts import Verdict
from slimdiff.analysis.decisions import FINDINGS, Margins
from slimdiff.analysis.matrix import read_matrix, read_paper
from slimdiff.analysis.measures import REFERENCE

ROOT = Path(__file__).parents[2]
RESOURCES = ROOT / "workflow" / "resources"
RESULTS = Path("docs/results")
MATRICES = ("slim", "paper-cpu-ncsn", "open-questions", "sensitivity")
LISTED = 3  # recipes of a change that are named
# Claims that were restated, and how; the others changed with the rules.
RESTATED = {
    "ncsn-4bit-best": "now against 8-bit layers with float weights, which the size of the paper's file says",
    "no-speed": "now of the paper's techniques alone, in turns instead of raw times",
    "ncsn-groups-vs-prune": "now against half of the middle, which the paper's numbers are of",
    "guidance-explains-ddpm": "now scale 1 against scale 1",
    "guidance-helps-ncsn": "now guided against labels alone",
    "ninety-percent": "now equivalence to `longer`",
    "spare-middle": "now equivalence to `baseline`",
}


def published(commit: str, path: Path) -> str:
    """Return a file of the repository at `commit`; empty if it did not exist."""
    command = ["git", "-C", str(ROOT), "show", f"{commit}:{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def old_verdicts(text: str) -> dict[str, str]:
    """Return claim → verdict of a published claims.md."""
    return dict(re.findall(r"^\| `([\w+.-]+)` \| \w+ \| \*\*([\w ]+)\*\* \|", text, re.MULTILINE))


def old_findings(text: str) -> dict[tuple[str, str], str]:
    """Return (model, recipe) → finding of a published differences.md."""
    found: dict[tuple[str, str], str] = {}
    model, place = "", 0
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            model = line.rpartition(", ")[2]
        elif "finding" in cells:
            place = cells.index("finding")
        elif line.startswith("| `") and place:
            found[model, cells[0].strip("`")] = cells[place]
    return found


def margins() -> Margins:
    """Return the margins of config.yaml."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return Margins(**config["verdicts"]["margins"])


def evaluate(name: str) -> list[Verdict]:
    """Return the verdicts on the published matrix `name`, on the paper's claims and the open questions."""
    matrix = read_matrix(ROOT / RESULTS / name / "matrix.parquet")
    claims = file.read([RESOURCES / "claims.yaml", RESOURCES / "open-questions.yaml"])
    return verdicts.evaluate_claims(matrix, read_paper(RESOURCES / "paper_reference.csv"), claims, margins())


def reason(verdict: Verdict) -> str:
    """Return why a claim is not replicated: the reason of the part that decides, with its numbers."""
    decisive = [part for part in verdict.parts if part.verdict == verdict.verdict]
    if not decisive:
        return ""
    part = decisive[0]
    numbers = "" if part.effect is None or part.low is None else f" {part.effect:.2f} [{part.low:.2f}, {part.high:.2f}]"
    if part.second_effect is not None:
        numbers += f", KID {part.second_effect:.2f} [{part.second_low or 0:.2f}, {part.second_high or 0:.2f}]"
    said = part.why if verdict.verdict != REPLICATED else ""
    return f"`{part.comparison}`{numbers}{': ' if said else ''}{said}".replace(f"{verdict.dataset}/", "")


def claim_lines(commit: str) -> Iterator[str]:
    """Yield a line for each claim that has, or had, a verdict other than not run."""
    for name in MATRICES:
        before = old_verdicts(published(commit, RESULTS / name / "claims.md"))
        for verdict in evaluate(name):
            old = before.get(verdict.id, "–")
            if {old, verdict.verdict} <= {"–", NOT_RUN}:
                continue
            words = [RESTATED[verdict.id]] if verdict.id in RESTATED and old != "–" else []
            words += [reason(verdict)] if verdict.verdict != old or words else []
            yield f"| {name} | `{verdict.id}` | {old} | **{verdict.verdict}** | {'; '.join(filter(None, words))} |"


def finding_lines(commit: str) -> Iterator[str]:
    """Yield a line for each matrix and change of the finding on images."""
    for name in MATRICES:
        before = old_findings(published(commit, RESULTS / name / "differences.md"))
        matrix = read_matrix(ROOT / RESULTS / name / "matrix.parquet")
        differences = findings.find(matrix, margins()).differences[REFERENCE]
        changes: dict[tuple[str, str], list[str]] = {}
        whys: dict[tuple[str, str], Counter[str]] = {}
        for (_, model, recipe), difference in differences.items():
            old, new = before.get((model, recipe), "–"), difference.images
            if new.finding not in FINDINGS or old in ("–", new.finding):
                continue
            changes.setdefault((old, new.finding), []).append(f"{model}/{recipe}")
            whys.setdefault((old, new.finding), Counter()).update([new.why] if new.why else [])
        for (old, new_finding), recipes in sorted(changes.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(f"`{recipe}`" for recipe in recipes[:LISTED])
            more = f" and {len(recipes) - LISTED} more" if len(recipes) > LISTED else ""
            why = "; ".join(f"{text} ({count})" for text, count in whys[old, new_finding].most_common(1))
            yield f"| {name} | {old} | **{new_finding}** | {len(recipes)} | {shown}{more} | {why} |"


def page(commit: str) -> str:
    """Return the page."""
    own = margins()
    return "\n\n".join(
        [
            "# Published matrices by new rules",
            f"`python benchmarks/scores/changed_verdicts.py --before {commit} --out docs/results/verdicts/README.md`: "
            "no training, sampling or scoring. New: the reference `longer`, agreement of FID and KID, margins (images "
            f"{own.of_images('mnist'):g}, equivalence {own.of_equivalence('mnist'):g}, sizes {own.size:g}, speed "
            f"{own.speed:g}), times in turns, Holm's correction ([rules](../../claims.md), [power](power.md)).",
            "## Claims",
            "\n".join(["| matrix | claim | was | is | why |", "|---|---|---|---|---|", *claim_lines(commit)]),
            "## Findings on images",
            "Recipes whose finding changed, with the most frequent reason; differences.md of each matrix has all.",
            "\n".join(
                ["| matrix | was | is | recipes | which | why |", "|---|---|---|---|---|---|", *finding_lines(commit)]
            ),
        ]
    )


def main() -> None:
    """Write the page."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--before", required=True, help="commit with the old tables")
    arguments.add_argument("--out", type=Path, required=True, help="Markdown file")
    given = arguments.parse_args()
    given.out.write_text(page(given.before) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
