"""Seeds of masks, sampling and fine-tuning of their own: what they change, what they leave, and how lists expand."""

from typing import Any

import pytest
import torch
from finetunings import equal, run, settings_of, start_of
from presets import CONFIG, ROOT, SCHEMA, merge

from slimdiff.cli.config import cells_of, trainings_of
from slimdiff.config import resolve
from slimdiff.config.axes import base_name, expand_axes
from slimdiff.config.cells import expand
from slimdiff.config.validate import validate
from slimdiff.errors import UserError

RANDOM = {"method": "random", "amount": 0.1, "scope": "global"}
PLACE: dict[str, Any] = {"dataset": "mnist", "model": "ncsn", "seed": "4"}


def overlay(**keys: Any) -> dict[str, Any]:
    """An overlay with a recipe `mine`, which the matrix runs next to the baseline."""
    entry = {"dataset": "mnist", "model": "ncsn", "optimizations": ["baseline", "mine"], "seeds": [4]}
    return {"optimizations": {"mine": {"training": "plain", **keys}}, "matrix": [entry]}


def check(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the valid config with these changes, expanded as the rules do it."""
    config = merge(CONFIG, changes)
    validate(config, SCHEMA, {"config.yaml": CONFIG, "my.yaml": changes})
    return expand_axes(config)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_without_lists_a_config_stays_as_it_is() -> None:
    assert expand_axes(CONFIG) == CONFIG
    assert list(expand_axes(CONFIG)["optimizations"]) == list(CONFIG["optimizations"])


def test_a_seed_changes_its_own_stage_alone() -> None:
    settings = {
        name: resolve.row_settings(check(overlay(prune=RANDOM, **keys)), optimization="mine", **PLACE)
        for name, keys in {"plain": {}, "mask": {"mask_seed": 7}, "sampling": {"sampling_seed": 8}}.items()
    }
    assert [(s["seed"], s["mask_seed"], s["sampling_seed"]) for s in settings.values()] == [
        (4, 4, 4),
        (4, 7, 4),
        (4, 4, 8),
    ]
    stages = {name: row["settings"] for name, row in settings.items()}
    for name, stage, seed in (("mask", "compress", 7), ("sampling", "sample", 8)):
        assert stages[name][stage] == {**stages["plain"][stage], "seed": seed}
        assert {**stages[name], stage: stages["plain"][stage]} == stages["plain"]


def test_a_recipe_that_draws_no_mask_has_no_seed_of_one() -> None:
    for keys in ({}, {"prune": {**RANDOM, "method": "l1"}}, {"quantize": {"linear": "8bit"}}):
        assert resolve.row_settings(check(overlay(**keys)), optimization="mine", **PLACE)["mask_seed"] is None


def test_lists_become_one_recipe_of_each_combination() -> None:
    config = check(overlay(prune=RANDOM, mask_seed=[0, 1], sampling_seed=[5, 6], weights="ema"))
    names = [f"mine+mask-{mask}+sampling-{sampling}" for mask in (0, 1) for sampling in (5, 6)]
    assert [cell.optimization for cell in expand(config["matrix"])] == ["baseline", *names]
    assert "mine" not in config["optimizations"]
    own = {"training": "plain", "prune": RANDOM, "weights": "ema", "mask_seed": 1, "sampling_seed": 5}
    assert config["optimizations"]["mine+mask-1+sampling-5"] == own
    assert {base_name(name) for name in names} == {"mine"}
    assert base_name("random-10+mask") == "random-10+mask"
    assert expand_axes(config) == config


def test_commands_see_the_expanded_cells() -> None:
    config = merge(CONFIG, overlay(sampling_seed=[5, 6]))
    cells = ["mnist/ncsn/baseline/seed4", *(f"mnist/ncsn/mine+sampling-{seed}/seed4" for seed in (5, 6))]
    assert cells_of(config, []) == cells
    assert trainings_of(config, []) == ["mnist/ncsn/plain/seed4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (overlay(mask_seed=1), "optimizations.mine.mask_seed seeds random pruning .* leave it out"),
        (overlay(prune={**RANDOM, "method": "l1"}, mask_seed=1), "optimizations.mine.mask_seed seeds random pruning"),
        (overlay(sampling_seed=[]), r"optimizations.mine.sampling_seed is \[\]; allowed: .* 1 or more entries"),
        (overlay(sampling_seed=[1, 1]), r"optimizations.mine.sampling_seed is \[1, 1\]; allowed: .*without repeats"),
        (overlay(sampling_seed=-1), "optimizations.mine.sampling_seed is -1; allowed: a whole number at least 0 or"),
        (
            merge(overlay(sampling_seed=[1]), {"optimizations": {"mine+sampling-1": {"training": "plain"}}}),
            r"optimizations.mine expands to mine\+sampling-1, which is another recipe; rename",
        ),
        ({"trainings": {"mine": {"finetune_seed": 1}}}, "trainings.mine.finetune_seed requires the key start"),
        ({"models": {"ncsn": {"training": {"finetune_seed": 1}}}}, "models.ncsn.training.finetune_seed is allowed in"),
        (
            merge(overlay(training="mine"), {"trainings": {"mine": {"ema_sampled_after": 1}}}),
            "trainings.mine.ema_sampled_after is 1; allowed with linear float: null",
        ),
        (
            merge(
                overlay(training="mine"),
                {"trainings": {"mine": {"linear": "8bit-mixed", "ema_sampled_after": 2, "epochs": 2}}},
            ),
            "trainings.mine.ema_sampled_after is 2; allowed: below the 2 epochs",
        ),
        (
            overlay(training="linear-8bit-mixed", prune=RANDOM),
            "optimizations.mine.prune .*linear-8bit-mixed.* 8bit-mixed; allowed: a training with linear: float",
        ),
        (
            overlay(training="linear-8bit-mixed", precision="bf16"),
            "optimizations.mine.precision is bf16, .*8bit-mixed.* only engine torch in fp32",
        ),
        (
            overlay(quantize={"linear": "8bit-mixed"}),
            "optimizations.mine.quantize.linear is '8bit-mixed'; allowed: 4bit",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^my\.yaml: {message}"):
        check(changes)


def test_names_that_grow_too_long_are_refused() -> None:
    changes = {"optimizations": {"m" * 95: {"training": "plain", "sampling_seed": [1]}}}
    with pytest.raises(UserError, match="which is longer than 100 characters; rename the recipe"):
        check(changes)


def test_a_seed_of_the_fine_tuning_leaves_the_start_and_changes_the_rest(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The cell's own seed as `finetune_seed` is the default; another one draws other batches and other channels."""
    start = start_of(tmp_path, "ncsn")
    step = {"prune": {"method": "channels", "importance": "random", "amount": 0.5}}
    plain = settings_of(start, (step,), epochs=1)
    own, same, other = (
        run(start, tmp_path / name, settings={**plain, **keys})
        for name, keys in (("a", {}), ("b", {"finetune_seed": 0}), ("c", {"finetune_seed": 1}))
    )
    assert equal(own, same)
    assert other.header["start"]["sha256"] == own.header["start"]["sha256"]
    assert not torch.equal(own.weights["raw"]["conv3.weight"], other.weights["raw"]["conv3.weight"])
    trainings = {"again": {**CONFIG["trainings"]["longer"], "finetune_seed": 3}}
    config = merge(CONFIG, {"trainings": trainings})
    again, longer = (resolve.finetune_settings(config, "mnist", "ncsn", name, 4) for name in ("again", "longer"))
    assert again == {**longer, "finetune_seed": 3}
