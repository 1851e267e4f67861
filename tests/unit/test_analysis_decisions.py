"""Findings on recipes: on matrices whose answer is known, and in simulations whose truth is known."""

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic

from slimdiff.analysis import comparisons, decisions, findings, references
from slimdiff.analysis.comparisons import Difference
from slimdiff.analysis.decisions import Evidence, Finding
from slimdiff.analysis.statistics import paired

BASE = (40.0, 41.0, 39.5)
KEY = ("mnist", "ncsn", "l1-30")


def cells(recipe: str, fids: tuple[float, ...], **changes: Any) -> list[dict[str, Any]]:
    return [synthetic.row(recipe, seed, fid_indomain=fid, **changes) for seed, fid in enumerate(fids)]


def found_in(
    rows: list[dict[str, Any]], recipe: str = "l1-30", disturbed: list[bool | None] | None = None
) -> Difference:
    matrix = synthetic.matrix(rows)
    if disturbed is not None:
        matrix.frame["disturbed"] = pd.array(disturbed, dtype="boolean")
    return findings.find(matrix, synthetic.MARGINS).differences["reference"]["mnist", "ncsn", recipe]


@pytest.mark.parametrize(
    ("fids", "finding"),
    [
        ((60.0, 61.0, 59.0), "worse"),
        ((20.0, 21.0, 19.0), "better"),
        ((44.0, 45.0, 43.6), "equivalent"),
        ((40.1, 40.7, 39.6), "equivalent"),
        ((20.0, 90.0, 65.0), "unresolved"),
        ((49.5, 51.3, 49.3), "unresolved"),  # at the margin
        ((90.0,), "unresolved"),
    ],
)
def test_images(fids: tuple[float, ...], finding: str) -> None:
    found = found_in(cells("baseline", BASE) + cells("l1-30", fids)).images
    assert found.finding == finding
    assert bool(found.why) == (finding == "unresolved")
    assert finding in decisions.FINDINGS


def test_each_data_set_has_its_margin() -> None:
    """A ratio of 1.3 is worse where the margin is 1.2, and neither that nor equivalent where it is 1.5."""
    margins = replace(synthetic.MARGINS, quality={"mnist": 1.5, "digits": 1.2})
    rows = cells("baseline", BASE) + cells("l1-30", tuple(1.3 * fid for fid in BASE))
    both = synthetic.matrix([{**row, "dataset": dataset} for dataset in ("mnist", "digits", "photos") for row in rows])
    found = findings.find(both, margins)
    differences = found.differences["reference"]
    own = {
        dataset: differences[dataset, model, name].images.finding
        for dataset, model, name in differences
        if name != "baseline"
    }
    assert own == {"mnist": "unresolved", "digits": "worse", "photos": "unresolved"}
    assert found.margins.quality == {"mnist": 1.5, "digits": 1.2, "photos": 1.5}


def test_margins_of_quality() -> None:
    one, each = synthetic.MARGINS, replace(synthetic.MARGINS, quality={"a": 1.2, "b": 1.4})
    assert one.of_images("a", "b") == 1.25 and one.quality_text == "1.25"
    assert (each.of_images("a"), each.of_images("a", "b"), each.of_images("c")) == (1.2, 1.4, 1.4)
    assert each.quality_text == "1.2 (a), 1.4 (b)"
    assert each.restrict(["c", "b"]).quality_text == "1.4"
    assert each.restrict([]) == each
    assert (each.of_equivalence("a"), each.of_equivalence("b")) == (1.2, 1.25), "no ratio is both"


def test_nothing_is_both_different_and_equivalent() -> None:
    """The mean of a difference is beyond the margin; that of an equivalence is inside, with its interval."""
    for mean, sd in itertools.product((0.6, 0.79, 0.9, 1.0, 1.1, 1.24, 1.26, 1.6), (0.001, 0.05, 0.3)):
        own = {seed: mean * math.exp(sd * (seed - 1)) for seed in range(3)}
        ratio = paired(own, dict.fromkeys(own, 1.0))
        ((_, found),) = decisions.decide({KEY: Evidence((ratio, ratio), ("a", "b"), 1.25, 1.25)}).items()
        beyond = not 1 / 1.25 <= mean <= 1.25
        assert found.finding in ({"better", "worse", "unresolved"} if beyond else {"equivalent", "unresolved"})


@pytest.mark.parametrize(
    ("kids", "finding"),
    [
        ((0.12, 0.122, 0.118), "worse"),
        ((0.08, 0.08, 0.08), "unresolved"),  # unchanged
        ((0.04, 0.041, 0.039), "unresolved"),  # the other way
        ((0.05, 0.5, 0.1), "unresolved"),  # undecided
        ((0.12, -0.001, 0.118), "unresolved"),  # no logarithm
        ((None, None, None), "no value"),
    ],
)
def test_fid_and_kid_must_agree(kids: tuple[float | None, ...], finding: str) -> None:
    """FID alone says worse."""
    rows = cells("baseline", BASE, kid=0.08)
    rows += [
        synthetic.row("l1-30", seed, fid_indomain=fid, kid=kid)
        for seed, (fid, kid) in enumerate(zip((60.0, 61.0, 59.0), kids, strict=True))
    ]
    assert found_in(rows).images.finding == finding


def test_equivalence_needs_both_too() -> None:
    rows = cells("baseline", BASE, kid=0.08)
    rows += [
        synthetic.row("l1-30", seed, fid_indomain=fid, kid=0.08 * factor)
        for seed, (fid, factor) in enumerate(zip(BASE, (1.0, 1.3, 0.9), strict=True))
    ]
    assert found_in(rows).images.finding == "unresolved"


def test_where_there_is_nothing_to_compare() -> None:
    base = cells("baseline", (40.0, 41.0))
    failed = found_in([*base, synthetic.row("l1-30", status="failed")]).images
    assert failed == Finding("failed", "train: loss is NaN at step 12")
    assert found_in([*base, synthetic.row("l1-30", seed=7)]).images.finding == "no reference"
    assert found_in([synthetic.row(status="failed"), synthetic.row("l1-30")]).images.finding == "no reference"
    assert found_in([synthetic.row("l1-30")]).images.finding == "no reference"
    assert found_in([*base, synthetic.row("l1-30", fid_indomain=None)]).images.finding == "no value"
    assert found_in(base, "baseline") == Difference("baseline", *[Finding("reference")] * 3)


@pytest.mark.parametrize(
    ("size", "finding"),
    [(2_000_000, "better"), (3_900_000, "equivalent"), (4_000_000, "equivalent"), (5_000_000, "worse")],
)
def test_sizes_are_decided_by_one_seed(size: int, finding: str) -> None:
    rows = [synthetic.row(), synthetic.row("l1-30", size_gzip_bytes=size)]
    assert found_in(rows).size.finding == finding


def test_packed_files_are_compared_with_packed_ones() -> None:
    """The packed file is half of the baseline's gzip file, and no smaller than its packed one."""
    rows = [synthetic.row(size_packed_bytes=2_000_000), synthetic.row("l1-30", size_packed_bytes=2_000_000)]
    assert found_in(rows).size.finding == "equivalent"
    without = [synthetic.row(size_packed_bytes=2_000_000), synthetic.row("l1-30", size_gzip_bytes=1_000_000)]
    assert found_in(without).size == Finding("no value", "size_packed_bytes was not measured")


def timed(*speedups: float, base: float = 1.0) -> list[dict[str, Any]]:
    rows = [synthetic.row("baseline", seed, speedup=base, macs=9) for seed in range(len(speedups))]
    return rows + [synthetic.row("l1-30", seed, speedup=speedup) for seed, speedup in enumerate(speedups)]


@pytest.mark.parametrize(
    ("speedups", "finding"),
    [
        ((2.0, 2.1, 1.9), "better"),
        ((0.5, 0.52, 0.49), "worse"),
        ((1.01, 1.0, 0.99), "equivalent"),
        ((1.5, 0.9, 1.2), "unresolved"),
        ((2.0,), "unresolved"),
    ],
)
def test_speed_is_of_times_in_turns(speedups: tuple[float, ...], finding: str) -> None:
    assert found_in(timed(*speedups)).speed.finding == finding


def test_raw_times_decide_nothing() -> None:
    rows = [
        synthetic.row(name, seed, inference_ms_per_image=ms)
        for name, ms in (("baseline", 9.0), ("l1-30", 3.0))
        for seed in range(3)
    ]
    assert found_in(rows).speed == Finding("no value", "speedup was not measured")


def test_the_margin_of_speed_is_at_least_that_of_equal_work() -> None:
    """The baseline over itself reaches 1.4, so ×1.3 is no gain."""
    assert found_in(timed(1.3, 1.3, 1.3)).speed.finding == "better"
    assert found_in(timed(1.3, 1.3, 1.3, base=1.4)).speed.finding == "equivalent"


def test_disturbed_profiles_decide_nothing() -> None:
    rows = timed(2.0, 2.1, 1.9)
    alone = found_in(rows)
    unwatched = found_in(rows, disturbed=[False] * 3 + [False, None, False])
    assert unwatched.speed == Finding("unresolved", decisions.UNWATCHED), "unknown is not quiet"
    assert (unwatched.images, unwatched.size) == (alone.images, alone.size)
    all_disturbed = found_in(rows, disturbed=[False] * 3 + [True] * 3)
    assert all_disturbed.speed.finding == "disturbed"
    assert (all_disturbed.images, all_disturbed.size) == (alone.images, alone.size)
    one = found_in(rows, disturbed=[False] * 3 + [True, False, False])
    assert one.speed.finding == "better", "the two others still decide"
    two = found_in(rows, disturbed=[False] * 3 + [True, True, False])
    assert two.speed.finding == "unresolved"
    assert two.speed.why == f"{decisions.ONE_SEED}; 2 of 3 profiles disturbed, left out"
    baselines = found_in(rows, disturbed=[True] * 3 + [False] * 3)
    assert baselines.speed == alone.speed, "turns with the baseline are timed in the recipe's own profile"


def test_every_recipe_of_the_matrix_is_in_the_family() -> None:
    """What is found alone is not found among many others."""
    rows = cells("baseline", BASE) + cells("l1-30", (60.0, 69.0, 56.0))
    alone = found_in(rows).images
    assert alone.finding == "worse"
    others = [name for name in synthetic.OPTIMIZATIONS if name not in ("baseline", "l1-30")]
    for name in others:
        rows += cells(name, (41.0, 39.0, 40.0))
    among = found_in(rows).images
    assert among.p == pytest.approx(min(1.0, alone.p * (1 + len(others))))
    assert among.finding == "unresolved"
    clear = [row for name in others for row in cells(name, (60.0, 69.0, 56.0))]
    assert found_in(rows[:6] + clear).images.finding == "worse", "among recipes that differ as much"


def test_a_failed_seed_leaves_images_open() -> None:
    """The seeds that are left are the better ones."""
    rows = cells("baseline", BASE) + cells("l1-30", (60.0, 61.0, 59.0))
    for failed in (0, 5):
        some = [row | {"status": "failed"} if n == failed else row for n, row in enumerate(rows)]
        found = found_in(some)
        assert (found.images.finding, found.size.finding) == ("unresolved", "better")
        assert found.images.why == f"1 of 3 seeds of {rows[failed]['optimization']} failed"


def test_fid_and_kid_need_the_same_seeds() -> None:
    rows = cells("baseline", BASE) + cells("l1-30", (60.0, 61.0, 59.0))
    rows[3] |= {"fid_indomain": None}
    rows[4] |= {"kid": -0.001}
    assert found_in(rows).images == Finding("unresolved", decisions.NOT_POSITIVE)


def settings(epochs: int, *later: dict[str, Any], **compress: Any) -> str:
    def train(count: int, **more: Any) -> dict[str, Any]:
        return {"model": {"family": "ncsn"}, "seed": 3, "training": {"epochs": count, "learning_rate": 0.1}, **more}

    trainings = [train(epochs), *(train(1, **({"steps": []} | more)) for more in later)]
    own = {"train": trainings[-1], "compress": {"steps": [], "sampler": {}, **compress}}
    return json.dumps(own | ({"starts": trainings[:-1]} if later else {}))


PRUNED = {"steps": [{"prune": {"method": "channels"}}]}
RECIPES = {
    "baseline": settings(2),
    "l1-30": settings(2, steps=[{"prune": {}}]),
    "longer": settings(2, {}),
    "longest": settings(2, {}, {}),
    "channels": settings(2, PRUNED),
    "twice": settings(2, PRUNED, PRUNED),
    "thrice": settings(2, {}, {}, PRUNED),
    "gradual": settings(2, {"hook": {"sparsify": {}}}),
    "longer+8bit": settings(2, {}, steps=[{"quantize": {}}]),
    "three-epochs": settings(3),
    "three-epochs+8bit": settings(3, steps=[{"quantize": {}}]),
}


def test_a_recipe_that_trains_on_is_compared_with_a_baseline_that_does() -> None:
    frame = synthetic.frame(
        synthetic.row(name, seed, settings=text) for name, text in RECIPES.items() for seed in (0, 1)
    )
    found = {recipe[2]: reference for recipe, reference in references.references(frame).items()}
    assert found == {
        "baseline": "baseline",
        "l1-30": "baseline",
        "longer": "baseline",
        "longest": "baseline",
        "channels": "longer",
        "twice": "longest",
        "thrice": None,
        "gradual": "longer",
        "longer+8bit": "longer",
        "three-epochs": "baseline",
        "three-epochs+8bit": "three-epochs",
    }
    without = frame[~frame["optimization"].isin(["longer", "baseline"])]
    assert set(references.references(without).values()) == {None}


def references_of(rows: dict[str, str]) -> dict[str, str | None]:
    """Return the reference of each recipe of recipe → its settings, the same in both orders of rows."""
    found = [
        references.references(synthetic.frame(synthetic.row(name, 0, settings=rows[name]) for name in names))
        for names in (list(rows), list(rows)[::-1])
    ]
    assert found[0] == found[1]
    return {recipe[2]: reference for recipe, reference in found[0].items()}


def test_a_recipe_with_another_optimizer_is_compared_with_the_uncompressed_one_that_shares_it() -> None:
    def own(optimizer: str, rate: float = 0.1, later: str = "", **compressed: Any) -> str:
        options = {"epochs": 2, "optimizer": optimizer, "learning_rate": rate, "batch_size": 32, "linear": "float"}
        trainings = [{"model": {"family": "ncsn"}, "training": options}]
        if later:
            trainings += [{"model": {"family": "ncsn"}, "steps": [], "training": options | {"optimizer": later}}]
        last = trainings[-1] | {"training": trainings[-1]["training"] | compressed}
        return json.dumps({"train": last, "compress": {"steps": []}, "starts": trainings[:-1]})

    rows = {
        "baseline": own("muon"),
        "adam": own("adamw"),
        "adam-again": own("adamw"),
        "adam+8bit": own("adamw", linear="8bit"),
        "8bit": own("muon", linear="8bit"),
        "slow-adam+8bit": own("adamw", 0.01, linear="8bit"),
        "longer": own("muon", later="muon"),
        "longer-adam": own("muon", later="adamw"),
        "longer-adam+8bit": own("muon", later="adamw", linear="8bit"),
        "longer-sgd+8bit": own("muon", later="sgd", linear="8bit"),
        "adam-longer": own("adamw", later="adamw"),
        "adam-longer+8bit": own("adamw", later="adamw", linear="8bit"),
        "adam-then-muon+8bit": own("adamw", later="muon", linear="8bit"),
    }
    assert references_of(rows) == {
        "baseline": "baseline",
        "adam": "baseline",
        "adam-again": "baseline",
        "adam+8bit": "adam",
        "8bit": "baseline",
        "slow-adam+8bit": "baseline",
        "longer": "baseline",
        "longer-adam": "longer",
        "longer-adam+8bit": "longer-adam",
        "longer-sgd+8bit": "longer",
        "adam-longer": "longer",
        "adam-longer+8bit": "adam-longer",
        "adam-then-muon+8bit": "longer",
    }
    cells = [
        synthetic.row(name, seed, settings=text, fid_indomain=fid * (4 if "8bit" in name else 1))
        for name, text in rows.items()
        for seed, fid in enumerate(BASE)
    ]
    found = {name: found_in(cells, name).images for name in rows}
    open_ = {name for name, finding in found.items() if finding.finding == "unresolved"}
    assert open_ >= {"slow-adam+8bit", "adam-then-muon+8bit"}, "first trained otherwise than the reference"
    assert {found[name].finding for name in ("8bit", "adam+8bit", "longer-sgd+8bit")} == {"worse"}
    assert found["slow-adam+8bit"].why.endswith("trained otherwise: optimizer, learning_rate")
    assert found["longer-sgd+8bit"].why == "trained otherwise: optimizer", "the later training is the recipe's"


def test_a_pretrained_model_has_the_same_references_in_any_order_of_rows() -> None:
    start = {"model": {"pretrained": "folder"}, "training": {"epochs": 0.0}}

    def own(optimizer: str, *steps: str) -> str:
        later = {"model": {"pretrained": "folder"}, "training": {"epochs": 1, "optimizer": optimizer}}
        return json.dumps({"starts": [start], "train": later | {"steps": list(steps)}, "compress": {}})

    rows = {
        "baseline": json.dumps({"train": start, "compress": {}}),
        "longer": own("muon"),
        "longer-adam": own("adamw"),
        "pruned": own("muon", "prune"),
        "pruned-adam": own("adamw", "prune"),
        "pruned-sgd": own("sgd", "prune"),
    }
    assert references_of(rows) == {
        "baseline": "baseline",
        "longer": "baseline",
        "longer-adam": "longer",
        "pruned": "longer",
        "pruned-adam": "longer-adam",
        "pruned-sgd": "longer",
    }


@pytest.mark.parametrize(("total", "parts"), [(0.3, (0.1, 0.2)), (2.5, (1, 1.5)), (3, (2, 1)), (1.1, (0.4, 0.7))])
def test_epochs_of_a_chain_are_as_many_as_those_of_one_training(total: float, parts: tuple[float, ...]) -> None:
    trainings = [{"training": {"epochs": epochs}} for epochs in parts]
    chain = references.epochs_of({"starts": trainings[:-1], "train": trainings[-1]})
    assert chain == references.epochs_of({"train": {"training": {"epochs": total}}}) == total


UNTIMED = json.dumps({"train": {"model": {}, "training": {}}})


def test_unknown_epochs_do_not_equal_unknown_epochs() -> None:
    """Rows without settings have no reference but a known one; `baseline` is its own; a row that has them counts."""
    rows = cells("baseline", BASE) + cells("l1-30", (60.0, 61.0, 59.0))
    for text in (None, "{}", UNTIMED, json.dumps(json.loads(RECIPES["longer"]) | {"starts": [{}]})):
        for without in ({"baseline", "l1-30"}, {"baseline"}, {"l1-30"}):
            changed = [row | {"settings": text} if row["optimization"] in without else row for row in rows]
            found = references.references(synthetic.frame(changed))
            assert found == {("mnist", "ncsn", "baseline"): "baseline", KEY: None}
            difference = found_in(changed)
            assert difference.images.finding == "no reference"
            assert "known to be trained for as long" in difference.images.why
    assert found_in([row | {"settings": None} for row in rows]).size.finding == "better", "files need no epochs"
    one = [row | {"settings": None} if row["seed"] == 0 else row for row in rows]
    assert references.references(synthetic.frame(one))[KEY] == "baseline"
    assert found_in(one) == found_in(rows)


def test_a_recipe_with_the_settings_of_its_reference_is_the_reference() -> None:
    """It takes no place in the family of tests, as guidance 1.5 where that is the default."""
    rows = cells("baseline", BASE) + cells("l1-30", (60.0, 69.0, 56.0))
    alone = found_in(rows).images
    same = cells("guidance-1.5", BASE, settings=synthetic.settings())
    for seed, row in enumerate(same):
        row["settings"] = synthetic.settings(seed=seed)
    assert found_in(rows + same).images == alone
    found = found_in(rows + same, "guidance-1.5")
    assert {found.images.finding, found.size.finding, found.speed.finding} == {"reference"}
    assert found.images.why == "the settings are those of baseline"
    other = cells("guidance-1.5", BASE)
    assert found_in(rows + other).images.p == pytest.approx(2 * alone.p)


def test_images_are_compared_with_the_reference_and_files_with_the_baseline() -> None:
    """Pruned channels look better than the baseline, which had less training, and are worse than `longer`."""
    fids = {"baseline": 40.0, "longer": 20.0, "channels": 30.0}
    rows = [
        synthetic.row(name, seed, fid_indomain=fid + seed, settings=RECIPES[name], size_gzip_bytes=int(1e5 * fid))
        for name, fid in fids.items()
        for seed in range(3)
    ]
    found = found_in(rows, "channels")
    assert (found.reference, found.images.finding, found.size.finding) == ("longer", "worse", "better")
    assert found_in(rows, "longer").images.finding == "better"
    lone = found_in([row for row in rows if row["optimization"] != "longer"], "channels")
    assert (lone.reference, lone.images.finding, lone.size.finding) == ("", "no reference", "better")


def test_a_whole_table_without_differences_rarely_has_a_finding() -> None:
    """Twelve recipes that are all the baseline: uncorrected about one table in three would hold a difference."""
    generator = np.random.default_rng(5)
    tables = 400
    corrected = uncorrected = 0
    for _ in range(tables):
        base = generator.normal(0, 0.2, 3)
        ratios = [
            paired(dict(enumerate(np.exp(generator.normal(0, 0.2, 3)))), dict(enumerate(np.exp(base))))
            for _ in range(12)
        ]
        evidence = {("d", "m", str(n)): Evidence((ratio,), ("a",), 1.0001, 1.0001) for n, ratio in enumerate(ratios)}
        corrected += any(found.finding in ("better", "worse") for found in decisions.decide(evidence).values())
        uncorrected += any(ratio.p < 0.05 for ratio in ratios)
    assert corrected / tables <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / tables)
    assert uncorrected / tables > 0.2


def test_few_findings_are_false_where_half_of_the_recipes_differ() -> None:
    """Twenty recipes with one reference, ten of them equal to it. Without a correction, a tenth would be false."""
    generator = np.random.default_rng(7)
    false, alone, power = [], [], []
    for _ in range(300):
        base, own = generator.normal(0, 0.1, 3), generator.normal(0, 0.1, (20, 3))
        own[10:] += math.log(4)
        ratios = [paired(dict(enumerate(np.exp(logs))), dict(enumerate(np.exp(base)))) for logs in own]
        evidence = {("d", "m", str(n)): Evidence((ratio,), ("a",), 1.0001, 1.0001) for n, ratio in enumerate(ratios)}
        found = [one.finding in ("better", "worse") for one in decisions.decide(evidence).values()]
        false.append(sum(found[:10]) / max(1, sum(found)))
        alone.append(sum(ratio.p < 0.05 for ratio in ratios[:10]) / sum(ratio.p < 0.05 for ratio in ratios))
        power.append(sum(found[10:]) / 10)
    assert np.mean(power) > 0.8
    assert np.mean(false) <= 0.05
    assert np.mean(alone) > np.mean(false)


def test_columns_that_findings_rest_on_have_ratios() -> None:
    computed = findings.find(synthetic.full(2), synthetic.MARGINS)
    for side in findings.BASELINES:
        assert set(comparisons.COLUMNS) <= set(computed.ratios[side])
