"""Names that must exist, cells listed twice, and keys of a recipe or a training that exclude each other."""

from collections.abc import Iterator, Mapping
from typing import Any

from slimdiff.catalog.compression import LOSS_IMPORTANCES, WEIGHT_IMPORTANCES
from slimdiff.catalog.families import FIXED_BY_START
from slimdiff.catalog.layers import MODULE
from slimdiff.config.cells import Cell, expand
from slimdiff.config.checks import Problem, check_known
from slimdiff.config.lookup import START_KEYS, TRAINING_HOOKS, Config, walk_starts


def name_problems(config: Config) -> Iterator[Problem]:
    """Yield names that do not exist and cells that are listed twice."""
    for name, recipe in config["optimizations"].items():
        yield from check_known(recipe["training"], config, "trainings", ("optimizations", name, "training"))
        yield from _prune_problems(recipe.get("prune", {}), ("optimizations", name, "prune"))
        if guide := recipe.get("sampler", {}).get("guide"):
            place = ("optimizations", name, "sampler", "guide", "optimization")
            yield from check_known(guide["optimization"], config, "optimizations", place)
    yield from _start_problems(config)
    for index, entry in enumerate(config["matrix"]):
        path = ("matrix", index)
        yield from check_known(entry["dataset"], config, "datasets", (*path, "dataset"))
        yield from check_known(entry["model"], config, "models", (*path, "model"))
        for position, optimization in enumerate(entry["optimizations"]):
            yield from check_known(optimization, config, "optimizations", (*path, "optimizations", position))
    quality = config["verdicts"]["margins"]["quality"]
    for dataset in quality if isinstance(quality, Mapping) else ():
        yield from check_known(dataset, config, "datasets", ("verdicts", "margins", "quality", dataset))
    if (baseline := config["profile"]["baseline"]) is not None:
        yield from check_known(baseline, config, "optimizations", ("profile", "baseline"))
    seen: set[Cell] = set()
    for index, entry in enumerate(config["matrix"]):
        for cell in expand([entry]):
            if cell in seen:
                yield Problem(("matrix", index), f"lists {cell.path} a second time; list it once")
            seen.add(cell)


def _start_problems(config: Config) -> Iterator[Problem]:
    """Yield starts that do not exist, circles of starts, and keys of trainings in the wrong place."""
    for name, options in config["models"].items():
        for key in START_KEYS:
            if key in options["training"]:
                text = "is allowed in entries of trainings only; move it into an entry there"
                yield Problem(("models", name, "training", key), text)
    for name, options in config["trainings"].items():
        path = ("trainings", name)
        if "start" not in options:
            for key in START_KEYS:
                if key in options:
                    yield Problem((*path, key), "requires the key start; add start, or leave it out")
            continue
        yield from check_known(options["start"], config, "trainings", (*path, "start"))
        for key in options:
            if key not in START_KEYS:
                text = (
                    f"must be under finetune in a training with start; allowed next to start: {', '.join(START_KEYS)}"
                )
                yield Problem((*path, key), text)
        for key in options.get("finetune", {}):
            if key in (*FIXED_BY_START, *START_KEYS):
                text = "cannot differ from the start's value; leave it out, or write a training without start"
                yield Problem((*path, "finetune", key), text)
        yield from _prune_problems(options.get("prune", {}), (*path, "prune"), images=True)
        yield from _hook_problems(options, path)
    for name, options in config["trainings"].items():
        chain = list(walk_starts(config["trainings"], name))
        if len(set(chain)) < len(chain):
            text = f"is {options['start']!r}, a circle ({' → '.join(chain)}); allowed: a chain that ends"
            yield Problem(("trainings", name, "start"), text)


PRUNE_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # by method: keys it needs, others it can have
    "random": (("scope",), ("allocation",)),
    "l1": (("scope",), ("allocation",)),
    "channels": (("importance",), ("mode",)),
    "blocks": ((), ("names",)),
}


def _hook_problems(options: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    """Yield training hooks that exclude each other, and keys that do not fit the sparsity schedule."""
    hooks = [name for name in TRAINING_HOOKS if name in options]
    if len(hooks) > 1:
        text = f"cannot be combined with {hooks[0]}; allowed: one of {', '.join(TRAINING_HOOKS)}"
        yield Problem((*path, hooks[1]), text)
    sparsify = options.get("sparsify", {})
    if sparsify.get("amount") == 0:
        yield Problem((*path, "sparsify", "amount"), "is 0; allowed: above 0; or leave sparsify out")
    if sparsify.get("schedule") == "cubic" and "until" not in sparsify:
        yield Problem((*path, "sparsify", "until"), "is missing; schedule cubic requires it")
    if sparsify.get("schedule") == "one-shot" and "until" in sparsify:
        yield Problem((*path, "sparsify", "until"), "requires schedule cubic; leave it out with one-shot")


def _prune_problems(prune: Mapping[str, Any], path: tuple[str, ...], images: bool = False) -> Iterator[Problem]:
    """Yield keys of `prune` that do not fit its method.

    Args:
        images: whether training images are at hand, as in a training but not in a recipe.
    """
    if not prune:
        return
    method, importance = prune["method"], prune.get("importance")
    needed, others = PRUNE_KEYS[method]
    for key in ("scope", "allocation", "importance", "mode", "names"):
        module = key == "scope" and method == "channels" and str(prune.get(key)).startswith(MODULE)
        if key in prune and key not in (*needed, *others) and not module:
            yield Problem((*path, key), f"is not an option of method {method}; leave it out")
        if key not in prune and key in needed:
            yield Problem((*path, key), f"is missing; method {method} requires it")
    if method == "blocks" and ("amount" in prune) == ("names" in prune):
        yield Problem(path, "needs one of amount and names with method blocks")
    if importance in LOSS_IMPORTANCES and not images:
        text = (
            f"is {importance!r}, which needs images; allowed in a recipe: {', '.join(WEIGHT_IMPORTANCES)}; or prune "
            "in a training that has a start (trainings.*.prune) and use that training"
        )
        yield Problem((*path, "importance"), text)
    if images and importance == "diff-pruning" and "threshold" not in prune:
        yield Problem((*path, "threshold"), "is missing; importance diff-pruning requires it")
    if importance != "diff-pruning" and "threshold" in prune:
        text = f"requires importance diff-pruning, and the importance is {importance}; leave it out"
        yield Problem((*path, "threshold"), text)
