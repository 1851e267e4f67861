"""The answer in three sentences: what shrinks, what speeds up, and what that costs in FID.

Each data set and model has its own baseline. A ratio of FIDs within the resolution is no cost, a speedup within the
tolerance is no gain, and one seed has no interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from slimdiff.analysis.findings import Findings
from slimdiff.analysis.groups import FID, SIZE, TIME, Group, RecipeComparison
from slimdiff.analysis.statistics import RESOLUTION, Ratio
from slimdiff.io.text import significant, size

MAX_GROUPS = 4  # that a sentence names


@dataclass(frozen=True)
class Answer:
    """The three sentences."""

    smaller: str
    faster: str
    price: str


def answer(frame: pd.DataFrame, findings: Findings) -> Answer:
    """Return the three sentences on the matrix `frame`."""
    failures = _failures(frame)
    if not (frame["status"] == "ok").any():
        nothing = "Nothing can be said about {}, since no cell of the matrix ended well."
        return Answer(nothing.format("size"), nothing.format("time"), _capital(f"{failures}."))
    groups = findings.groups
    remarks = [remark for remark in (_evidence(findings), failures) if remark]
    if not any(group.comparisons for group in groups):
        why = "there is no recipe beside the baseline" if groups else "the matrix has no baseline that ended well"
        nothing = "Nothing can be said of what {}, since " + why + "."
        states = [f"the {group.name} has a baseline of FID {significant(group.baseline_fid)}" for group in groups]
        price = "; ".join([*([_list(states)] if states else []), *remarks])
        return Answer(nothing.format("shrinks"), nothing.format("speeds up"), _capital(f"{price}."))
    return Answer(
        _capital(f"{_clauses([_smaller(group) for group in groups])}."),
        _capital(f"{_clauses([_faster(group) for group in groups])}."),
        _capital(f"{'; '.join([*_prices(groups), *remarks])}."),
    )


def _smaller(group: Group) -> str:
    best = group.smallest()
    if best is None:
        return f"of the {group.name} no recipe shrinks the file"
    own, base = (size(number) for number in best.means[SIZE])
    sentence = f"{best.name} makes the file {significant(1 / best.size.mean)} times smaller ({own} instead of {base})"
    if best.lossless:
        return f"of the {group.name}, {sentence} {_lossless(best)}"
    return f"of the {group.name} no recipe shrinks the file for free: {sentence} at {_multiple(best)}"


def _faster(group: Group) -> str:
    best = group.fastest()
    if best is None:
        if not any(comparison.time.n for comparison in group.comparisons):
            return f"of the {group.name} no time was measured"
        return (
            f"of the {group.name} nothing samples faster than the baseline, beyond the "
            f"{100 * (group.tolerance - 1):.0f} % that times of equal work differ by"
        )
    own, base = (significant(number) for number in best.means[TIME])
    sentence = (
        f"{best.name} samples {significant(1 / best.time.mean)} times as fast ({own} ms an image instead of {base})"
    )
    if best.lossless:
        return f"of the {group.name}, {sentence} {_lossless(best)}"
    return f"of the {group.name} nothing speeds up for free: {sentence} at {_multiple(best)}"


def _prices(groups: Sequence[Group]) -> list[str]:
    clauses = []
    for group in groups[:MAX_GROUPS]:
        named = {best.name: best for best in (group.smallest(), group.fastest()) if best is not None}
        scored = [comparison for comparison in group.comparisons if comparison.fid.n]
        worst = max(scored, key=lambda comparison: comparison.fid.mean, default=None)
        parts = [f"×{_ratio(best.fid)} for {best.name}" for best in named.values()]
        if worst is not None and worst.name not in named:
            parts.append(f"×{_ratio(worst.fid)} at worst, for {worst.name}")
        if parts:
            clauses.append(f"the {group.name}'s FID of {significant(group.baseline_fid)} becomes {_list(parts)}")
    if len(groups) > MAX_GROUPS:
        clauses.append(f"{len(groups) - MAX_GROUPS} more models are in the tables")
    return [*clauses, f"ratios up to {RESOLUTION} are within what the metric resolves"]


def _evidence(findings: Findings) -> str:
    """Return what the number of seeds says about these numbers."""
    seeds = [summary.n for summary in findings.summaries[FID].values()]
    if not seeds or max(seeds) == 1:
        return "each number is of one seed, so it has no interval"
    count = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else str(seeds[0])
    return f"these are means of {count} seeds, with 95 % intervals in brackets"


def _failures(frame: pd.DataFrame) -> str:
    """How many cells failed or lack a FID, with the first reason; nothing where all are there."""
    failed = frame[frame["status"] == "failed"]
    missing = int(((frame["status"] == "ok") & frame[FID].isna()).sum())
    parts = []
    if len(failed):
        which = "all" if len(failed) == len(frame) else f"{len(failed)} of"
        cells = "1 cell" if len(frame) == 1 else f"{len(frame)} cells"
        parts.append(f"{which} {cells} failed, the first by “{failed['reason'].iloc[0]}”")
    if missing:
        parts.append(f"{missing} of {len(frame)} cells have no FID")
    return "; ".join(parts)


def _clauses(clauses: Sequence[str]) -> str:
    more = [f"{len(clauses) - MAX_GROUPS} more models are in the tables"] if len(clauses) > MAX_GROUPS else []
    return "; ".join([*clauses[:MAX_GROUPS], *more])


def _lossless(comparison: RecipeComparison) -> str:
    if comparison.fid.mean < 1 / RESOLUTION:
        return "at a lower FID"
    return "at a FID that the metric cannot tell from the baseline's"


def _multiple(comparison: RecipeComparison) -> str:
    return f"{significant(comparison.fid.mean)} times the FID"


def _ratio(ratio: Ratio) -> str:
    sentence = significant(ratio.mean)
    return sentence if math.isnan(ratio.low) else f"{sentence} [{significant(ratio.low)}, {significant(ratio.high)}]"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}" if parts else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
