"""The three sentences of the summary, on small matrices with numbers computed by hand."""

from typing import Any

import pytest
import synthetic

from slimdiff.analysis import findings, groups
from slimdiff.analysis.matrix import Matrix
from slimdiff.report.page import summary


def row(optimization: str = "baseline", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return a row with round numbers: 4 MB, 10 ms, a FID of 40."""
    values = {"fid_indomain": 40.0, "size_gzip_bytes": 4_000_000, "inference_ms_per_image": 10.0}
    return synthetic.row(optimization, seed, **{**values, **changes})


def answer(matrix: Matrix) -> summary.Answer:
    return summary.answer(matrix.frame, findings.find(matrix))


def test_one_seed_of_two_families() -> None:
    found = answer(
        synthetic.matrix(
            [
                row(),
                row("l1-50", fid_indomain=44.0, size_gzip_bytes=2_000_000, inference_ms_per_image=10.8),
                row(
                    "groups-2",
                    fid_indomain=80.0,
                    size_gzip_bytes=3_000_000,
                    inference_ms_per_image=8.0,
                    macs=15_000_000,
                ),
                row(model="ddpm", fid_indomain=20.0),
                row(
                    "random-50", model="ddpm", fid_indomain=200.0, size_gzip_bytes=2_500_000, inference_ms_per_image=9.9
                ),
            ]
        )
    )
    assert found.smaller == (
        "For ncsn, l1-50 makes the file 2.00 times smaller (2.00 MB instead of 4.00 MB) at an indistinguishable FID; "
        "for ddpm, no recipe makes the file smaller without a worse FID: random-50 makes the file 1.60 times smaller "
        "(2.50 MB instead of 4.00 MB) at 10.0 times the FID."
    )
    assert found.faster == (
        "For ncsn, no recipe samples faster without a worse FID: groups-2 samples 1.25 times as fast (8.00 ms per "
        "image instead of 10.0) at 2.00 times the FID; for ddpm, no recipe beats the baseline by more than the 5 % "
        "that times of equal work vary by."
    )
    assert found.cost == (
        "In-domain FID is 40.0 for the baseline of ncsn, ×1.10 for l1-50 and ×2.00 for groups-2; in-domain FID is 20.0 "
        "for the baseline of ddpm, ×10.0 for random-50; ratios up to 1.25 are within the resolution of the metric; "
        "each number is from one seed and has no interval."
    )


def test_several_seeds_have_intervals_and_a_gain_needs_a_test() -> None:
    """Ratios of times: groups-2 0.8 at each seed; ema 0.8, 1.0 and 0.6. Only the first is a finding."""
    rows = [row(seed=seed, fid_indomain=40.0 + seed) for seed in range(3)]
    rows += [row("groups-2", seed, fid_indomain=44.0 + seed, inference_ms_per_image=8.0, macs=1) for seed in range(3)]
    rows += [row("groups-4", seed, inference_ms_per_image=ms, macs=1) for seed, ms in enumerate((8.0, 10.0, 6.0))]
    found = answer(synthetic.matrix(rows))
    assert "groups-2 samples 1.25 times as fast (8.00 ms per image instead of 10.0)" in found.faster
    assert "groups-4" not in found.faster
    assert "×1.10 [1.09, 1.10] for groups-2" in found.cost
    assert "means of 3 seeds, with 95 % intervals" in found.cost


def test_a_gain_must_exceed_the_time_difference_of_equal_work() -> None:
    """random-30 does the baseline's arithmetic in 0.8 of its time, so 0.85 for groups is no finding."""
    rows = [row(), row("random-30", inference_ms_per_image=8.0)]
    rows += [row("groups-2", inference_ms_per_image=8.5, macs=15_000_000)]
    matrix = synthetic.matrix(rows)
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == pytest.approx(1.25)
    assert "no recipe beats the baseline by more than the 25 %" in answer(matrix).faster


@pytest.mark.parametrize("changes", [{"macs": 7}, {"engine": "openvino"}, {"sampler": "ode"}, {"training": "other"}])
def test_recipes_with_other_work_do_not_set_the_tolerance(changes: dict[str, Any]) -> None:
    matrix = synthetic.matrix([row(), row("random-30", inference_ms_per_image=5.0, **changes)])
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == groups.MIN_TOLERANCE


def test_quantized_recipes_count_as_other_work_despite_equal_macs() -> None:
    matrix = synthetic.matrix([row(), row("linear-8bit", inference_ms_per_image=5.0)])
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == groups.MIN_TOLERANCE
    assert "linear-8bit samples 2.00 times as fast" in answer(matrix).faster


def test_interleaved_times_replace_separate_ones() -> None:
    """Timed separately, channels-50 is slower, as the machine was busy. Interleaved, it is twice as fast."""
    rows = [row(speedup=1.02), row("channels-50", inference_ms_per_image=12.0, macs=1, speedup=2.0)]
    rows += [row("groups-2", inference_ms_per_image=5.0, macs=1, speedup=1.01)]
    matrix = synthetic.matrix(rows)
    faster = answer(matrix).faster
    assert "channels-50 samples 2.00 times as fast (5.00 ms per image instead of 10.0)" in faster
    assert "groups-2" not in faster
    (group,) = groups.compare_recipes(matrix)
    assert [comparison.name for comparison in group.comparisons if comparison.faster] == ["channels-50"]


def test_the_baseline_against_itself_sets_the_tolerance() -> None:
    matrix = synthetic.matrix([row(speedup=0.8, inference_ms_per_image_iqr=9.0), row("groups-2", macs=1, speedup=1.2)])
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == pytest.approx(1.25)
    assert "no recipe beats the baseline by more than the 25 %" in answer(matrix).faster


def test_the_spread_of_the_baseline_counts() -> None:
    matrix = synthetic.matrix(
        [row(inference_ms_per_image_iqr=3.0), row("groups-2", inference_ms_per_image=8.0, macs=1)]
    )
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == pytest.approx(1.3)
    assert "no recipe beats the baseline by more than the 30 %" in answer(matrix).faster


def test_a_lower_fid_is_mentioned() -> None:
    matrix = synthetic.matrix([row(), row("l1-50", fid_indomain=20.0, size_gzip_bytes=1_000_000)])
    smaller = answer(matrix).smaller
    assert "l1-50 makes the file 4.00 times smaller (1.00 MB instead of 4.00 MB) at a lower FID" in smaller


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
