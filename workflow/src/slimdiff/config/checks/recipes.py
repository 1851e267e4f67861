"""Recipes of a model that the matrix uses: compression, engine and sampler."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from slimdiff.catalog.engines import ENGINES, list_engines, runtime_of
from slimdiff.catalog.families import FAMILIES
from slimdiff.catalog.layers import MODULE, channel_modules, layers_of, modules, within
from slimdiff.catalog.limits import allocation_faults
from slimdiff.catalog.samplers import SAMPLER_FACTS, renoise_problem, steps_problem
from slimdiff.catalog.schedules import timesteps_of
from slimdiff.config.axes import variants
from slimdiff.config.cells import BASELINE, expand
from slimdiff.config.checks import Problem
from slimdiff.config.checks.networks import options_of_other_families
from slimdiff.config.checks.trainings import block_problems, removal_problems, uniform_problems
from slimdiff.config.lookup import (
    Config,
    chain_of,
    distillation_of,
    family_of,
    plugin_catalog,
    steps_of,
    training_of,
    training_options,
)


def recipe_problems(config: Config, model: str, optimization: str) -> Iterator[Problem]:
    """Yield what does not fit together in a recipe for `model`."""
    recipe, path = config["optimizations"][optimization], ("optimizations", optimization)
    training = training_options(config, model, training_of(config, optimization))
    for step in steps_of(config, optimization):
        if training["linear"] != "float" and step in recipe:
            text = (
                f"cannot follow training {recipe['training']}, whose linear layers compute in {training['linear']}; "
                "allowed: a training with linear: float"
            )
            yield Problem((*path, step), text)

    if "prune" in recipe:
        prune, place = recipe["prune"], (*path, "prune")
        yield from block_problems(config, model, prune, place)
        yield from removal_problems(training, prune, place, recipe["training"])
        yield from uniform_problems(config, model, training, prune, place)
    yield from _engine_problems(recipe, training, path)
    yield from _scope_problems(config, model, recipe.get("prune", {}), (*path, "prune"))
    if recipe.get("prune", {}).get("allocation", "pool") != "pool":
        for keys, text in allocation_faults(recipe["prune"]["amount"]):
            yield Problem((*path, "prune", *keys), text)
    for name in chain_of(config, recipe["training"]):
        sparsify = config["trainings"][name].get("sparsify", {})
        yield from _scope_problems(config, model, sparsify, ("trainings", name, "sparsify"))
    yield from _sampler_problems(config, model, optimization, training)
    yield from _guide_problems(config, model, optimization, training)


def _guide_problems(config: Config, model: str, optimization: str, training: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what keeps the network of another recipe from guiding this one's (autoguidance).

    Args:
        training: the options of the recipe's training.
    """
    recipe, path = config["optimizations"][optimization], ("optimizations", optimization, "sampler", "guide")
    if "guide" in (sampler := config["models"][model]["sampler"]):
        yield Problem(("models", model, "sampler", "guide"), "is allowed in recipes only; move it into one")
    if "guide" not in recipe.get("sampler", {}):
        return
    sampler, name = {**sampler, **recipe["sampler"]}, recipe["sampler"]["guide"]["optimization"]
    guide, own = config["optimizations"][name], (model, optimization)
    for key in ("guidance", "cache_interval"):
        if sampler.get(key, 1) != 1:
            yield Problem((*path[:-1], key), f"is {sampler[key]}; allowed with guide: 1")
    for owner, used in ((optimization, recipe), (name, guide)):
        if not runtime_of(used).is_eager_fp32:
            yield Problem(path, f"is given, and {owner} has an engine; allowed with a guide: torch in fp32")
        if distillation_of(config, model, used["training"]) is not None:
            yield Problem(path, f"is given, and {owner} is distilled; allowed: networks that estimate x_0")
    if "guide" in guide.get("sampler", {}):
        yield Problem((*path, "optimization"), f"is {name}, which has a guide itself; allowed: a recipe without")
    black = training_options(config, model, guide["training"])["black"]
    if black != training["black"]:
        text = f"is {name}, whose black is {black}; allowed: that of training {recipe['training']}, {training['black']}"
        yield Problem((*path, "optimization"), text)
    if optimization in (BASELINE, config["profile"]["baseline"]):
        yield Problem(path, f"is given, and others are compared with {optimization}; allowed: in other recipes")
    if len(variants(name, guide)) > 1:
        text = f"is {name}, whose list of seeds makes it several recipes; allowed: a recipe with one seed"
        yield Problem((*path, "optimization"), text)
    cells = expand(config["matrix"])
    guiding = [replace(cell, optimization=name) for cell in cells if (cell.model, cell.optimization) == own]
    for cell in sorted(set(guiding) - set(cells), key=attrgetter("path")):
        yield Problem((*path, "optimization"), f"is {name}, and the matrix has no {cell.path}; list it there")


def _sampler_problems(config: Config, model: str, optimization: str, training: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the sampler of a recipe: the model's own, overridden by the recipe's.

    Args:
        training: the options of the recipe's training.
    """
    recipe, options = config["optimizations"][optimization], config["models"][model]
    own, family = recipe.get("sampler", {}), options["family"]
    sampler = {**options["sampler"], **own}

    def problem(key: str, text: str) -> Problem:
        """Return a problem where `key` is set: in the recipe, or else in the model."""
        return Problem((*(("optimizations", optimization) if key in own else ("models", model)), "sampler", key), text)

    for key, text in options_of_other_families(config, model, "sampler", sampler):
        yield problem(key, text)
    samplers = family_of(config, model).samplers
    if sampler["method"] not in samplers:
        allowed = ", ".join(samplers)
        text = f"is {sampler['method']}; allowed for model {model} of family {family}: {allowed}"
        yield problem("method", text)
    student = distillation_of(config, model, recipe["training"])
    for key, text in _student_problems(sampler, student, recipe["training"]):
        yield Problem(("optimizations", optimization, "sampler", key), text)
    grid = sampler.get("grid")
    if sampler["method"] == "euler" and grid is not None and grid % sampler["steps"]:
        yield problem("grid", f"is {grid}; allowed with steps {sampler['steps']}: a multiple of it, or null")
    timesteps = timesteps_of(training.get("noise_schedule", "linear"))
    if (steps := steps_problem(sampler["method"], sampler["steps"], timesteps)) is not None:
        yield problem("steps", steps)
    low, high = sampler.get("sigma_min"), sampler.get("sigma_max")
    ranged = "sigma_min" in SAMPLER_FACTS[sampler["method"]].options
    if ranged and low is not None and high is not None and low >= high:
        owner = ("optimizations", optimization) if own.keys() & {"sigma_min", "sigma_max"} else ("models", model)
        text = f"has sigma_min {low} and sigma_max {high}; allowed: sigma_min below sigma_max"
        yield Problem((*owner, "sampler"), text)
    runtime, interval = runtime_of(recipe), sampler.get("cache_interval", 1)
    if interval != 1 and not runtime.is_eager_fp32:
        text = f"is {interval}; allowed with engine {runtime.engine} in {runtime.precision}: 1"
        yield problem("cache_interval", text)
    if sampler["method"] == "consistency":
        renoised = renoise_problem(sampler.get("renoise", ()), sampler["steps"])
        yield from () if renoised is None else (problem("renoise", renoised),)
    if (guided := sampler.get("guidance_interval")) is not None:
        yield from (problem(key, text) for key, text in _guided_problems(guided, sampler, high if ranged else None))
    guidance = sampler.get("guidance", 1)
    if guidance != 1 and not options["network"].get("classes"):
        yield problem("guidance", f"is {guidance}; allowed for an unconditional network (classes: 0): 1")
    elif guidance != 1 and not training["label_dropout"]:
        yield problem("guidance", f"is {guidance}; allowed for a training with label_dropout 0: 1")


def _guided_problems(
    guided: Sequence[float], sampler: Mapping[str, Any], sigma_max: float | None
) -> Iterator[tuple[str, str]]:
    """Yield keys of `sampler` that do not fit `guided`, its interval of guided noise levels, with their messages."""
    if guided[0] >= guided[1]:
        yield "guidance_interval", f"is {list(guided)}; allowed: the smaller noise level first"
    elif sigma_max is not None and guided[0] > sigma_max:
        yield "guidance_interval", f"is {list(guided)}; allowed with sigma_max {sigma_max}: noise levels from 0 to that"
    if sampler.get("cache_interval", 1) != 1:
        text = f"is {sampler['cache_interval']}; allowed with guidance_interval {list(guided)}: 1"
        yield "cache_interval", f"{text} (set guidance_interval to null to cache features)"


def _student_problems(
    sampler: Mapping[str, Any], distillation: Mapping[str, Any] | None, training: str
) -> Iterator[tuple[str, str]]:
    """Yield each key of `sampler` that differs from the steps a student was distilled for, with its message.

    Args:
        distillation: slimdiff.config.lookup.distillation_of the training; None if it is no distillation.
    """
    if distillation is None:
        return
    if distillation.get("method") == "consistency":
        expected = {"method": "consistency", "guidance": 1.0}
    else:
        expected = {"method": "euler", "guidance": 1.0}
        expected |= {key: distillation[key] for key in ("steps", "grid", "sigma_min", "sigma_max", "rho")}
    actual = {"guidance": 1.0, **sampler}
    if actual.get("grid") is None:
        actual["grid"] = actual["steps"]
    for key, value in expected.items():
        if actual[key] != value:
            allowed = "null" if value is None else value
            yield key, f"is {actual[key]}; allowed for training {training}, which was distilled for it: {allowed}"


def _scope_problems(config: Config, model: str, options: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a scope that the network of `model` lacks."""
    scope, family = options.get("scope"), config["models"][model]["family"]
    if scope is None:
        return
    layers = layers_of(family, config["models"][model]["network"])
    prunable = channel_modules(family, config["models"][model]["network"])
    if options.get("method") == "channels":
        if prunable is not None and scope.startswith(MODULE) and scope.removeprefix(MODULE) not in prunable:
            allowed = f"{MODULE!r} and one of {', '.join(prunable)}; or leave it out to prune the whole network"
            yield Problem((*path, "scope"), f"is {scope!r}; allowed with method channels for model {model}: {allowed}")
    elif scope.startswith(MODULE):
        if layers is not None and not within(layers, scope.removeprefix(MODULE)):
            allowed = ", ".join(modules(layers))
            yield Problem((*path, "scope"), f"is {scope!r}; allowed after {MODULE!r} for model {model}: {allowed}")
    elif family not in FAMILIES and scope not in (scopes := plugin_catalog(config).families[family].declared.scopes):
        text = f"is {scope}; allowed for model {model} of family {family}: {', '.join(scopes)}"
        yield Problem((*path, "scope"), text)


def _engine_problems(
    recipe: Mapping[str, Any], training: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[Problem]:
    """Yield a precision that the engine lacks, and what an engine other than eager fp32 torch cannot run."""
    runtime = runtime_of(recipe)
    if runtime.precision not in ENGINES[runtime.engine].precisions:
        text = f"is {runtime.precision}; engine {runtime.engine} does not support it; allowed: {list_engines()}"
        yield Problem((*path, "precision"), f"{text}; or leave it out")
    if runtime.is_eager_fp32:
        return
    key = "engine" if "engine" in recipe else "precision"
    name = f"engine {runtime.engine} in {runtime.precision}"
    if "precision" in recipe.get("sampler", {}):
        text = f"cannot be combined with {name}; optimizations.{path[-1]}.precision alone decides; leave it out"
        yield Problem((*path, "sampler", "precision"), text)
    quantize = recipe.get("quantize", {})
    if "linear" in quantize or (quantize and runtime.precision != "fp32"):
        text = f"cannot be combined with {name}; allowed: quantize.weights with an engine in fp32; leave one out"
        yield Problem((*path, "quantize"), text)
    if training["linear"] != "float":
        text = (
            f"is {recipe[key]}, and training {recipe['training']} has linear layers in {training['linear']}, which "
            "only engine torch in fp32 runs; allowed: a training with linear: float"
        )
        yield Problem((*path, key), text)
