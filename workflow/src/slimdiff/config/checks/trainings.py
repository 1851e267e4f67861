"""Trainings of a model that the matrix uses."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from slimdiff.catalog.compression import FLOAT_ONLY
from slimdiff.catalog.families import FAMILIES, NOISE_LEVELS, ON_SCHEDULE, divisors
from slimdiff.catalog.layers import MIXED_LINEAR, blocks_of
from slimdiff.catalog.limits import uniform_amounts
from slimdiff.config.checks import Problem
from slimdiff.config.checks.networks import GROUPED_CHANNELS, options_of_other_families
from slimdiff.config.lookup import (
    Config,
    chain_of,
    distillation_of,
    family_of,
    is_pretrained,
    plugin_catalog,
    training_options,
)


def training_problems(config: Config, model: str, training: str) -> Iterator[Problem]:
    """Yield options that the family of `model` lacks, and group counts that do not divide its channels."""
    options, family = training_options(config, model, training), config["models"][model]["family"]

    def problem(key: str, text: str) -> Problem:
        """Return a problem at the last place in the chain that sets `key`."""
        for name in reversed(chain_of(config, training)):
            own = config["trainings"][name]
            if key in own.get("finetune", {}):
                return Problem(("trainings", name, "finetune", key), text)
            if key in own:
                return Problem(("trainings", name, key), text)
        return Problem(("models", model, "training", key), text)

    own = config["trainings"][training]
    if is_pretrained(config, model) and own and "start" not in own:
        text = (
            f"trains from random weights, and model {model} has those of its pretrained; allowed: a training without "
            "options, such as plain, or one with start"
        )
        yield Problem(("trainings", training), text)
    if options.get("label_dropout") and not config["models"][model]["network"].get("null_class", True):
        text = f"is {options['label_dropout']}; allowed for model {model}, which has no null class: 0"
        yield problem("label_dropout", text)
    if "prune" in own:
        path = ("trainings", training, "prune")
        yield from block_problems(config, model, own["prune"], path)
        yield from removal_problems(options, own["prune"], path, own["start"])
        yield from uniform_problems(config, model, options, own["prune"], path)
    if "distill" in config["trainings"][training]:
        yield from _distill_problems(config, model, training)
    for key, text in options_of_other_families(config, model, "training", options):
        yield problem(key, text)
    preconditionings = family_of(config, model).preconditionings
    if options["preconditioning"] not in preconditionings:
        allowed = ", ".join(preconditionings)
        yield problem("preconditioning", f"is {options['preconditioning']}; allowed for family {family}: {allowed}")
    if options["optimizer"] in FLOAT_ONLY and options["optimizer_state"] != "float":
        allowed = f"allowed with optimizer {options['optimizer']}: float; or set optimizer to another, such as adamw"
        yield problem("optimizer_state", f"is {options['optimizer_state']}; {allowed}")
    sampled = options.get("ema_sampled_after")
    if sampled is not None and options["linear"] != MIXED_LINEAR:
        yield problem("ema_sampled_after", f"is {sampled}; allowed with linear {options['linear']}: null")
    elif sampled is not None and sampled >= options["epochs"]:
        text = f"is {sampled}; allowed: below the {options['epochs']} epochs of the training; or null"
        yield problem("ema_sampled_after", text)
    if options.get("min_snr_gamma") is not None and options["preconditioning"] not in ON_SCHEDULE:
        text = f"is {options['min_snr_gamma']}; allowed with preconditioning {options['preconditioning']}: null"
        yield problem("min_snr_gamma", text)
    method = own["distill"].get("method", "progressive") if "distill" in own else None
    for key in sorted(NOISE_LEVELS.keys() & {*own, *own.get("finetune", {})}):
        if options["preconditioning"] != "edm":
            text = f"allowed with preconditioning edm alone, not {options['preconditioning']}: leave it out"
            yield problem(key, f"is {options[key]}; {text}")
        elif method == "progressive":
            text = "allowed without distill of method progressive, which has its own noise levels: leave it out"
            yield problem(key, f"is {options[key]}; {text}")
    if family not in FAMILIES:
        if options["groups"] != 1 and not plugin_catalog(config).families[family].declared.grouped:
            yield problem("groups", f"is {options['groups']}; allowed for family {family}: 1")
        return
    channels = GROUPED_CHANNELS[family](config["models"][model]["network"])
    if options["groups"] != "max" and math.gcd(*channels) % options["groups"]:
        allowed = f"allowed with the channels {channels} of model {model}: {divisors(math.gcd(*channels))} or max"
        yield problem("groups", f"is {options['groups']}; {allowed}")


DISTILL_KEYS = {  # by method
    "progressive": ("steps", "teacher", "substeps", "guidance", "guidance_interval"),
    "consistency": ("trajectory", "q", "stages", "k", "b", "c", "weighting", "guidance", "guidance_interval"),
    "knowledge": ("weight", "features"),
}


def _distill_problems(config: Config, model: str, training: str) -> Iterator[Problem]:
    """Yield what keeps the start of a distillation from being the teacher of `model`."""
    own, path = config["trainings"][training]["distill"], ("trainings", training, "distill")
    start, method = config["trainings"][training]["start"], own.get("method", "progressive")
    for key in own:
        if key not in ("method", *DISTILL_KEYS[method]):
            yield Problem((*path, key), f"does not belong to method {method}; leave it out")
    if method == "knowledge":  # of any network
        if own.get("features") and config["trainings"][training].get("prune", {}).get("method") == "channels":
            text = f"is {own['features']}; allowed after removing channels, which leaves features of other widths: 0"
            yield Problem((*path, "features"), text)
        return
    options, before = training_options(config, model, start), distillation_of(config, model, start)
    if options["preconditioning"] != "edm":
        text = f"starts from {start}, whose preconditioning is {options['preconditioning']}; allowed: edm"
        yield Problem(path, text)
    guidance = (distillation_of(config, model, training) or own)["guidance"]
    if guidance != 1 and before:
        text = f"is {guidance}; allowed after training {start}, which has its teacher's guidance in its weights: 1"
        yield Problem((*path, "guidance"), text)
    elif guidance != 1 and not config["models"][model]["network"].get("classes"):
        yield Problem((*path, "guidance"), f"is {guidance}; allowed for an unconditional network (classes: 0): 1")
    elif guidance != 1 and not options.get("label_dropout"):
        text = f"is {guidance}; allowed after training {start}, whose label_dropout is 0: 1"
        yield Problem((*path, "guidance"), text)
    if before and "consistency" in (own.get("method"), before.get("method")):
        text = f"starts from {start}, which is distilled itself; allowed for method consistency: plain trainings"
        yield Problem(path, text)
        return
    if before and own["teacher"] != "euler":
        text = f"is {own['teacher']}; allowed after training {start}, a student sampled by euler: euler"
        yield Problem((*path, "teacher"), text)
    if before and own["steps"] * own["substeps"] != before["steps"]:
        text = (
            f"is {own['substeps']}; allowed after training {start}, a student of {before['steps']} steps: "
            f"{before['steps']} divided by the {own['steps']} steps here"
        )
        yield Problem((*path, "substeps"), text)


def uniform_problems(
    config: Config, model: str, options: Mapping[str, Any], prune: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[Problem]:
    """Yield what keeps the mode uniform from leaving a network that diffusers loads.

    Args:
        options: of the training that the network comes from.
        prune: the `prune` at `path`.
    """
    if prune.get("mode") != "uniform":
        return
    entry = config["models"][model]
    if entry["family"] != "unet2d":
        yield Problem((*path, "mode"), f"is uniform; allowed for family {entry['family']}: layers; leave it out")
        return
    if "scope" in prune and prune["scope"] != "global":
        yield Problem((*path, "scope"), f"is {prune['scope']}; allowed with mode uniform: global; leave it out")
    if options["preconditioning"] == "edm":
        text = "is uniform, for networks that diffusers loads; allowed with preconditioning edm: layers; leave it out"
        yield Problem((*path, "mode"), text)
    amounts = uniform_amounts(entry["image_size"] // entry.get("patch", 1), entry["network"])
    if not any(math.isclose(prune["amount"], amount, abs_tol=1e-6) for amount in amounts):
        allowed = ", ".join(f"{amount:.6g}" for amount in amounts) or "none, with so many norm groups; leave mode out"
        text = f"is {prune['amount']}; allowed with mode uniform and the widths of model {model}: {allowed}"
        yield Problem((*path, "amount"), text)


def block_problems(config: Config, model: str, prune: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    """Yield what keeps the `prune` at `path` from leaving out blocks of `model`."""
    if prune["method"] != "blocks":
        return
    entry = config["models"][model]
    blocks = blocks_of(entry["family"], entry["network"])
    if blocks == []:
        yield Problem((*path, "method"), f"is blocks; allowed for model {model} of family {entry['family']}: channels")
    for index, name in enumerate(prune.get("names", ())):
        if blocks and name not in blocks:
            yield Problem((*path, "names", index), f"is {name!r}; allowed for model {model}: {', '.join(blocks)}")


def removal_problems(
    options: Mapping[str, Any], prune: Mapping[str, Any], path: tuple[str, ...], training: str
) -> Iterator[Problem]:
    """Yield what keeps channels or blocks from being removed: quantized linear layers, and of channels groups.

    Args:
        options: the options of the training `training`.
        prune: the `prune` at `path`.
    """
    needed: dict[str, dict[str, Any]] = {
        "channels": {"groups": 1, "linear": "float"},
        "blocks": {"linear": "float"},
    }
    for key, allowed in needed.get(prune["method"], {}).items():
        if options[key] != allowed:
            text = f"after training {training}, whose {key} is {options[key]}; allowed: {allowed}"
            yield Problem(path, f"removes {prune['method']} {text}")
