"""Recipes that differ in `sampler.guidance` alone, and beside them the models that are told no class."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.io.settings import canonical

REFERENCE = "baseline"
COLUMNS = ("fid_indomain", "class_accuracy")
NUMBERS = tuple(f"{column}{end}" for column in COLUMNS for end in ("", "_low", "_high"))
GUIDED = ("dataset", "model", "line", "optimization", "guidance", "seeds", *NUMBERS)
UNTOLD = ("dataset", "model", "fid_indomain")
LEAST_SCALES = 2  # of one recipe, for a line

Settings = Mapping[str, Any]


def guided_recipes(matrix: pd.DataFrame) -> pd.DataFrame:
    """The recipes of models that are told a class which come in LEAST_SCALES guidances or more, else being the same.

    Of two with the same guidance the first. Those of a model that share all else are a line; a model has more than one
    where pruned networks, say, come in several guidances as well.

    Columns, GUIDED: dataset, model, line (the model, and the recipe of the line with the least guidance where the model
    has several), optimization, guidance, seeds, and each of COLUMNS with its 95 % t-interval over seeds.
    """
    lines: dict[tuple[str, str, str], dict[float, statistics.Recipe]] = {}
    for recipe, settings in _settings(matrix).items():
        guidance = settings["compress"]["sampler"].get("guidance")
        if _classes(settings) and guidance is not None:
            lines.setdefault((*recipe[:2], _else(settings)), {}).setdefault(float(guidance), recipe)
    found = {column: statistics.by_recipe(matrix, column) for column in COLUMNS}
    drawn = [
        sorted(known.items())
        for recipes in lines.values()
        if len(known := {scale: recipe for scale, recipe in recipes.items() if found["fid_indomain"][recipe].n})
        >= LEAST_SCALES
    ]
    models = [recipes[0][1][:2] for recipes in drawn]
    rows = []
    for recipes, model in zip(drawn, models, strict=True):
        line = model[1] if models.count(model) == 1 else f"{model[1]}, {recipes[0][1][2]}"
        for guidance, recipe in recipes:
            fid, accuracy = (found[column][recipe] for column in COLUMNS)
            numbers = (fid.mean, fid.low, fid.high, accuracy.mean, accuracy.low, accuracy.high)
            rows.append((*model, line, recipe[2], guidance, fid.n, *numbers))
    return pd.DataFrame(rows, columns=list(GUIDED))


def untold_models(matrix: pd.DataFrame) -> pd.DataFrame:
    """Mean FID of the baseline of each model that is told no class. Columns, UNTOLD: dataset, model, fid."""
    fids = statistics.by_recipe(matrix, "fid_indomain")
    rows = [
        dict(zip(UNTOLD, (*recipe[:2], fids[recipe].mean), strict=True))
        for recipe, settings in _settings(matrix).items()
        if recipe[2] == REFERENCE and fids[recipe].n and not _classes(settings)
    ]
    return pd.DataFrame(rows, columns=list(UNTOLD))


def _settings(matrix: pd.DataFrame) -> dict[statistics.Recipe, Settings]:
    """The settings of each recipe: those of its first row, which say what those of its other seeds say."""
    names = matrix[["dataset", "model", "optimization"]].itertuples(index=False, name=None)
    texts: dict[statistics.Recipe, str] = {}
    for recipe, text in zip(names, matrix["settings"], strict=True):
        if isinstance(text, str) and text:
            texts.setdefault(recipe, text)
    found = {recipe: json.loads(text) for recipe, text in texts.items()}
    return {recipe: settings for recipe, settings in found.items() if settings.get("compress")}


def _classes(settings: Settings) -> bool:
    """Whether the network is told a class."""
    return bool(settings["train"]["model"].get("network", {}).get("classes"))


def _else(settings: Settings) -> str:
    """All that makes the images but for guidance and seeds."""
    compress = settings["compress"]
    sampler = {key: value for key, value in compress["sampler"].items() if key != "guidance"}
    made = {"train": settings["train"], "starts": settings.get("starts"), "compress": {**compress, "sampler": sampler}}
    return canonical(_seedless(made))


def _seedless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _seedless(each) for key, each in value.items() if key != "seed"}
    return [_seedless(each) for each in value] if isinstance(value, list) else value
