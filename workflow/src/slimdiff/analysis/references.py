"""The reference of each recipe: the uncompressed model that was trained for as long."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.statistics import Recipe

NAMES = ["dataset", "model", "optimization"]


def references(matrix: pd.DataFrame) -> dict[Recipe, str | None]:
    """Return the recipe that each recipe of `matrix` is compared with, of the same data set and model.

    A recipe that was trained for as many epochs as `baseline` is compared with it. One that trains on is compared with
    the recipe that trains on for as many epochs and does nothing else, such as `longer`; that one itself with
    `baseline`. None: the matrix holds no such recipe, or its rows do not say for how many epochs one of them was
    trained. `baseline` is its own reference.
    """
    settings = recipe_settings(matrix)
    longer: dict[tuple[str, str, float], str] = {}  # data set, model, epochs → recipe
    for recipe, own in settings.items():
        baseline, epochs = settings.get((*recipe[:2], BASELINE)), epochs_of(own)
        if baseline and epochs is not None and _trains_on_alone(own, baseline):
            longer.setdefault((*recipe[:2], epochs), recipe[2])
    result: dict[Recipe, str | None] = {}
    for recipe, own in settings.items():
        baseline, epochs = settings.get((*recipe[:2], BASELINE)), epochs_of(own)
        reference = None if epochs is None else longer.get((*recipe[:2], epochs))
        as_long = baseline is not None and epochs is not None and epochs == epochs_of(baseline)
        result[recipe] = BASELINE if as_long or recipe[2] in (BASELINE, reference) else reference
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


def _trains_on_alone(settings: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    """Whether a recipe differs from the baseline by further epochs alone."""
    starts = settings.get("starts", [])
    if not starts or starts[0] != baseline.get("train") or _kept(settings) != _kept(baseline):
        return False
    later = [*starts[1:], settings["train"]]
    plain = {key: value for key, value in starts[0]["training"].items() if key != "epochs"}
    untrained = "pretrained" in starts[0]["model"]  # has no options of an optimizer to differ from
    return all(
        not training.get("steps")
        and not any(name in training for name in ("hook", "while"))  # older matrices say "while"
        and {
            key: value
            for key, value in training["training"].items()
            if key != "epochs" and (key in plain or not untrained)
        }
        == plain
        for training in later
    )


def _kept(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the compression, sampler and engine of a recipe."""
    compress: Mapping[str, Any] = settings.get("compress", {})
    return compress
