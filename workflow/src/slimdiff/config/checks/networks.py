"""Networks: numbers that must divide each other, and options that a family knows nothing of."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from slimdiff.catalog.families import FAMILIES, SAMPLER_CONSTANTS, Family, divisors
from slimdiff.config.checks.datasets import count_classes
from slimdiff.config.checks.problem import Problem
from slimdiff.config.resolve import Config, plugin_catalog

NCSN_SMALLEST_IMAGE = 17  # pixels that four unpadded 3×3 convolutions of strides 1, 2, 2, 2 leave one of
DDPM_IMAGE_STEP = 8  # three halvings


def model_problems(config: Config, model: str) -> Iterator[Problem]:
    """The network, and how many classes it is told."""
    options, path = config["models"][model], ("models", model)
    if options["family"] in FAMILY_PROBLEMS:  # a plugin's network has its schema alone
        yield from FAMILY_PROBLEMS[options["family"]](options, path)
    classes = options["network"].get("classes", 0)
    for dataset in dict.fromkeys(entry["dataset"] for entry in config["matrix"] if entry["model"] == model):
        known = count_classes(config, config["datasets"][dataset])
        if classes and known and classes != known:
            text = f"is {classes}; allowed with data set {dataset}: {known}, as many as it has, or 0 to tell it none"
            yield Problem((*path, "network", "classes"), text)


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


def foreign(config: Config, model: str, kind: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of `options` (of `kind` training or sampler) that are for other families alone, and what is said of each."""
    family = config["models"][model]["family"]
    families = FAMILIES | {name: plugin_catalog(config).family(name).entry for name in plugin_catalog(config).families}
    for key in options:
        owners = [name for name in families if key in _own_keys(families[name], kind)]
        if owners and family not in owners:
            yield key, f"is for family {', '.join(owners)}, and model {model} is of family {family}; leave it out"


def _own_keys(family: Family, kind: str) -> set[str]:
    """Keys of `kind` that `family` uses, without those that all training or all sampling has."""
    if kind == "training":
        return set(family.training)
    return {*family.sampler, *(key for method in family.samplers for key in SAMPLER_CONSTANTS[method])}
