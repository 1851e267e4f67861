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
from slimdiff.config import Cell, Config, expand, inception_kinds, training_of, training_options
from slimdiff.families import FAMILIES, SAMPLER_CONSTANTS, divisors, steps_problem

NCSN_SMALLEST_IMAGE = 17  # pixels that four unpadded 3×3 convolutions of strides 1, 2, 2, 2 leave one of
DDPM_IMAGE_STEP = 8  # three halvings
CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "digits": 10}  # of the sources; a folder's are counted
SHIPPED_NETWORKS = {"extractors": "extractors", "classifier": "a classifier"}  # keys of a data set, and what they name
INCEPTION_FEATURES = 2048
FOLDER_KEYS = ("path", "image_size", "channels", "test_fraction")  # what a folder of images must be told


class Problem(NamedTuple):
    """What is wrong, and where."""

    path: tuple[str | int, ...]  # keys and list positions from the top of the configuration
    text: str  # goes on from the dotted path, as in "is 1.3; allowed: …"


def problems(config: Config) -> Iterator[Problem]:
    """What is wrong with `config`, whose keys and types are sound; each step relies on what those before it refuse."""
    yield from _dataset_problems(config)
    yield from _name_problems(config)
    yield from _cell_problems(config)
    yield from _inception_problems(config)
    yield from _file_problems(config)


def offer(name: str, known: Mapping[str, Any]) -> str:
    """The known names, and which of them `name` may have been meant to be."""
    close = difflib.get_close_matches(name, known, n=1)
    return ", ".join(known) + (f" (did you mean {close[0]}?)" if close else "")


def _dataset_problems(config: Config) -> Iterator[Problem]:
    for name, options in config["datasets"].items():
        path = ("datasets", name)
        folder = options["source"] == "folder"
        for key in FOLDER_KEYS:
            if folder and key not in options:
                yield Problem((*path, key), "is missing; source: folder needs it")
            if not folder and key in options:
                yield Problem((*path, key), f"is only for source: folder, and the source is {options['source']}")
        for network in SHIPPED_NETWORKS:
            if f"{network}_sha256" in options and network not in options:
                yield Problem((*path, f"{network}_sha256"), f"needs the key {network} beside it")


def _name_problems(config: Config) -> Iterator[Problem]:
    """Names that must exist, and cells that must be listed once."""
    for name, recipe in config["optimizations"].items():
        yield from _unknown(recipe["training"], config, "trainings", ("optimizations", name, "training"))
    for index, entry in enumerate(config["matrix"]):
        path = ("matrix", index)
        yield from _unknown(entry["dataset"], config, "datasets", (*path, "dataset"))
        yield from _unknown(entry["model"], config, "models", (*path, "model"))
        for position, optimization in enumerate(entry["optimizations"]):
            yield from _unknown(optimization, config, "optimizations", (*path, "optimizations", position))
    seen: set[Cell] = set()
    for index, entry in enumerate(config["matrix"]):
        for cell in expand([entry]):
            if cell in seen:
                yield Problem(
                    ("matrix", index), f"lists {'/'.join(map(str, astuple(cell)))} a second time; list it once"
                )
            seen.add(cell)


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
        for training in dict.fromkeys(training_of(config, optimization) for optimization in used):
            yield from _training_problems(config, model, training)
        for optimization in used:
            yield from _recipe_problems(config, model, optimization)


def _model_problems(config: Config, model: str) -> Iterator[Problem]:
    """The network, and how many classes it is told."""
    options, path = config["models"][model], ("models", model)
    yield from FAMILY_PROBLEMS[options["family"]](options, path)
    classes = options["network"].get("classes", 0)
    for dataset in dict.fromkeys(entry["dataset"] for entry in config["matrix"] if entry["model"] == model):
        known = _classes(config["datasets"][dataset])
        if classes and known and classes != known:
            text = f"is {classes}; allowed with data set {dataset}: {known}, as many as it has, or 0 to tell it none"
            yield Problem((*path, "network", "classes"), text)


def _training_problems(config: Config, model: str, training: str) -> Iterator[Problem]:
    """A training of `model`: what its family knows, and numbers that must divide its channels."""
    options, family = training_options(config, model, training), config["models"][model]["family"]

    def problem(key: str, text: str) -> Problem:
        own = key in config["trainings"][training]
        return Problem((*(("trainings", training) if own else ("models", model, "training")), key), text)

    for key, text in _foreign(config, model, "training", options):
        yield problem(key, text)
    if options["preconditioning"] not in FAMILIES[family].preconditionings:
        allowed = ", ".join(FAMILIES[family].preconditionings)
        yield problem("preconditioning", f"is {options['preconditioning']}; allowed for family {family}: {allowed}")
    if options.get("min_snr_gamma") is not None and options["preconditioning"] not in ("epsilon", "v"):
        text = f"is {options['min_snr_gamma']}; allowed with preconditioning {options['preconditioning']}: null"
        yield problem("min_snr_gamma", text)
    channels = GROUPED_CHANNELS[family](config["models"][model]["network"])
    if options["groups"] != "max" and math.gcd(*channels) % options["groups"]:
        allowed = f"allowed with the channels {channels} of model {model}: {divisors(math.gcd(*channels))} or max"
        yield problem("groups", f"is {options['groups']}; {allowed}")


def _recipe_problems(config: Config, model: str, optimization: str) -> Iterator[Problem]:
    """A recipe for `model`: compression that its training allows, and its sampler."""
    recipe, options = config["optimizations"][optimization], config["models"][model]
    training = training_options(config, model, training_of(config, optimization))
    for step in ("prune", "quantize"):
        if training["linear"] != "float" and step in recipe:
            text = (
                f"cannot follow training {recipe['training']}, whose linear layers are {training['linear']} and "
                "frozen; allowed there: a training with linear: float"
            )
            yield Problem(("optimizations", optimization, step), text)

    own, family = recipe.get("sampler", {}), options["family"]
    sampler = {**options["sampler"], **own}

    def problem(key: str, text: str) -> Problem:
        return Problem((*(("optimizations", optimization) if key in own else ("models", model)), "sampler", key), text)

    for key, text in _foreign(config, model, "sampler", sampler):
        yield problem(key, text)
    if sampler["method"] not in FAMILIES[family].samplers:
        allowed = ", ".join(FAMILIES[family].samplers)
        yield problem("method", f"is {sampler['method']}; allowed for family {family}, as model {model} is: {allowed}")
    wrong_steps = steps_problem(sampler["method"], sampler["steps"])
    if wrong_steps:
        yield problem("steps", wrong_steps)
    low, high = sampler.get("sigma_min"), sampler.get("sigma_max")
    if sampler["method"] == "heun" and low is not None and high is not None and low >= high:
        owner = ("optimizations", optimization) if own.keys() & {"sigma_min", "sigma_max"} else ("models", model)
        text = f"has sigma_min {low} and sigma_max {high}; allowed: sigma_min below sigma_max"
        yield Problem((*owner, "sampler"), text)
    if sampler.get("reuse", 1) != 1 and recipe.get("engine", "torch") != "torch":
        yield problem("reuse", f"is {sampler['reuse']}; allowed with engine {recipe['engine']}: 1")
    guidance = sampler.get("guidance", 1)
    if guidance != 1 and not options["network"].get("classes"):
        yield problem("guidance", f"is {guidance}; allowed for a network that is told no class (network.classes 0): 1")
    elif guidance != 1 and not training["label_dropout"]:
        yield problem("guidance", f"is {guidance}; allowed for a training with label_dropout 0: 1")


def _foreign(config: Config, model: str, kind: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of `options` (of `kind` training or sampler) that are for other families alone, and what is said of each."""
    family = config["models"][model]["family"]
    for key in options:
        owners = [name for name in FAMILIES if key in _own_keys(name, kind)]
        if owners and family not in owners:
            yield key, f"is for family {', '.join(owners)}, and model {model} is of family {family}; leave it out"


def _own_keys(family: str, kind: str) -> set[str]:
    """Keys of `kind` that `family` uses, without those that all training or all sampling has."""
    if kind == "training":
        return set(FAMILIES[family].training)
    return {*FAMILIES[family].sampler, *(key for m in FAMILIES[family].samplers for key in SAMPLER_CONSTANTS[m])}


def _classes(dataset: Mapping[str, Any]) -> int | None:
    """How many classes a data set has; None where that is not known before it is read."""
    if dataset["source"] != "folder":
        return CLASSES.get(dataset["source"])
    return len(_class_folders(Path(dataset["path"]))) if Path(dataset["path"]).is_dir() else None


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


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
        if weights != "download" and not Path(weights).is_file():
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
        if not Path(file).is_file():
            yield Problem(("claims", index), f"is {file!r}, which does not exist; correct it, or take it out")
    for name in dict.fromkeys(entry["dataset"] for entry in config["matrix"]):
        options, path = config["datasets"][name], ("datasets", name)
        for network, noun in SHIPPED_NETWORKS.items():
            file = options.get(network)
            if file is not None and not Path(file).is_file():
                text = f"is {file!r}, which does not exist; correct it, or leave the key out to have {noun} trained"
                yield Problem((*path, network), text)
                continue
            pinned, found = options.get(f"{network}_sha256"), files.digest(file) if file is not None else None
            if pinned not in (None, found):
                text = (
                    f"is {pinned}, and {file} has {found}; restore the file, or leave both keys out to have {noun} "
                    "trained"
                )
                yield Problem((*path, f"{network}_sha256"), text)
        if options["source"] != "folder":
            continue
        folder = Path(options["path"])
        if not folder.is_dir():
            yield Problem((*path, "path"), f"is {options['path']!r}; allowed: a folder that exists")
            continue
        classes = _class_folders(folder)
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "none"
            text = (
                f"is {options['path']!r}; allowed: a folder with a subfolder of images for each of two or more classes"
            )
            yield Problem((*path, "path"), f"{text}, found {found}")
