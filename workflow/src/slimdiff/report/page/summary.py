"""The summary in three sentences: what gets smaller, what gets faster, and what that costs in FID.

Each data set and model is compared with its own baseline. A ratio of FIDs within the resolution is no cost, a speedup
within the tolerance is no gain, and one seed has no interval.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from slimdiff.analysis.findings import Findings
from slimdiff.analysis.groups import FID, SIZE, TIME, Group, RecipeComparison
from slimdiff.analysis.statistics import RESOLUTION, Ratio
from slimdiff.io.text import significant, size

COPIES = "test_images_in_training"
MAX_GROUPS = 4  # per sentence


@dataclass(frozen=True)
class Answer:
    """The three sentences."""

    smaller: str
    faster: str
    cost: str


def answer(frame: pd.DataFrame, findings: Findings) -> Answer:
    """Return the three sentences on the matrix `frame`."""
    groups, failures = findings.groups, _failures(frame)
    if not (frame["status"] == "ok").any():
        return _no_conclusion("every cell failed", [failures])
    remarks = [remark for remark in (_evidence(findings), _copies(frame), failures) if remark]
    if not any(group.comparisons for group in groups):
        baselines = [
            f"in-domain FID is {significant(group.baseline_fid)} for the baseline of {group.name}" for group in groups
        ]
        reason = "the matrix holds only the baseline" if groups else "no baseline has a FID"
        return _no_conclusion(reason, [*baselines, *remarks])
    return Answer(
        _sentence(_limited([_smaller(group) for group in groups])),
        _sentence(_limited([_faster(group) for group in groups])),
        _sentence([*_limited([clause for group in groups if (clause := _cost(group))]), _RESOLUTION_NOTE, *remarks]),
    )


_RESOLUTION_NOTE = f"ratios up to {RESOLUTION} are within the resolution of the metric"


def _no_conclusion(reason: str, remarks: Sequence[str]) -> Answer:
    size_text, speed_text = (f"No conclusion about {subject}: {reason}." for subject in ("size", "speed"))
    return Answer(size_text, speed_text, _sentence(remarks))


def _smaller(group: Group) -> str:
    best = group.smallest()
    if best is None:
        return f"for {group.name}, no recipe makes the file smaller"
    own, baseline = (size(number) for number in best.means[SIZE])
    gain = f"{best.name} makes the file {significant(1 / best.size.mean)} times smaller ({own} instead of {baseline})"
    return _gain(group, best, gain, "makes the file smaller")


def _faster(group: Group) -> str:
    best = group.fastest()
    if best is None:
        if not any(comparison.time.n for comparison in group.comparisons):
            return f"for {group.name}, no time was measured"
        return (
            f"for {group.name}, no recipe beats the baseline by more than the {100 * (group.tolerance - 1):.0f} % that "
            "times of equal work vary by"
        )
    own, baseline = (significant(number) for number in best.means[TIME])
    speedup = significant(1 / best.time.mean)
    gain = f"{best.name} samples {speedup} times as fast ({own} ms per image instead of {baseline})"
    return _gain(group, best, gain, "samples faster")


def _gain(group: Group, best: RecipeComparison, gain: str, verb: str) -> str:
    if best.lossless:
        quality = "a lower FID" if best.fid.mean < 1 / RESOLUTION else "an indistinguishable FID"
        return f"for {group.name}, {gain} at {quality}"
    return (
        f"for {group.name}, no recipe {verb} without a worse FID: {gain} at {significant(best.fid.mean)} times the FID"
    )


def _cost(group: Group) -> str:
    """Return the FID of the baseline, and its ratios for the best recipes and the worst; empty without recipes."""
    best = {comparison.name: comparison for comparison in (group.smallest(), group.fastest()) if comparison is not None}
    scored = [comparison for comparison in group.comparisons if comparison.fid.n]
    worst = max(scored, key=lambda comparison: comparison.fid.mean, default=None)
    ratios = [f"×{_interval(comparison.fid)} for {comparison.name}" for comparison in best.values()]
    if worst is not None and worst.name not in best:
        ratios.append(f"×{_interval(worst.fid)} at worst, for {worst.name}")
    fid = significant(group.baseline_fid)
    return f"in-domain FID is {fid} for the baseline of {group.name}, {_enumerate(ratios)}" if ratios else ""


def _evidence(findings: Findings) -> str:
    """Return how many seeds the numbers rest on."""
    seeds = [summary.n for summary in findings.summaries[FID].values()]
    if not seeds or max(seeds) == 1:
        return "each number is from one seed and has no interval"
    count = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else str(seeds[0])
    return f"numbers are means of {count} seeds, with 95 % intervals in brackets"


def _copies(frame: pd.DataFrame) -> str:
    """Return which data sets have test images that are training images; empty if none has."""
    found = frame.groupby("dataset", sort=False)[COPIES].max()
    named = [f"{number:,} of {dataset}" for dataset, number in found.dropna().items() if number]
    return f"test images that are exact copies of training images: {_enumerate(named)}" if named else ""


def _failures(frame: pd.DataFrame) -> str:
    """Return how many cells failed or lack a FID, with the first reason; empty if none does."""
    failed = frame[frame["status"] == "failed"]
    n_missing = int(((frame["status"] == "ok") & frame[FID].isna()).sum())
    parts = []
    if len(failed):
        which = "all" if len(failed) == len(frame) else f"{len(failed)} of"
        cells = "1 cell" if len(frame) == 1 else f"{len(frame)} cells"
        parts.append(f"{which} {cells} failed, the first with “{failed['reason'].iloc[0]}”")
    if n_missing:
        parts.append(f"{n_missing} of {len(frame)} cells have no FID")
    return "; ".join(parts)


def _limited(clauses: Sequence[str]) -> list[str]:
    """Return the first MAX_GROUPS clauses and a note on the others."""
    n_more = len(clauses) - MAX_GROUPS
    return [*clauses[:MAX_GROUPS], *([f"{n_more} more models are in the tables"] if n_more > 0 else [])]


def _interval(ratio: Ratio) -> str:
    mean = significant(ratio.mean)
    return mean if math.isnan(ratio.low) else f"{mean} [{significant(ratio.low)}, {significant(ratio.high)}]"


def _enumerate(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"


def _sentence(clauses: Sequence[str]) -> str:
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."
