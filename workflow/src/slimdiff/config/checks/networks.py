"""Networks: numbers that must divide each other, and options of other families."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from slimdiff.catalog.families import FAMILIES, Family, divisors
from slimdiff.catalog.samplers import SAMPLER_FACTS
from slimdiff.config.checks import Problem
from slimdiff.config.checks.datasets import classes_of
from slimdiff.config.lookup import Config, plugin_catalog
from slimdiff.data.class_folders import listed

NCSN_MIN_IMAGE_SIZE = 17  # pixels; four unpadded 3×3 convolutions of strides 1, 2, 2, 2 reduce 17 to 1
DDPM_IMAGE_STEP = 8  # three halvings


def model_problems(config: Config, model: str) -> Iterator[Problem]:
    """Yield what is wrong with the network of `model`, and with its number of classes."""
    options, path = config["models"][model], ("models", model)
    if options["family"] in FAMILY_PROBLEMS:  # a plugin's network has only its schema
        yield from FAMILY_PROBLEMS[options["family"]](options, path)
    classes = options["network"].get("classes", 0)
    for dataset in dict.fromkeys(entry["dataset"] for entry in config["matrix"] if entry["model"] == model):
        found = classes_of(config, config["datasets"][dataset])
        count = found if isinstance(found, int) else len(found or ())
        if classes and count and classes != count:
            named = "" if isinstance(found, int) or not found else f" ({listed(found)})"
            text = (
                f"is {classes}; allowed with data set {dataset}: {count}, its number of classes{named}, or 0 "
                "(unconditional)"
            )
            yield Problem((*path, "network", "classes"), text)


def _ncsn_problems(options: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    size = options["image_size"]
    if size < NCSN_MIN_IMAGE_SIZE:
        yield Problem((*path, "image_size"), f"is {size}; allowed: {NCSN_MIN_IMAGE_SIZE} or more pixels")
    channels, norms = options["network"]["channels"], options["network"]["norm_groups"]
    # The last norm has the second level's groups and the first level's channels.
    for level, width in ((0, channels[0]), (1, math.gcd(channels[0], channels[1])), (2, channels[2]), (3, channels[3])):
        if width % norms[level]:
            text = f"is {norms[level]}; allowed with channels {channels}: {divisors(width)}"
            yield Problem((*path, "network", "norm_groups", level), text)


def _ddpm_problems(options: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    size, network, step = options["image_size"], options["network"], DDPM_IMAGE_STEP
    if size % step:
        near = max(step, size // step * step)
        text = f"is {size}; allowed for family ddpm: multiples of {step}, such as {near} or {near + step}"
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


# Channels of the convolutions that `groups` divides; it must divide every one of them.
GROUPED_CHANNELS: dict[str, Callable[[Mapping[str, Any]], list[int]]] = {
    "ncsn": lambda network: network["channels"],
    "ddpm": _ddpm_grouped,
}


def options_of_other_families(
    config: Config, model: str, kind: str, options: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield each key of `options` that only other families have, with the text of its message.

    Args:
        kind: "training" or "sampler".
    """
    family = config["models"][model]["family"]
    catalog = plugin_catalog(config)
    families = FAMILIES | {name: catalog.families[name].declared.as_family for name in catalog.families}
    for key in options:
        owners = [name for name in families if key in _own_keys(families[name], kind)]
        if owners and family not in owners:
            yield key, f"is an option of family {', '.join(owners)}, and model {model} is {family}; leave it out"


def _own_keys(family: Family, kind: str) -> set[str]:
    """Return the keys of `kind` that `family` uses and that not every family has."""
    if kind == "training":
        return set(family.training)
    return {*family.sampler, *(key for method in family.samplers for key in SAMPLER_FACTS[method].options)}
