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
    `baseline`. None: the matrix holds no such recipe.
    """
    settings = recipe_settings(matrix)
    longer: dict[tuple[str, str, float], str] = {}  # data set, model, epochs → recipe
    for recipe, own in settings.items():
        baseline = settings.get((*recipe[:2], BASELINE))
        if baseline is not None and _trains_on_alone(own, baseline):
            longer.setdefault((*recipe[:2], _epochs(own)), recipe[2])
    result: dict[Recipe, str | None] = {}
    for recipe, own in settings.items():
        baseline, epochs = settings.get((*recipe[:2], BASELINE)), _epochs(own)
        reference = longer.get((*recipe[:2], epochs))
        as_long = baseline is not None and epochs == _epochs(baseline)
        result[recipe] = BASELINE if as_long or (baseline is not None and reference == recipe[2]) else reference
    return result


def recipe_settings(matrix: pd.DataFrame) -> dict[Recipe, Mapping[str, Any]]:
    """Return the settings of each recipe without seeds, from its first row; {} for a row that has none."""
    rows = matrix.drop_duplicates(NAMES)
    names = rows[NAMES].itertuples(index=False, name=None)
    texts = rows["settings"].fillna("{}")
    found = {(str(d), str(m), str(o)): json.loads(text or "{}") for (d, m, o), text in zip(names, texts, strict=True)}
    return {recipe: without_seeds(own) for recipe, own in found.items()}


def without_seeds(value: Any) -> Any:
    """Return JSON values without the keys `seed`, by which the rows of a recipe differ."""
    if isinstance(value, dict):
        return {key: without_seeds(item) for key, item in value.items() if key != "seed"}
    return [without_seeds(item) for item in value] if isinstance(value, list) else value


def _epochs(settings: Mapping[str, Any]) -> float:
    """Return the epochs of a recipe's training and of all trainings that it starts from; 0 if a row does not say."""
    trainings = [*settings.get("starts", []), settings.get("train", {})]
    return float(sum(training.get("training", {}).get("epochs", 0) for training in trainings))


def _trains_on_alone(settings: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    """Whether a recipe differs from the baseline by further epochs alone."""
    starts = settings.get("starts", [])
    if not starts or starts[0] != baseline.get("train") or _kept(settings) != _kept(baseline):
        return False
    later = [*starts[1:], settings["train"]]
    plain = {key: value for key, value in starts[0]["training"].items() if key != "epochs"}
    return all(
        not training.get("steps")
        and not any(name in training for name in ("hook", "while"))  # older matrices say "while"
        and {key: value for key, value in training["training"].items() if key != "epochs"} == plain
        for training in later
    )


def _kept(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the compression, sampler and engine of a recipe."""
    compress: Mapping[str, Any] = settings.get("compress", {})
    return compress
