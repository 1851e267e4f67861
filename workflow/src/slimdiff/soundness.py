"""What a schema cannot say of a configuration: names that must exist, numbers that must divide each other, options that
a family of networks knows nothing of, files that must be there.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

from slimdiff import files
from slimdiff.config import (
    START_KEYS,
    TRAINING_REGIMES,
    Cell,
    Config,
    brought,
    chain_of,
    expand,
    family_of,
    inception_kinds,
    steps_of,
    training_of,
    training_options,
)
from slimdiff.errors import UserError
from slimdiff.families import FAMILIES, FIXED_BY_START, SAMPLER_CONSTANTS, Family, divisors, steps_problem
from slimdiff.layers import MODULE, channel_modules, layers_of, modules, within
from slimdiff.listing import is_file, is_folder, listing
from slimdiff.runtimes import RUNTIMES, allowed, way_of

NCSN_SMALLEST_IMAGE = 17  # pixels that four unpadded 3×3 convolutions of strides 1, 2, 2, 2 leave one of
DDPM_IMAGE_STEP = 8  # three halvings
CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "digits": 10}  # of the sources; a folder's are counted
SHIPPED_NETWORKS = {"extractors": "extractors", "classifier": "a classifier"}  # keys of a data set, and what they name
INCEPTION_FEATURES = 2048
IMPORTANCES_OF_IMAGES = ("taylor", "diff-pruning")  # of channels, by a loss
PATH_KEYS = ("path", "extractors", "classifier")  # of a data set: what names a file or a folder
FOLDER_KEYS = ("path", "image_size", "channels", "test_fraction")  # what a folder of images must be told


class Problem(NamedTuple):
    """What is wrong, and where."""

    path: tuple[str | int, ...]  # keys and list positions from the top of the configuration
    text: str  # goes on from the dotted path, as in "is 1.3; allowed: …"


def problems(config: Config) -> Iterator[Problem]:
    """What is wrong with `config`, whose keys and types are sound; each step relies on what those before it refuse."""
    yield from _path_problems(config)
    yield from _dataset_problems(config)
    yield from _name_problems(config)
    yield from _cell_problems(config)
    yield from _inception_problems(config)
    yield from _file_problems(config)


def offer(name: str, known: Mapping[str, Any]) -> str:
    """The known names, and which of them `name` may have been meant to be."""
    close = difflib.get_close_matches(name, known, n=1)
    return ", ".join(known) + (f" (did you mean {close[0]}?)" if close else "")


def _path_problems(config: Config) -> Iterator[Problem]:
    """Paths that a command line would take for an option, or a rule for a pattern."""
    places: list[tuple[tuple[str | int, ...], str]] = [(("data_dir",), config["data_dir"])]
    places += [(("claims", index), file) for index, file in enumerate(config["claims"])]
    places += [(("inception", kind), config["inception"][kind]) for kind in inception_kinds(config)]
    for name, options in config["datasets"].items():
        places += [(("datasets", name, key), options[key]) for key in PATH_KEYS if key in options]
    for path, text in places:
        if text.startswith("-"):
            yield Problem(path, f"is {text!r}, which begins as an option does; write ./{text}")
        elif "{" in text or "}" in text:
            yield Problem(path, f"is {text!r}; allowed: a path without {{ and }}, which stand for patterns; rename it")


def _dataset_problems(config: Config) -> Iterator[Problem]:
    for name, options in config["datasets"].items():
        path = ("datasets", name)
        folder = options["source"] == "folder"
        for key in FOLDER_KEYS:
            if folder and key not in options:
                yield Problem((*path, key), "is missing; source: folder needs it")
            if not folder and key in options:
                yield Problem((*path, key), f"is only for source: folder, and the source is {options['source']}")
        if "options" in options and options["source"] not in brought(config).sources:
            yield Problem((*path, "options"), f"is only for sources of plugins, and the source is {options['source']}")
        for network in SHIPPED_NETWORKS:
            if f"{network}_sha256" in options and network not in options:
                yield Problem((*path, f"{network}_sha256"), f"needs the key {network} beside it")


def _name_problems(config: Config) -> Iterator[Problem]:
    """Names that must exist, and cells that must be listed once."""
    for name, recipe in config["optimizations"].items():
        yield from _unknown(recipe["training"], config, "trainings", ("optimizations", name, "training"))
        yield from _prune_problems(recipe.get("prune", {}), ("optimizations", name, "prune"))
    yield from _start_problems(config)
    for index, entry in enumerate(config["matrix"]):
        path = ("matrix", index)
        yield from _unknown(entry["dataset"], config, "datasets", (*path, "dataset"))
        yield from _unknown(entry["model"], config, "models", (*path, "model"))
        for position, optimization in enumerate(entry["optimizations"]):
            yield from _unknown(optimization, config, "optimizations", (*path, "optimizations", position))
    if (reference := config["profile"]["reference"]) is not None:
        yield from _unknown(reference, config, "optimizations", ("profile", "reference"))
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
        yield from _unknown(options["start"], config, "trainings", (*path, "start"))
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
    asked = [name for name in TRAINING_REGIMES if name in options]
    if len(asked) > 1:
        yield Problem((*path, asked[1]), f"stands beside {asked[0]}; allowed: one of {', '.join(TRAINING_REGIMES)}")
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


def _unknown(name: str, config: Config, kind: str, path: tuple[str | int, ...]) -> Iterator[Problem]:
    if name not in config[kind]:
        yield Problem(path, f"is {name!r}; allowed: {offer(name, config[kind])}; correct it, or add it under {kind}")


def _cell_problems(config: Config) -> Iterator[Problem]:
    """What does not go together in the models and recipes that the matrix uses."""
    for model in dict.fromkeys(entry["model"] for entry in config["matrix"]):
        used = list(
            dict.fromkeys(o for entry in config["matrix"] if entry["model"] == model for o in entry["optimizations"])
        )
        yield from _model_problems(config, model)
        for training in dict.fromkeys(name for o in used for name in chain_of(config, training_of(config, o))):
            yield from _training_problems(config, model, training)
        for optimization in used:
            yield from _recipe_problems(config, model, optimization)


def _model_problems(config: Config, model: str) -> Iterator[Problem]:
    """The network, and how many classes it is told."""
    options, path = config["models"][model], ("models", model)
    if options["family"] in FAMILY_PROBLEMS:  # a plugin's network has its schema alone
        yield from FAMILY_PROBLEMS[options["family"]](options, path)
    classes = options["network"].get("classes", 0)
    for dataset in dict.fromkeys(entry["dataset"] for entry in config["matrix"] if entry["model"] == model):
        known = _classes(config, config["datasets"][dataset])
        if classes and known and classes != known:
            text = f"is {classes}; allowed with data set {dataset}: {known}, as many as it has, or 0 to tell it none"
            yield Problem((*path, "network", "classes"), text)


def _training_problems(config: Config, model: str, training: str) -> Iterator[Problem]:
    """A training of `model`: what its family knows, and numbers that must divide its channels."""
    options, family = training_options(config, model, training), config["models"][model]["family"]

    def problem(key: str, text: str) -> Problem:
        """At the last place in the chain that says it."""
        for name in reversed(chain_of(config, training)):
            own = config["trainings"][name]
            if key in own.get("finetune", {}):
                return Problem(("trainings", name, "finetune", key), text)
            if key in own:
                return Problem(("trainings", name, key), text)
        return Problem(("models", model, "training", key), text)

    if "prune" in config["trainings"][training]:
        yield from _channel_problems(options, ("trainings", training, "prune"), config["trainings"][training]["start"])
    for key, text in _foreign(config, model, "training", options):
        yield problem(key, text)
    preconditionings = family_of(config, model).preconditionings
    if options["preconditioning"] not in preconditionings:
        allowed = ", ".join(preconditionings)
        yield problem("preconditioning", f"is {options['preconditioning']}; allowed for family {family}: {allowed}")
    if options.get("min_snr_gamma") is not None and options["preconditioning"] not in ("epsilon", "v"):
        text = f"is {options['min_snr_gamma']}; allowed with preconditioning {options['preconditioning']}: null"
        yield problem("min_snr_gamma", text)
    if family not in FAMILIES:
        if options["groups"] != 1 and not brought(config).family(family).grouped:
            yield problem("groups", f"is {options['groups']}; allowed for family {family}: 1")
        return
    channels = GROUPED_CHANNELS[family](config["models"][model]["network"])
    if options["groups"] != "max" and math.gcd(*channels) % options["groups"]:
        allowed = f"allowed with the channels {channels} of model {model}: {divisors(math.gcd(*channels))} or max"
        yield problem("groups", f"is {options['groups']}; {allowed}")


def _channel_problems(options: Mapping[str, Any], path: tuple[str, ...], training: str) -> Iterator[Problem]:
    """Channels go from float layers without groups alone; `options` are those of the training `training`."""
    for key, wanted in (("groups", 1), ("linear", "float")):
        if options[key] != wanted:
            text = f"removes channels after training {training}, whose {key} is {options[key]}; allowed there: {wanted}"
            yield Problem(path, text)


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
    elif family not in FAMILIES and scope not in (scopes := brought(config).family(family).scopes):
        text = f"is {scope}; allowed for family {family}, as model {model} is: {', '.join(scopes)}"
        yield Problem((*path, "scope"), text)


def _recipe_problems(config: Config, model: str, optimization: str) -> Iterator[Problem]:
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
        yield from _channel_problems(training, ("optimizations", optimization, "prune"), recipe["training"])
    yield from _engine_problems(recipe, training, ("optimizations", optimization))

    own, family = recipe.get("sampler", {}), options["family"]
    yield from _scope_problems(config, model, recipe.get("prune", {}), ("optimizations", optimization, "prune"))
    meanwhile = config["trainings"][recipe["training"]].get("sparsify", {})
    yield from _scope_problems(config, model, meanwhile, ("trainings", recipe["training"], "sparsify"))
    sampler = {**options["sampler"], **own}

    def problem(key: str, text: str) -> Problem:
        return Problem((*(("optimizations", optimization) if key in own else ("models", model)), "sampler", key), text)

    for key, text in _foreign(config, model, "sampler", sampler):
        yield problem(key, text)
    samplers = family_of(config, model).samplers
    if sampler["method"] not in samplers:
        allowed = ", ".join(samplers)
        yield problem("method", f"is {sampler['method']}; allowed for family {family}, as model {model} is: {allowed}")
    wrong_steps = steps_problem(sampler["method"], sampler["steps"])
    if wrong_steps:
        yield problem("steps", wrong_steps)
    low, high = sampler.get("sigma_min"), sampler.get("sigma_max")
    if sampler["method"] == "heun" and low is not None and high is not None and low >= high:
        owner = ("optimizations", optimization) if own.keys() & {"sigma_min", "sigma_max"} else ("models", model)
        text = f"has sigma_min {low} and sigma_max {high}; allowed: sigma_min below sigma_max"
        yield Problem((*owner, "sampler"), text)
    way = way_of(recipe)
    if sampler.get("reuse", 1) != 1 and not way.plain:
        yield problem("reuse", f"is {sampler['reuse']}; allowed with engine {way.engine} in {way.precision}: 1")
    guidance = sampler.get("guidance", 1)
    if guidance != 1 and not options["network"].get("classes"):
        yield problem("guidance", f"is {guidance}; allowed for a network that is told no class (network.classes 0): 1")
    elif guidance != 1 and not training["label_dropout"]:
        yield problem("guidance", f"is {guidance}; allowed for a training with label_dropout 0: 1")


def _engine_problems(
    recipe: Mapping[str, Any], training: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[Problem]:
    """An engine and its precision: what it can do, and what it can do it to."""
    way = way_of(recipe)
    if way.precision not in RUNTIMES[way.engine].precisions:
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


def _foreign(config: Config, model: str, kind: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of `options` (of `kind` training or sampler) that are for other families alone, and what is said of each."""
    family = config["models"][model]["family"]
    families = FAMILIES | {name: brought(config).family(name).told for name in brought(config).families}
    for key in options:
        owners = [name for name in families if key in _own_keys(families[name], kind)]
        if owners and family not in owners:
            yield key, f"is for family {', '.join(owners)}, and model {model} is of family {family}; leave it out"


def _own_keys(family: Family, kind: str) -> set[str]:
    """Keys of `kind` that `family` uses, without those that all training or all sampling has."""
    if kind == "training":
        return set(family.training)
    return {*family.sampler, *(key for method in family.samplers for key in SAMPLER_CONSTANTS[method])}


def _classes(config: Config, dataset: Mapping[str, Any]) -> int | None:
    """How many classes a data set has; None where that is not known before it is read."""
    if dataset["source"] in brought(config).sources:
        return len(brought(config).source(dataset["source"]).classes)
    if dataset["source"] != "folder":
        return CLASSES.get(dataset["source"])
    return len(_class_folders(Path(dataset["path"]))) if is_folder(dataset["path"]) else None


def _class_folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); correct its rights, or the key path") from None


def _ncsn_problems(options: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    if options["image_size"] < NCSN_SMALLEST_IMAGE:
        yield Problem(
            (*path, "image_size"), f"is {options['image_size']}; allowed: {NCSN_SMALLEST_IMAGE} or more pixels"
        )
    channels, norms = options["network"]["channels"], options["network"]["norm_groups"]
    # The last norm has the second level's groups and the first level's channels.
    for level, width in ((0, channels[0]), (1, math.gcd(channels[0], channels[1])), (2, channels[2]), (3, channels[3])):
        if width % norms[level]:
            text = f"is {norms[level]}; allowed with channels {channels}: {divisors(width)}"
            yield Problem((*path, "network", "norm_groups", level), text)


def _ddpm_problems(options: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    size, network = options["image_size"], options["network"]
    if size % DDPM_IMAGE_STEP:
        near = max(DDPM_IMAGE_STEP, size // DDPM_IMAGE_STEP * DDPM_IMAGE_STEP)
        text = (
            f"is {size}; allowed for family ddpm: multiples of {DDPM_IMAGE_STEP}, as {near} or {near + DDPM_IMAGE_STEP}"
        )
        yield Problem((*path, "image_size"), text)
    if network["base"] % network["heads"]:
        yield Problem((*path, "network", "heads"), f"is {network['heads']}; allowed: {divisors(network['base'])}")


FAMILY_PROBLEMS: dict[str, Callable[[Mapping[str, Any], tuple[str, ...]], Iterator[Problem]]] = {
    "ncsn": _ncsn_problems,
    "ddpm": _ddpm_problems,
}


def _ddpm_grouped(network: Mapping[str, Any]) -> list[int]:
    base = network["base"]
    return [base, 2 * base, 4 * base, 8 * base] if network["grouped"] == "all" else [4 * base, 8 * base]


# The channels of the convolutions that `groups` divides: a count must divide them all.
GROUPED_CHANNELS: dict[str, Callable[[Mapping[str, Any]], list[int]]] = {
    "ncsn": lambda network: network["channels"],
    "ddpm": _ddpm_grouped,
}


def _inception_problems(config: Config) -> Iterator[Problem]:
    """Inception networks that are asked for: their weights, and enough samples for their features."""
    n_samples = config["sampling"]["n_samples"]
    for kind in inception_kinds(config):
        weights = config["inception"][kind]
        if weights != "download" and not is_file(weights):
            text = f"is {weights!r}, which does not exist; allowed: null, download, or the path of the weights"
            yield Problem(("inception", kind), text)
        if n_samples < INCEPTION_FEATURES:
            text = (
                f"is {n_samples}; allowed with inception.{kind}: {INCEPTION_FEATURES} or more, one per feature, better "
                f"10,000; raise it, or set inception.{kind} to null"
            )
            yield Problem(("sampling", "n_samples"), text)


def _file_problems(config: Config) -> Iterator[Problem]:
    """Files of claims, and those of the data sets that the matrix uses."""
    for index, file in enumerate(config["claims"]):
        if not is_file(file):
            yield Problem(("claims", index), f"is {file!r}, which does not exist; correct it, or take it out")
    for name in dict.fromkeys(entry["dataset"] for entry in config["matrix"]):
        options, path = config["datasets"][name], ("datasets", name)
        for network, noun in SHIPPED_NETWORKS.items():
            file = options.get(network)
            if file is not None and not is_file(file):
                text = f"is {file!r}, which does not exist; correct it, or leave the key out to have {noun} trained"
                yield Problem((*path, network), text)
                continue
            try:
                pinned, found = options.get(f"{network}_sha256"), files.digest(file) if file is not None else None
            except OSError as error:
                yield Problem((*path, network), f"is {file!r}, which cannot be read ({error.strerror}); correct it")
                continue
            if pinned not in (None, found):
                text = (
                    f"is {pinned}, and {file} has {found}; restore the file, or leave both keys out to have {noun} "
                    "trained"
                )
                yield Problem((*path, f"{network}_sha256"), text)
        if options["source"] != "folder":
            continue
        folder = Path(options["path"])
        if not is_folder(folder):
            yield Problem((*path, "path"), f"is {options['path']!r}; allowed: a folder that exists")
            continue
        try:
            listing(folder)
        except UserError as error:
            yield Problem((*path, "path"), f"is {options['path']!r}: {error}")
            continue
        classes = _class_folders(folder)
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "none"
            text = (
                f"is {options['path']!r}; allowed: a folder with a subfolder of images for each of two or more classes"
            )
            yield Problem((*path, "path"), f"{text}, found {found}")
