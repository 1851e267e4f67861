"""The summary in three sentences: what gets smaller, what gets faster, and what that does to the images.

A smaller or faster recipe is a result only if its images are shown to be equivalent or better. Without one, the
sentences name the best candidate and say that it is undecided or worse.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.decisions import DISTURBED, UNRESOLVED, WORSE
from slimdiff.analysis.findings import Findings
from slimdiff.analysis.groups import Group, RecipeComparison
from slimdiff.analysis.measures import BASELINE, FID, PACKED
from slimdiff.analysis.statistics import Ratio
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
    remarks = [remark for remark in (_evidence(findings), _disturbed(frame), _copies(frame), failures) if remark]
    if not any(group.comparisons for group in groups):
        baselines = [
            f"in-domain FID is {significant(group.baseline_fid)} for the baseline of {group.name}" for group in groups
        ]
        reason = "the matrix holds only the baseline" if groups else "no baseline has a FID"
        return _no_conclusion(reason, [*baselines, *remarks])
    note = f"images are equivalent if FID and KID both stay within {findings.margins.equivalence:g}"
    return Answer(
        _sentence(_limited([_smaller(group) for group in groups])),
        _sentence(_limited([_faster(group) for group in groups])),
        _sentence([*_limited([clause for group in groups if (clause := _cost(group))]), note, *remarks]),
    )


def _no_conclusion(reason: str, remarks: Sequence[str]) -> Answer:
    size_text, speed_text = (f"No conclusion about {subject}: {reason}." for subject in ("size", "speed"))
    return Answer(size_text, speed_text, _sentence(remarks))


def _smaller(group: Group) -> str:
    best = group.smallest()
    if best is None:
        return f"for {group.name}, no recipe makes the file smaller"
    own, baseline = (size(number) for number in best.sizes)
    kind = "packed" if group.size_column == PACKED.column else "gzip"
    times = significant(1 / best.size.mean)
    gain = f"{best.name} makes the {kind} file {times} times smaller ({own} instead of {baseline})"
    return _gain(group, best, gain, "smaller")


def _faster(group: Group) -> str:
    best = group.fastest()
    timed = [comparison for comparison in group.comparisons if comparison.time.n]
    if best is not None:
        gain = f"{best.name} samples {_interval(best.time.inverse)} times as fast as the baseline, timed in turns"
        return _gain(group, best, gain, "faster")
    if not timed and any(comparison.difference.speed.finding == DISTURBED for comparison in group.comparisons):
        return f"for {group.name}, other processes disturbed every profile"
    if not timed:
        return f"for {group.name}, no time was measured in turns"
    fastest = min(timed, key=lambda comparison: comparison.time.mean)
    gain = ""
    if 1 / fastest.time.mean > group.tolerance:  # its interval, or one seed, decides nothing
        gain = f"; the largest ratio, undecided, is {_interval(fastest.time.inverse)} for {fastest.name}"
    within = 100 * (group.tolerance - 1)
    return f"for {group.name}, no recipe is shown to be faster than the baseline by more than {within:.0f} %{gain}"


def _gain(group: Group, best: RecipeComparison, gain: str, word: str) -> str:
    """Return a gain with what is known of the images."""
    if best.keeps_images:
        return f"for {group.name}, {gain} with {best.difference.images.finding} images"
    found = best.difference.images.finding
    state = "undecided" if found == UNRESOLVED else found
    fid = f"at {_interval(best.fid)} times the FID" if best.fid.n else "with no reference for its FID"
    what = "are worse" if found == WORSE else f"are {state}"
    return f"for {group.name}, no {word} recipe is shown to keep its images: {gain}, {fid}, and its images {what}"


def _cost(group: Group) -> str:
    """Return the FID of the baseline, and its ratios for the best recipes and the worst; empty without recipes."""
    best = {comparison.name: comparison for comparison in (group.smallest(), group.fastest()) if comparison is not None}
    scored = [comparison for comparison in group.comparisons if comparison.fid.n]
    worst = max(scored, key=lambda comparison: comparison.fid.mean, default=None)
    ratios = [f"×{_interval(comparison.fid)} for {_named(comparison)}" for comparison in best.values()]
    if worst is not None and worst.name not in best:
        ratios.append(f"×{_interval(worst.fid)} at worst, for {_named(worst)}")
    fid = significant(group.baseline_fid)
    return f"in-domain FID is {fid} for the baseline of {group.name}, {_enumerate(ratios)}" if ratios else ""


def _named(comparison: RecipeComparison) -> str:
    """Return the name of a recipe, with the reference if that is not the baseline."""
    reference = comparison.difference.reference
    return comparison.name if reference in ("", BASELINE) else f"{comparison.name} (to {reference})"


def _evidence(findings: Findings) -> str:
    """Return how many seeds the numbers rest on."""
    seeds = [summary.n for summary in findings.summaries[FID.column].values()]
    if not seeds or max(seeds) == 1:
        return "each number is from one seed, which decides nothing about images and times"
    count = f"{min(seeds)} to {max(seeds)}" if min(seeds) < max(seeds) else str(seeds[0])
    return f"numbers are means of {count} seeds, with 95 % intervals in brackets"


def _disturbed(frame: pd.DataFrame) -> str:
    """Return how many cells have times that do not count, or may not; empty if none has."""
    number = int(statistics.disturbed_rows(frame).sum())
    unknown = int((frame["speedup"].notna() & frame["disturbed"].isna()).sum())
    left_out = f"times of {number} of {len(frame)} cells are left out, since other processes disturbed them"
    unwatched = f"times of {unknown} of {len(frame)} cells decide nothing: whether others disturbed them is unknown"
    return "; ".join(text for text, count in ((left_out, number), (unwatched, unknown)) if count)


def _copies(frame: pd.DataFrame) -> str:
    """Return which data sets have test images that are training images; empty if none has."""
    found = frame.groupby("dataset", sort=False)[COPIES].max()
    named = [f"{number:,} of {dataset}" for dataset, number in found.dropna().items() if number]
    return f"test images that are exact copies of training images: {_enumerate(named)}" if named else ""


def _failures(frame: pd.DataFrame) -> str:
    """Return how many cells failed or lack a FID, with the first reason; empty if none does."""
    failed = frame[frame["status"] == "failed"]
    n_missing = int(((frame["status"] == "ok") & frame[FID.column].isna()).sum())
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
