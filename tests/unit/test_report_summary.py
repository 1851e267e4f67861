"""The three sentences, pinned on small matrices whose numbers were worked out by hand."""

from typing import Any

import pytest
import synthetic

from slimdiff.analysis import findings, groups
from slimdiff.analysis.matrix import Matrix
from slimdiff.report.page import summary


def row(optimization: str = "baseline", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A row whose costs are round numbers: 4 MB, 10 ms, an FID of 40."""
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
        "Of the ncsn, l1-50 makes the file 2.00 times smaller (2.00 MB instead of 4.00 MB) at a FID that the metric "
        "cannot tell from the baseline's; of the ddpm no recipe shrinks the file for free: random-50 makes the file "
        "1.60 times smaller (2.50 MB instead of 4.00 MB) at 10.0 times the FID."
    )
    assert found.faster == (
        "Of the ncsn nothing speeds up for free: groups-2 samples 1.25 times as fast (8.00 ms an image instead of "
        "10.0) at 2.00 times the FID; of the ddpm nothing samples faster than the baseline, beyond the 5 % that "
        "times of equal work differ by."
    )
    assert found.price == (
        "The ncsn's FID of 40.0 becomes ×1.10 for l1-50 and ×2.00 for groups-2; the ddpm's FID of 20.0 becomes ×10.0 "
        "for random-50; ratios up to 1.25 are within what the metric resolves; each number is of one seed, so it "
        "has no interval."
    )


def test_seeds_bring_intervals_and_a_gain_needs_a_test() -> None:
    """Ratios of times: groups-2 0.8 at each seed, ema 0.8, 1.0 and 0.6. Only the first holds up."""
    rows = [row(seed=seed, fid_indomain=40.0 + seed) for seed in range(3)]
    rows += [row("groups-2", seed, fid_indomain=44.0 + seed, inference_ms_per_image=8.0, macs=1) for seed in range(3)]
    rows += [row("groups-4", seed, inference_ms_per_image=ms, macs=1) for seed, ms in enumerate((8.0, 10.0, 6.0))]
    found = answer(synthetic.matrix(rows))
    assert found.faster == (
        "Of the ncsn, groups-2 samples 1.25 times as fast (8.00 ms an image instead of 10.0) at a FID that the metric "
        "cannot tell from the baseline's."
    )
    assert "×1.10 [1.09, 1.10] for groups-2" in found.price
    assert found.price.endswith("these are means of 3 seeds, with 95 % intervals in brackets.")


def test_what_equal_work_differs_by_is_no_gain() -> None:
    """random-30 does the baseline's arithmetic in 0.8 of its time: so the groups' 0.85 tells nothing."""
    rows = [row(), row("random-30", inference_ms_per_image=8.0)]
    rows += [row("groups-2", inference_ms_per_image=8.5, macs=15_000_000)]
    matrix = synthetic.matrix(rows)
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == pytest.approx(1.25)
    assert "nothing samples faster than the baseline, beyond the 25 %" in answer(matrix).faster


@pytest.mark.parametrize("changes", [{"macs": 7}, {"engine": "openvino"}, {"sampler": "ode"}, {"training": "other"}])
def test_other_work_says_nothing_about_the_spread(changes: dict[str, Any]) -> None:
    matrix = synthetic.matrix([row(), row("random-30", inference_ms_per_image=5.0, **changes)])
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == groups.MIN_TOLERANCE


def test_quantized_recipes_do_other_work_even_with_as_many_operations() -> None:
    matrix = synthetic.matrix([row(), row("linear-8bit", inference_ms_per_image=5.0)])
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == groups.MIN_TOLERANCE
    assert "linear-8bit samples 2.00 times as fast" in answer(matrix).faster


def test_times_in_turns_with_the_baseline_are_believed_over_times_of_another_hour() -> None:
    """By the clock channels-50 is slower: the machine was busy. In turns with the baseline it is twice as fast."""
    rows = [row(speedup=1.02), row("channels-50", inference_ms_per_image=12.0, macs=1, speedup=2.0)]
    rows += [row("groups-2", inference_ms_per_image=5.0, macs=1, speedup=1.01)]
    matrix = synthetic.matrix(rows)
    assert answer(matrix).faster == (
        "Of the ncsn, channels-50 samples 2.00 times as fast (5.00 ms an image instead of 10.0) at a FID that the "
        "metric cannot tell from the baseline's."
    )
    (group,) = groups.compare_recipes(matrix)
    assert [comparison.name for comparison in group.comparisons if comparison.faster] == ["channels-50"]


def test_the_baseline_against_itself_shows_what_equal_work_differs_by() -> None:
    matrix = synthetic.matrix([row(speedup=0.8, inference_ms_per_image_iqr=9.0), row("groups-2", macs=1, speedup=1.2)])
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == pytest.approx(1.25)
    assert "nothing samples faster than the baseline, beyond the 25 %" in answer(matrix).faster


def test_the_baselines_own_spread_counts() -> None:
    matrix = synthetic.matrix(
        [row(inference_ms_per_image_iqr=3.0), row("groups-2", inference_ms_per_image=8.0, macs=1)]
    )
    assert groups.time_tolerance(matrix, "mnist", "ncsn") == pytest.approx(1.3)
    assert "nothing samples faster" in answer(matrix).faster


def test_a_lower_fid_is_told() -> None:
    matrix = synthetic.matrix([row(), row("l1-50", fid_indomain=20.0, size_gzip_bytes=1_000_000)])
    assert answer(matrix).smaller == (
        "Of the ncsn, l1-50 makes the file 4.00 times smaller (1.00 MB instead of 4.00 MB) at a lower FID."
    )


def test_one_cell() -> None:
    found = answer(synthetic.matrix([row()]))
    assert found.smaller == "Nothing can be said of what shrinks, since there is no recipe beside the baseline."
    assert found.price == ("The ncsn has a baseline of FID 40.0; each number is of one seed, so it has no interval.")


def test_no_baseline() -> None:
    found = answer(synthetic.matrix([row(status="failed"), row("groups-2")]))
    assert found.faster == ("Nothing can be said of what speeds up, since the matrix has no baseline that ended well.")
    assert "1 of 2 cells failed, the first by “train: loss is NaN at step 12”" in found.price


def test_everything_failed() -> None:
    found = answer(synthetic.matrix([row(status="failed"), row("groups-2", status="failed")]))
    assert found.smaller == "Nothing can be said about size, since no cell of the matrix ended well."
    assert found.price == "All 2 cells failed, the first by “train: loss is NaN at step 12”."


def test_failed_and_missing_cells_are_counted() -> None:
    rows = [row(), row("l1-10"), row("l1-30", fid_indomain=None, fid_indomain_pct=None), row("l1-70", status="failed")]
    price = answer(synthetic.matrix(rows)).price
    assert price.endswith(
        "1 of 4 cells failed, the first by “train: loss is NaN at step 12”; 1 of 4 cells have no FID."
    )


def test_many_models_do_not_crowd_a_sentence() -> None:
    rows = [row(name, dataset=f"photos-{number}") for number in range(6) for name in ("baseline", "l1-10")]
    found = answer(synthetic.matrix(rows))
    assert found.smaller.count("photos-") == summary.MAX_GROUPS
    assert found.smaller.startswith("Of the ncsn on photos-0 no recipe shrinks the file; of")
    assert found.smaller.endswith("; 2 more models are in the tables.")
