"""Networks: numbers that must divide each other, and options of other families."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from slimdiff.catalog.compositions import TRAINING, UNIFORM
from slimdiff.catalog.families import FAMILIES, Family
from slimdiff.catalog.limits import network_faults
from slimdiff.catalog.samplers import SAMPLER_FACTS
from slimdiff.config.checks import Problem
from slimdiff.config.lookup import Config, plugin_catalog


def model_problems(config: Config, model: str) -> Iterator[Problem]:
    """Yield sizes in the network of `model` that do not fit each other."""
    options = config["models"][model]
    for keys, text in network_faults(
        options["family"], options["image_size"], options["network"], options.get("patch", 1)
    ):
        yield Problem(("models", model, *keys), text)


def label_problems(config: Config) -> Iterator[Problem]:
    """Yield a choice of classes where no model of the matrix has classes."""
    labels, models = config["sampling"]["labels"], {entry["model"] for entry in config["matrix"]}
    if labels == UNIFORM and not any(config["models"][model]["network"].get("classes") for model in models):
        text = (
            f"is {labels}, and no model of the matrix is class-conditional; allowed: {TRAINING}, or give a model "
            "classes (models.*.network.classes)"
        )
        yield Problem(("sampling", "labels"), text)


def _ddpm_grouped(network: Mapping[str, Any]) -> list[int]:
    base = network["base"]
    return [base, 2 * base, 4 * base, 8 * base] if network["grouped"] == "all" else [4 * base, 8 * base]


# Channels of the convolutions that `groups` divides; it must divide every one of them.
GROUPED_CHANNELS: dict[str, Callable[[Mapping[str, Any]], list[int]]] = {
    "ncsn": lambda network: network["channels"],
    "ddpm": _ddpm_grouped,
    "unet2d": lambda network: network["block_out_channels"],
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
    facts = [SAMPLER_FACTS[method] for method in family.samplers]
    return {*family.sampler, *(key for each in facts for key in (*each.options, *each.optional))}
