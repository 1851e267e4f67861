"""Recipes that differ in `sampler.guidance` alone, and unconditional models for comparison."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from slimdiff.analysis import statistics
from slimdiff.analysis.measures import BASELINE
from slimdiff.analysis.references import recipe_settings
from slimdiff.io.settings import canonical

COLUMNS = ("fid_indomain", "class_accuracy")
NUMBERS = tuple(f"{column}{end}" for column in COLUMNS for end in ("", "_low", "_high"))
GUIDED = ("dataset", "model", "line", "optimization", "guidance", "seeds", *NUMBERS)
UNCONDITIONAL = ("dataset", "model", "fid_indomain")
MIN_SCALES = 2  # of one recipe, for a line

Settings = Mapping[str, Any]


def guided_recipes(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return recipes of class-conditional models that come in at least MIN_SCALES guidance scales, all else equal.

    Recipes that share all else are one line; a model has several if, say, pruned networks come in several scales as
    well. Of two recipes with the same guidance the first counts.

    Columns, GUIDED: dataset, model, line (the model, with the recipe of the smallest guidance if it has several lines),
    optimization, guidance, seeds, and each of COLUMNS with its 95 % t-interval over seeds.
    """
    lines: dict[tuple[str, str, str], dict[float, statistics.Recipe]] = {}
    for recipe, settings in recipe_settings(matrix).items():
        guidance = settings.get("compress", {}).get("sampler", {}).get("guidance")
        if guidance is not None and _class_conditional(settings):
            lines.setdefault((*recipe[:2], _rest(settings)), {}).setdefault(float(guidance), recipe)
    summaries = {column: statistics.by_recipe(matrix, column) for column in COLUMNS}
    drawn = []
    for recipes in lines.values():
        scored = {scale: recipe for scale, recipe in recipes.items() if summaries["fid_indomain"][recipe].n}
        if len(scored) >= MIN_SCALES:
            drawn.append(sorted(scored.items()))
    models = [scales[0][1][:2] for scales in drawn]
    rows = []
    for scales, model in zip(drawn, models, strict=True):
        line = model[1] if models.count(model) == 1 else f"{model[1]}, {scales[0][1][2]}"
        for guidance, recipe in scales:
            fid, accuracy = (summaries[column][recipe] for column in COLUMNS)
            numbers = (fid.mean, fid.low, fid.high, accuracy.mean, accuracy.low, accuracy.high)
            rows.append((*model, line, recipe[2], guidance, fid.n, *numbers))
    return pd.DataFrame(rows, columns=list(GUIDED))


def unconditional_models(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return the mean FID of the baseline of each unconditional model. Columns, UNCONDITIONAL."""
    fids = statistics.by_recipe(matrix, "fid_indomain")
    rows = [
        (*recipe[:2], fids[recipe].mean)
        for recipe, settings in recipe_settings(matrix).items()
        if recipe[2] == BASELINE and fids[recipe].n and "train" in settings and not _class_conditional(settings)
    ]
    return pd.DataFrame(rows, columns=list(UNCONDITIONAL))


def _class_conditional(settings: Settings) -> bool:
    return bool(settings["train"]["model"].get("network", {}).get("classes"))


def _rest(settings: Settings) -> str:
    """Return the settings that affect the images, without guidance, as canonical JSON."""
    compress = settings["compress"]
    sampler = {key: value for key, value in compress["sampler"].items() if key != "guidance"}
    rest = {"train": settings["train"], "starts": settings.get("starts"), "compress": {**compress, "sampler": sampler}}
    return canonical(rest)
