"""Recipes of a model that the matrix uses: compression, engine and sampler."""

from collections.abc import Iterator, Mapping
from typing import Any

from slimdiff.catalog.engines import ENGINES, allowed, runtime_of
from slimdiff.catalog.families import FAMILIES, steps_problem
from slimdiff.catalog.layers import MODULE, channel_modules, layers_of, modules, within
from slimdiff.config.checks.networks import foreign
from slimdiff.config.checks.problem import Problem
from slimdiff.config.checks.trainings import channel_problems
from slimdiff.config.resolve import (
    Config,
    distillation_of,
    family_of,
    plugin_catalog,
    steps_of,
    training_of,
    training_options,
)


def recipe_problems(config: Config, model: str, optimization: str) -> Iterator[Problem]:
    """A recipe for `model`: compression that its training allows, and its sampler."""
    recipe, options = config["optimizations"][optimization], config["models"][model]
    training = training_options(config, model, training_of(config, optimization))
    for step in steps_of(config, optimization):
        if training["linear"] != "float" and step in recipe:
            text = (
                f"cannot follow training {recipe['training']}, whose linear layers are {training['linear']} and "
                "frozen; allowed there: a training with linear: float"
            )
            yield Problem(("optimizations", optimization, step), text)

    if recipe.get("prune", {}).get("method") == "channels":
        yield from channel_problems(training, ("optimizations", optimization, "prune"), recipe["training"])
    yield from _engine_problems(recipe, training, ("optimizations", optimization))

    own, family = recipe.get("sampler", {}), options["family"]
    yield from _scope_problems(config, model, recipe.get("prune", {}), ("optimizations", optimization, "prune"))
    hook = config["trainings"][recipe["training"]].get("sparsify", {})
    yield from _scope_problems(config, model, hook, ("trainings", recipe["training"], "sparsify"))
    sampler = {**options["sampler"], **own}

    def problem(key: str, text: str) -> Problem:
        return Problem((*(("optimizations", optimization) if key in own else ("models", model)), "sampler", key), text)

    for key, text in foreign(config, model, "sampler", sampler):
        yield problem(key, text)
    samplers = family_of(config, model).samplers
    if sampler["method"] not in samplers:
        allowed = ", ".join(samplers)
        yield problem("method", f"is {sampler['method']}; allowed for family {family}, as model {model} is: {allowed}")
    student = distillation_of(config, model, recipe["training"])
    for key, text in _student_problems(sampler, student, recipe["training"]):
        yield Problem(("optimizations", optimization, "sampler", key), text)
    grid = sampler.get("grid")
    if sampler["method"] == "euler" and grid is not None and grid % sampler["steps"]:
        yield problem("grid", f"is {grid}; allowed with steps {sampler['steps']}: a multiple of it, or null")
    wrong_steps = steps_problem(sampler["method"], sampler["steps"])
    if wrong_steps:
        yield problem("steps", wrong_steps)
    low, high = sampler.get("sigma_min"), sampler.get("sigma_max")
    if sampler["method"] in ("heun", "euler") and low is not None and high is not None and low >= high:
        owner = ("optimizations", optimization) if own.keys() & {"sigma_min", "sigma_max"} else ("models", model)
        text = f"has sigma_min {low} and sigma_max {high}; allowed: sigma_min below sigma_max"
        yield Problem((*owner, "sampler"), text)
    way = runtime_of(recipe)
    if sampler.get("reuse", 1) != 1 and not way.plain:
        yield problem("reuse", f"is {sampler['reuse']}; allowed with engine {way.engine} in {way.precision}: 1")
    guidance = sampler.get("guidance", 1)
    if guidance != 1 and not options["network"].get("classes"):
        yield problem("guidance", f"is {guidance}; allowed for a network that is told no class (network.classes 0): 1")
    elif guidance != 1 and not training["label_dropout"]:
        yield problem("guidance", f"is {guidance}; allowed for a training with label_dropout 0: 1")


def _student_problems(
    sampler: Mapping[str, Any], distillation: Mapping[str, Any] | None, training: str
) -> Iterator[tuple[str, str]]:
    """Keys of a sampler that are not those of the steps that its training was distilled for, and what is said of each.

    `distillation` is what slimdiff.config.resolve.distillation_of says of the training, None where it is no student.
    """
    if distillation is None:
        return
    wanted = {"method": "euler", "guidance": 1.0}
    wanted |= {key: distillation[key] for key in ("steps", "grid", "sigma_min", "sigma_max", "rho")}
    found = {"guidance": 1.0, **sampler}
    if found.get("grid") is None:
        found["grid"] = found["steps"]
    for key, value in wanted.items():
        if found[key] != value:
            allowed = "null" if value is None else value
            yield key, f"is {found[key]}; allowed for training {training}, which was distilled for that: {allowed}"


def _scope_problems(config: Config, model: str, options: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    """A scope that the family of `model` has, or a module of its network."""
    scope, family = options.get("scope"), config["models"][model]["family"]
    if scope is None:
        return
    layers = layers_of(family, config["models"][model]["network"])
    named = channel_modules(family, config["models"][model]["network"])
    if options.get("method") == "channels":
        if named is not None and scope.startswith(MODULE) and scope.removeprefix(MODULE) not in named:
            allowed = f"{MODULE!r} and one of {', '.join(named)}; or leave it out to prune the whole network"
            yield Problem((*path, "scope"), f"is {scope!r}; allowed with method channels for model {model}: {allowed}")
    elif scope.startswith(MODULE):
        if layers is not None and not within(layers, scope.removeprefix(MODULE)):
            allowed = ", ".join(modules(layers))
            yield Problem((*path, "scope"), f"is {scope!r}; allowed after {MODULE!r} for model {model}: {allowed}")
    elif family not in FAMILIES and scope not in (scopes := plugin_catalog(config).family(family).scopes):
        text = f"is {scope}; allowed for family {family}, as model {model} is: {', '.join(scopes)}"
        yield Problem((*path, "scope"), text)


def _engine_problems(
    recipe: Mapping[str, Any], training: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[Problem]:
    """An engine and its precision: what it can do, and what it can do it to."""
    way = runtime_of(recipe)
    if way.precision not in ENGINES[way.engine].precisions:
        text = f"is {way.precision}, which engine {way.engine} cannot do; allowed: {allowed()}; or take the key out"
        yield Problem((*path, "precision"), text)
    if way.plain:
        return
    key = "engine" if "engine" in recipe else "precision"
    named = f"engine {way.engine} in {way.precision}"
    if "precision" in recipe.get("sampler", {}):
        text = f"cannot stand beside {named}, where optimizations.{path[-1]}.precision alone decides; leave it out"
        yield Problem((*path, "sampler", "precision"), text)
    quantize = recipe.get("quantize", {})
    if "linear" in quantize or (quantize and way.precision != "fp32"):
        text = f"cannot stand beside {named}; allowed: quantize.weights beside an engine in fp32; leave out one of them"
        yield Problem((*path, "quantize"), text)
    if training["linear"] != "float":
        text = (
            f"is {recipe[key]}, and training {recipe['training']} has linear layers in {training['linear']}, which "
            "only engine torch in fp32 runs; allowed: a training with linear: float"
        )
        yield Problem((*path, key), text)
