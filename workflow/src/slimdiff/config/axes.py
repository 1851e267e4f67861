"""Seeds of their own as axes of a recipe: `mask_seed: [0, 1, 2]` makes one recipe of each value.

A recipe NAME with both axes becomes NAME+mask-0+sampling-0, NAME+mask-0+sampling-1, … wherever the matrix lists NAME.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

AXES = {"mask_seed": "mask", "sampling_seed": "sampling"}  # key of a recipe → its word in a name
SUFFIX = re.compile(rf"(\+({'|'.join(AXES.values())})-\d+)+$")  # of an expanded name


def expand_axes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with every recipe that has a list of seeds replaced by one recipe per combination.

    A config without such lists is returned as it is, so expanding twice changes nothing.
    """
    expanded = {name: variants(name, recipe) for name, recipe in config.get("optimizations", {}).items()}
    matrix = [
        {**entry, "optimizations": [own for name in entry["optimizations"] for own in expanded.get(name, {name: {}})]}
        for entry in config["matrix"]
    ]
    return {**config, "optimizations": {k: v for own in expanded.values() for k, v in own.items()}, "matrix": matrix}


def variants(name: str, recipe: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the recipes that `recipe` stands for, by name: itself if it has no list of seeds."""
    lists = {key: recipe[key] for key in AXES if isinstance(recipe.get(key), list)}
    if not lists:
        return {name: recipe}
    combinations = [dict(zip(lists, seeds, strict=True)) for seeds in itertools.product(*lists.values())]
    return {"+".join([name, *(f"{AXES[k]}-{s}" for k, s in own.items())]): {**recipe, **own} for own in combinations}


def base_name(name: str) -> str:
    """Return the name of the recipe that `name` was expanded from, `name` itself for any other."""
    return SUFFIX.sub("", name)
