"""The three sentences of the summary, on small matrices with numbers computed by hand."""

from typing import Any

import pytest
import synthetic

from slimdiff.analysis import derived, findings
from slimdiff.analysis.matrix import Matrix
from slimdiff.report.page import summary


def row(optimization: str = "baseline", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A row whose costs are round numbers: 4 MB, the baseline's time, an FID of 40."""
    values = {"fid_indomain": 40.0, "size_gzip_bytes": 4_000_000, "speedup": 1.0}
    return synthetic.row(optimization, seed, **{**values, **changes})


def answer(matrix: Matrix) -> summary.Answer:
    return summary.answer(matrix.frame, findings.find(matrix, synthetic.MARGINS))


def test_one_seed_decides_sizes_alone() -> None:
    found = answer(
        synthetic.matrix(
            [
                row(),
                row("l1-50", fid_indomain=44.0, size_gzip_bytes=2_000_000),
                row("groups-2", fid_indomain=80.0, size_gzip_bytes=1_000_000, speedup=1.25, macs=15_000_000),
                row(model="ddpm", fid_indomain=20.0),
                row("random-50", model="ddpm", fid_indomain=200.0, size_gzip_bytes=2_500_000),
            ]
        )
    )
    assert found.smaller == (
        "For ncsn, no smaller recipe is shown to keep its images: l1-50 makes the gzip file 2.00 times smaller "
        "(2.00 MB instead of 4.00 MB), at 1.10 times the FID, and its images are undecided; for ddpm, no smaller "
        "recipe is shown to keep its images: random-50 makes the gzip file 1.60 times smaller (2.50 MB instead of 4.00 "
        "MB), at 10.0 times the FID, and its images are undecided."
    )
    assert found.faster == (
        "For ncsn, no recipe is shown to be faster than the baseline by more than 10 %; the largest ratio, undecided, "
        "is 1.25 for groups-2; for ddpm, no recipe is shown to be faster than the baseline by more than 10 %."
    )
    assert found.cost == (
        "In-domain FID is 40.0 for the baseline of ncsn, ×1.10 for l1-50 and ×2.00 at worst, for groups-2; in-domain "
        "FID is 20.0 for the baseline of ddpm, ×10.0 for random-50; images are equivalent if FID and KID both stay "
        "within 1.25; each number is from one seed, which decides nothing about images and times."
    )


def seeds(optimization: str, n: int = 3, fid: float = 40.0, **changes: Any) -> list[dict[str, Any]]:
    return [row(optimization, seed, fid_indomain=fid + seed, **changes) for seed in range(n)]


def test_a_gain_counts_with_equivalent_images() -> None:
    """groups-4 is smaller and faster than groups-2, and its images are worse."""
    rows = seeds("baseline") + seeds("groups-2", fid=41.0, speedup=1.5, size_gzip_bytes=2_000_000, macs=1)
    rows += seeds("groups-4", fid=80.0, speedup=2.0, size_gzip_bytes=1_000_000, macs=1)
    found = answer(synthetic.matrix(rows))
    assert found.smaller == (
        "For ncsn, groups-2 makes the gzip file 2.00 times smaller (2.00 MB instead of 4.00 MB) with equivalent images."
    )
    assert found.faster.startswith("For ncsn, groups-2 samples 1.50 [1.50, 1.50] times as fast as the baseline")
    assert "×1.02 [1.02, 1.03] for groups-2 and ×1.98" in found.cost
    assert "means of 3 seeds, with 95 % intervals" in found.cost


def test_packed_files_are_named() -> None:
    rows = seeds("baseline", size_packed_bytes=3_000_000) + seeds("l1-30", size_packed_bytes=1_500_000)
    assert (
        "makes the packed file 2.00 times smaller (1.50 MB instead of 3.00 MB)"
        in answer(synthetic.matrix(rows)).smaller
    )


def test_better_and_worse_images_are_named() -> None:
    rows = seeds("baseline") + seeds("l1-30", fid=20.0, size_gzip_bytes=2_000_000)
    assert answer(synthetic.matrix(rows)).smaller.endswith("with better images.")
    rows = seeds("baseline") + seeds("l1-30", fid=80.0, size_gzip_bytes=2_000_000)
    assert answer(synthetic.matrix(rows)).smaller.endswith("times the FID, and its images are worse.")


def test_a_gain_in_speed_needs_a_test() -> None:
    """Speedups of groups-4 are 1.25, 1 and 1.6: undecided."""
    rows = seeds("baseline") + [
        row("groups-4", seed, macs=1, speedup=speedup) for seed, speedup in enumerate((1.25, 1.0, 1.6))
    ]
    assert "the largest ratio, undecided, is 1.26 [0.703, 2.26] for groups-4" in answer(synthetic.matrix(rows)).faster


def test_a_gain_must_exceed_the_time_difference_of_equal_work() -> None:
    """random-30 does the baseline's arithmetic in 0.8 of its time: so a speedup of 1.18 tells nothing."""
    rows = [row(), row("random-30", speedup=1.25), row("groups-2", speedup=1.18, macs=15_000_000)]
    matrix = synthetic.matrix(rows)
    assert derived.time_tolerance(matrix, "mnist", "ncsn") == pytest.approx(1.25)
    assert "by more than 25 %." in answer(matrix).faster


@pytest.mark.parametrize("changes", [{"macs": 7}, {"engine": "openvino"}, {"sampler": "ode"}, {"training": "other"}])
def test_recipes_with_other_work_do_not_set_the_tolerance(changes: dict[str, Any]) -> None:
    matrix = synthetic.matrix([row(), row("random-30", speedup=2.0, **changes)])
    assert derived.time_tolerance(matrix, "mnist", "ncsn") == 1.0


def test_quantized_recipes_count_as_other_work_despite_equal_macs() -> None:
    matrix = synthetic.matrix([row(), row("linear-8bit", speedup=2.0)])
    assert derived.time_tolerance(matrix, "mnist", "ncsn") == 1.0
    assert "2.00 for linear-8bit" in answer(matrix).faster


def test_raw_times_are_no_evidence() -> None:
    rows = [row(speedup=None), row("channels-50", inference_ms_per_image=2.0, speedup=None)]
    assert answer(synthetic.matrix(rows)).faster == "For ncsn, no time was measured in turns."


def test_disturbed_times_are_left_out_and_counted() -> None:
    rows = [row(), row("groups-2", macs=1, speedup=3.0, disturbed=True)]
    found = answer(synthetic.matrix(rows))
    assert found.faster == "For ncsn, other processes disturbed every profile."
    assert "times of 1 of 2 cells are left out" in found.cost


def test_times_that_nobody_watched_are_no_headline() -> None:
    rows = [
        row(name, seed, macs=1, speedup=speedup, disturbed=None)
        for name, speedup in (("baseline", 1.0), ("groups-2", 3.0))
        for seed in range(3)
    ]
    found = answer(synthetic.matrix(rows))
    assert found.faster.startswith("For ncsn, no recipe is shown to be faster")
    assert "undecided, is 3.00" in found.faster
    assert "times of 6 of 6 cells decide nothing" in found.cost
    watched = answer(synthetic.matrix([each | {"disturbed": False} for each in rows]))
    assert "groups-2 samples 3.00" in watched.faster
    assert "decide nothing" not in watched.cost


def test_the_baseline_against_itself_sets_the_tolerance() -> None:
    matrix = synthetic.matrix([row(speedup=0.8), row("groups-2", macs=1, speedup=1.2)])
    assert derived.time_tolerance(matrix, "mnist", "ncsn") == pytest.approx(1.25)
    assert "by more than 25 %." in answer(matrix).faster


def test_one_cell() -> None:
    found = answer(synthetic.matrix([row()]))
    assert found.smaller == "No conclusion about size: the matrix holds only the baseline."
    assert found.cost.startswith("In-domain FID is 40.0 for the baseline of ncsn; each number is from one seed")


def test_no_baseline() -> None:
    found = answer(synthetic.matrix([row(status="failed"), row("groups-2")]))
    assert found.faster == "No conclusion about speed: no baseline has a FID."
    assert "1 of 2 cells failed, the first with “train: loss is NaN at step 12”" in found.cost


def test_everything_failed() -> None:
    found = answer(synthetic.matrix([row(status="failed"), row("groups-2", status="failed")]))
    assert found.smaller == "No conclusion about size: every cell failed."
    assert found.cost == "All 2 cells failed, the first with “train: loss is NaN at step 12”."


@pytest.mark.parametrize(("copies", "said"), [(None, False), (0, False), (1234, True)])
def test_test_images_that_are_training_images_are_mentioned(copies: int | None, said: bool) -> None:
    rows = [row(test_images_in_training=copies), row("groups-2", test_images_in_training=copies)]
    for found in (answer(synthetic.matrix(rows)), answer(synthetic.matrix(rows[:1]))):
        assert ("exact copies of training images: 1,234 of mnist" in found.cost) == said


def test_failed_and_missing_cells_are_counted() -> None:
    rows = [row(), row("l1-10"), row("l1-30", fid_indomain=None, fid_indomain_pct=None), row("l1-70", status="failed")]
    cost = answer(synthetic.matrix(rows)).cost
    assert "1 of 4 cells failed, the first with “train: loss is NaN at step 12”; 1 of 4 cells have no FID." in cost


def test_many_models_do_not_crowd_a_sentence() -> None:
    rows = [row(name, dataset=f"photos-{number}") for number in range(6) for name in ("baseline", "l1-10")]
    found = answer(synthetic.matrix(rows))
    assert found.smaller.count("photos-") == summary.MAX_GROUPS
    assert found.smaller.startswith("For ncsn on photos-0, no recipe makes the file smaller; for")
    assert found.smaller.endswith("; 2 more models are in the tables.")
