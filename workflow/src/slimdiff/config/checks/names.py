"""Names that must exist, cells that are listed once, and keys that go with one another in a recipe or a training."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple
from typing import Any

from slimdiff.catalog.families import FIXED_BY_START
from slimdiff.catalog.layers import MODULE
from slimdiff.config.checks.problem import Problem, unknown
from slimdiff.config.resolve import START_KEYS, TRAINING_HOOKS, Cell, Config, expand

IMPORTANCES_OF_IMAGES = ("taylor", "diff-pruning")  # of channels, by a loss


def name_problems(config: Config) -> Iterator[Problem]:
    """Names that must exist, and cells that must be listed once."""
    for name, recipe in config["optimizations"].items():
        yield from unknown(recipe["training"], config, "trainings", ("optimizations", name, "training"))
        yield from _prune_problems(recipe.get("prune", {}), ("optimizations", name, "prune"))
    yield from _start_problems(config)
    for index, entry in enumerate(config["matrix"]):
        path = ("matrix", index)
        yield from unknown(entry["dataset"], config, "datasets", (*path, "dataset"))
        yield from unknown(entry["model"], config, "models", (*path, "model"))
        for position, optimization in enumerate(entry["optimizations"]):
            yield from unknown(optimization, config, "optimizations", (*path, "optimizations", position))
    if (reference := config["profile"]["reference"]) is not None:
        yield from unknown(reference, config, "optimizations", ("profile", "reference"))
    seen: set[Cell] = set()
    for index, entry in enumerate(config["matrix"]):
        for cell in expand([entry]):
            if cell in seen:
                yield Problem(
                    ("matrix", index), f"lists {'/'.join(map(str, astuple(cell)))} a second time; list it once"
                )
            seen.add(cell)


def _start_problems(config: Config) -> Iterator[Problem]:
    """Trainings that start from another one: names that exist, chains that end, keys in their place."""
    for name, options in config["models"].items():
        for key in START_KEYS:
            if key in options["training"]:
                text = "is for entries of trainings, not for a model's own training; add an entry with it there"
                yield Problem(("models", name, "training", key), text)
    for name, options in config["trainings"].items():
        path = ("trainings", name)
        if "start" not in options:
            for key in START_KEYS:
                if key in options:
                    yield Problem((*path, key), "is for a training that starts from another one; add the key start")
            continue
        yield from unknown(options["start"], config, "trainings", (*path, "start"))
        for key in options:
            if key not in START_KEYS:
                text = f"must stand under finetune in a training with a start; allowed there: {', '.join(START_KEYS)}"
                yield Problem((*path, key), text)
        for key in options.get("finetune", {}):
            if key in (*FIXED_BY_START, *START_KEYS):
                text = "cannot differ from the start's: leave it out, or make a training of its own"
                yield Problem((*path, "finetune", key), text)
        yield from _prune_problems(options.get("prune", {}), (*path, "prune"), images=True)
        yield from _regime_problems(options, path)
    for name, options in config["trainings"].items():
        seen = [name]
        while "start" in config["trainings"][seen[-1]]:
            seen.append(config["trainings"][seen[-1]]["start"])
            if seen[-1] in seen[:-1]:
                text = f"is {options['start']!r}, a circle ({' → '.join(seen)}); allowed: a chain that ends"
                yield Problem(("trainings", name, "start"), text)
                break


def _regime_problems(options: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    """What is done to the weights while a training goes on: one thing at a time, with what its schedule needs."""
    hooks = [name for name in TRAINING_HOOKS if name in options]
    if len(hooks) > 1:
        yield Problem((*path, hooks[1]), f"stands beside {hooks[0]}; allowed: one of {', '.join(TRAINING_HOOKS)}")
    sparsify = options.get("sparsify", {})
    if sparsify.get("amount") == 0:
        yield Problem((*path, "sparsify", "amount"), "is 0; allowed: above 0, or leave sparsify out")
    if sparsify.get("schedule") == "cubic" and "until" not in sparsify:
        yield Problem((*path, "sparsify", "until"), "is missing; schedule cubic needs it")
    if sparsify.get("schedule") == "one-shot" and "until" in sparsify:
        yield Problem((*path, "sparsify", "until"), "is for schedule cubic, and this is one-shot; leave it out")


def _prune_problems(prune: Mapping[str, Any], path: tuple[str, ...], images: bool = False) -> Iterator[Problem]:
    """Keys of a `prune` that do not go with its method; importances that need images are for trainings alone."""
    if not prune:
        return
    channels, importance = prune["method"] == "channels", prune.get("importance")
    for key, of_channels in (("scope", False), ("allocation", False), ("importance", True)):
        module = key == "scope" and str(prune.get(key)).startswith(MODULE)
        if key in prune and of_channels != channels and not module:
            yield Problem((*path, key), f"does not go with method {prune['method']}; leave it out")
        if key not in prune and of_channels == channels and key != "allocation":
            yield Problem((*path, key), f"is missing; method {prune['method']} needs it")
    if importance in IMPORTANCES_OF_IMAGES and not images:
        text = (
            f"is {importance!r}, which needs images; allowed in a recipe: l1, random; or prune in a training that "
            "starts from another (trainings.*.start with prune), and name that"
        )
        yield Problem((*path, "importance"), text)
    if images and importance == "diff-pruning" and "threshold" not in prune:
        yield Problem((*path, "threshold"), "is missing; importance diff-pruning needs it")
    if importance != "diff-pruning" and "threshold" in prune:
        yield Problem((*path, "threshold"), f"is for importance diff-pruning, and this is {importance}; leave it out")
