"""The reference of each recipe: the uncompressed model that was trained likewise."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.statistics import Recipe
from slimdiff.catalog.families import NOISE_LEVELS

# What decides how much an epoch teaches a network, compressed or not.
SCHEDULE = ("optimizer", "learning_rate", "lr_schedule", "weight_decay", "batch_size", *NOISE_LEVELS)
NAMES = ["dataset", "model", "optimization"]


def references(matrix: pd.DataFrame) -> dict[Recipe, str | None]:
    """Return the recipe that each recipe of `matrix` is compared with, of the same data set and model.

    That is the uncompressed recipe that was trained likewise: for as many epochs, by the same optimizer, rate, rate
    schedule, weight decay, batch and noise levels, one after the other where a training starts from another. For most
    recipes it is `baseline`, for one that trains on `longer`. Where the matrix holds none, it is the uncompressed one
    of as many epochs that is trained as `baseline` is, which is also what uncompressed recipes are compared with. None:
    the matrix holds no such recipe, or its rows do not say for how many epochs one was trained. `baseline` is its own
    reference.
    """
    settings = recipe_settings(matrix)
    candidates: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}  # data set, model → the uncompressed recipes
    for (dataset, model, name), own in settings.items():
        if is_uncompressed(own, settings.get((dataset, model, BASELINE), {})):
            candidates.setdefault((dataset, model), {})[name] = own
    return {
        (dataset, model, name): _reference(name, own, candidates.get((dataset, model), {}))
        for (dataset, model, name), own in settings.items()
    }


def _reference(name: str, own: Mapping[str, Any], candidates: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the reference of a recipe among the uncompressed ones of its model."""
    if name == BASELINE:
        return BASELINE

    def order(other: str) -> tuple[bool, bool, str]:  # of those that were trained alike, one that starts as `name` does
        return other != BASELINE, bool(candidates[other].get("starts")) != bool(own.get("starts")), other

    as_long = [other for other in sorted(candidates, key=order) if epochs_of(candidates[other]) == epochs_of(own)]
    if epochs_of(own) is None or not as_long:
        return None
    if name not in candidates:
        alike = [other for other in as_long if schedule_of(candidates[other]) == schedule_of(own)]
        if alike:
            return alike[0]
    plain = {options for options, _ in schedule_of(candidates.get(BASELINE, {}))}  # none of a pretrained model
    found = [other for other in as_long if not plain or {step[0] for step in schedule_of(candidates[other])} <= plain]
    return None if not found else BASELINE if found[0] == name else found[0]


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
    epochs = [training.get("training", {}).get("epochs") for training in _trainings(settings)]
    return None if None in epochs else round(float(sum(epochs)), 6)  # 0.1 + 0.2 epochs are as many as 0.3


def schedule_of(settings: Mapping[str, Any]) -> tuple[tuple[tuple[Any, ...], float], ...]:
    """Return the values of SCHEDULE and the epochs of each training of a recipe, one after the other.

    Trainings of the same values count as one, a pretrained model's as none.
    """
    steps: list[tuple[tuple[Any, ...], float]] = []
    for training in _trainings(settings):
        options = training.get("training", {})
        values, epochs = (
            tuple(options.get(name, NOISE_LEVELS.get(name)) for name in SCHEDULE),
            options.get("epochs") or 0.0,
        )
        if steps and steps[-1][0] == values:
            epochs += steps.pop()[1]
        if epochs:
            steps.append((values, round(float(epochs), 6)))
    return tuple(steps)


def unlike(own: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options of SCHEDULE in which the trainings of two recipes differ; () if one was not trained here."""
    schedules = schedule_of(own), schedule_of(other)

    def values(schedule: tuple[tuple[tuple[Any, ...], float], ...], place: int) -> list[Any]:
        return [value for value, _ in itertools.groupby(step[place] for step, _ in schedule)]

    if not all(schedules):
        return ()
    sides = (tuple(values(schedule, place) for schedule in schedules) for place in range(len(SCHEDULE)))
    return tuple(name for name, (one, two) in zip(SCHEDULE, sides, strict=True) if one != two)


def is_confounded(own: Mapping[str, Any], other: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    """Whether the images of two recipes, not both uncompressed, show the training as much as the compression.

    That is so if their first trainings differ in SCHEDULE. Later ones, such as distillation at a smaller rate, belong
    to a recipe.
    """
    first, second = (schedule_of(side)[:1] for side in (own, other))
    if not first or not second or first[0][0] == second[0][0]:
        return False
    return not (is_uncompressed(own, baseline) and is_uncompressed(other, baseline))


def is_uncompressed(settings: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    """Whether a recipe differs from the baseline in nothing but epochs, SCHEDULE and further training."""
    first, *later = _trainings(settings)
    plain = baseline.get("train")
    if not plain or _kept(settings) != _kept(baseline):
        return False
    if settings == baseline:
        return True
    free = ("epochs", *SCHEDULE)
    options = _without(plain.get("training", {}), free)
    own = {**first, "training": _without(first.get("training", {}), free)}
    if own != {**plain, "training": options}:
        return False
    untrained = "pretrained" in plain["model"]  # has no options of training to differ from
    for training in later:
        kept = _without(training["training"], free)
        if untrained:
            kept = {key: value for key, value in kept.items() if key in options}
        # Older matrices say "while" of a hook.
        if training.get("steps") or "hook" in training or "while" in training or kept != options:
            return False
    return True


def _trainings(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the trainings of a recipe in their order: those that it starts from, then its own."""
    return [*settings.get("starts", []), settings.get("train", {})]


def _without(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return options without those of `names`."""
    return {key: value for key, value in options.items() if key not in names}


def _kept(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the compression, sampler and engine of a recipe."""
    compress: Mapping[str, Any] = settings.get("compress", {})
    return compress
