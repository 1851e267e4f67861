"""The reference of each recipe: the uncompressed model that was trained likewise, and for as long."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.statistics import Recipe

SCHEDULE = ("optimizer", "learning_rate", "batch_size")  # what decides how much an epoch teaches, compression apart
NAMES = ["dataset", "model", "optimization"]


def references(matrix: pd.DataFrame) -> dict[Recipe, str | None]:
    """Return the recipe that each recipe of `matrix` is compared with, of the same data set and model.

    That is the uncompressed recipe of as many epochs that shares optimizer, learning rate and batch: for most recipes
    `baseline`, for one that trains on `longer`. Where the matrix holds none, epochs alone decide. Such a recipe is
    itself compared with the one that differs from `baseline` by no more than epochs. None: the matrix holds no such
    recipe, or its rows do not say for how many epochs one of them was trained. `baseline` is its own reference.
    """
    settings = recipe_settings(matrix)
    by_epochs: dict[tuple[object, ...], str] = {}  # data set, model, epochs → recipe
    by_schedule: dict[tuple[object, ...], str] = {}  # data set, model, epochs, schedule → recipe
    for recipe in sorted(settings, key=lambda name: name[2] != BASELINE):  # `baseline` before recipes that equal it
        own, baseline = settings[recipe], settings.get((*recipe[:2], BASELINE), {})
        key = (*recipe[:2], epochs_of(own))
        if epochs_of(own) is None or epochs_of(baseline) is None:
            continue
        if own == baseline or _trains_on_alone(own, baseline, ("epochs",)):
            by_epochs.setdefault(key, recipe[2])
        if _trains_alone(own, baseline) or _trains_on_alone(own, baseline, ("epochs", *SCHEDULE)):
            by_schedule.setdefault((*key, schedule_of(own)), recipe[2])
    result: dict[Recipe, str | None] = {}
    for recipe, own in settings.items():
        key = (*recipe[:2], epochs_of(own))
        found = by_schedule.get((*key, schedule_of(own)))
        if found in (None, recipe[2]):
            found = by_epochs.get(key)
        result[recipe] = BASELINE if recipe[2] in (BASELINE, found) else found
    return result


def recipe_settings(matrix: pd.DataFrame) -> dict[Recipe, Mapping[str, Any]]:
    """Return the settings of each recipe without seeds, from its first row that has any; {} if none has."""
    names = matrix[NAMES].itertuples(index=False, name=None)
    found: dict[Recipe, Mapping[str, Any]] = {}
    for (dataset, model, optimization), text in zip(names, matrix["settings"].fillna(""), strict=True):
        recipe = (str(dataset), str(model), str(optimization))
        if not found.get(recipe):
            found[recipe] = without_seeds(json.loads(text or "{}"))
    return found


def without_seeds(value: Any) -> Any:
    """Return JSON values without the keys `seed`, by which the rows of a recipe differ."""
    if isinstance(value, dict):
        return {key: without_seeds(item) for key, item in value.items() if key != "seed"}
    return [without_seeds(item) for item in value] if isinstance(value, list) else value


def epochs_of(settings: Mapping[str, Any]) -> float | None:
    """Return the epochs of a recipe's training and of all trainings that it starts from; None if one does not say."""
    trainings = [*settings.get("starts", []), settings.get("train", {})]
    epochs = [training.get("training", {}).get("epochs") for training in trainings]
    return None if None in epochs else round(float(sum(epochs)), 6)  # 0.1 + 0.2 epochs are as many as 0.3


def schedule_of(settings: Mapping[str, Any]) -> frozenset[tuple[Any, ...]]:
    """Return the values of SCHEDULE of each training of a recipe that has any."""
    trainings = [*settings.get("starts", []), settings.get("train", {})]
    values = (tuple(training.get("training", {}).get(name) for name in SCHEDULE) for training in trainings)
    return frozenset(value for value in values if any(value))


def _trains_alone(settings: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    """Whether a recipe without a start differs from the baseline by its schedule alone, at as many epochs."""
    own, plain = settings.get("train", {}), baseline.get("train", {})
    return (
        not settings.get("starts")
        and _kept(settings) == _kept(baseline)
        and {**own, "training": _without(own.get("training", {}), SCHEDULE)}
        == {**plain, "training": _without(plain.get("training", {}), SCHEDULE)}
    )


def _trains_on_alone(settings: Mapping[str, Any], baseline: Mapping[str, Any], free: tuple[str, ...]) -> bool:
    """Whether a recipe differs from the baseline by further training alone, whose options `free` may differ."""
    starts = settings.get("starts", [])
    if not starts or starts[0] != baseline.get("train") or _kept(settings) != _kept(baseline):
        return False
    plain = _without(starts[0]["training"], free)
    untrained = "pretrained" in starts[0]["model"]  # has no options of an optimizer to differ from
    for training in [*starts[1:], settings["train"]]:
        options = _without(training["training"], free)
        if untrained:
            options = {key: value for key, value in options.items() if key in plain}
        # Older matrices say "while" of a hook.
        if training.get("steps") or "hook" in training or "while" in training or options != plain:
            return False
    return True


def _without(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return options without those of `names`."""
    return {key: value for key, value in options.items() if key not in names}


def _kept(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the compression, sampler and engine of a recipe."""
    compress: Mapping[str, Any] = settings.get("compress", {})
    return compress
