"""Models with the weights of a diffusers folder or the Hub: fill in what it says, refuse what contradicts it.

What neither the entry nor the folder says comes from the entry `unet2d` of config.yaml, which holds the defaults.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slimdiff.config.checks import Problem
from slimdiff.config.lookup import Config
from slimdiff.errors import UserError
from slimdiff.io import hub
from slimdiff.io.diffusers_folder import DiffusersFolder, read_folder, read_weights_layout

FAMILY = "unet2d"  # of the networks, and the entry of models with the defaults
BLACK = -1.0  # of diffusers' images
DDIM_STEPS = 50  # as in diffusers' DDIMPipeline


def fill_pretrained(config: Config) -> dict[str, Any]:
    """Return `config` with every model that has `pretrained` complete; one that cannot be read is left as it is."""
    models = config.get("models")
    if not isinstance(models, Mapping):
        return dict(config)
    filled = {}
    for name, entry in models.items():
        try:
            filled[name] = _fill(name, entry, models, Path(config["data_dir"])) if _is_pretrained(entry) else entry
        except (UserError, LookupError, TypeError, AttributeError):  # pretrained_problems or the schema says why
            filled[name] = entry
    return {**config, "models": filled}


def pretrained_problems(config: Config) -> Iterator[Problem]:
    """Yield folders that cannot be read, and keys of their models that contradict them."""
    models = config.get("models")
    for name, entry in models.items() if isinstance(models, Mapping) else ():
        if not _is_pretrained(entry):
            continue
        path = ("models", name)
        if entry.get("family") != FAMILY:
            yield Problem((*path, "family"), f"is {entry.get('family')!r}; allowed with pretrained: {FAMILY}")
            continue
        if name == FAMILY:
            text = f"needs a model of another name, since such a model takes its defaults from models.{FAMILY}"
            yield Problem((*path, "pretrained"), text)
            continue
        try:
            folder = _read(entry["pretrained"], Path(config["data_dir"]))
            if folder.weights.exists():
                read_weights_layout(folder)
        except UserError as error:
            yield Problem((*path, "pretrained"), f"is {entry['pretrained']!r}: {error}")
            continue
        yield from _contradictions(entry, _given(folder, _null_class(entry)), path)
        if _null_class(entry) and not folder.network["classes"]:
            text = "is true; allowed for a folder without classes (num_class_embeds): false; leave it out"
            yield Problem((*path, "network", "null_class"), text)


def _is_pretrained(entry: Any) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("pretrained"), str)


def _read(pretrained: str, data_dir: Path) -> DiffusersFolder:
    """Return what the folder says; of a model of the Hub, whose weights may not be there yet, fetch its JSON files."""
    if hub.is_name(pretrained):
        hub.fetch_description(pretrained, data_dir)
    return read_folder(hub.local_folder(pretrained, data_dir), weights=not hub.is_name(pretrained))


def _null_class(entry: Mapping[str, Any]) -> bool:
    """Whether the entry declares the last row of the class embedding as the null class; no folder says so."""
    network = entry.get("network")
    return isinstance(network, Mapping) and network.get("null_class") is True


def _given(folder: DiffusersFolder, null_class: bool) -> dict[str, Any]:
    """Return the part of an entry that the folder decides."""
    classes = folder.network["classes"]
    return {
        "image_size": folder.image_size,
        "channels": folder.channels,
        "patch": 1,
        "network": {**folder.network, "classes": classes - 1 if classes and null_class else classes},
        "training": {
            "preconditioning": folder.preconditioning,
            "noise_schedule": folder.schedule,
            "black": BLACK,
            "groups": 1,
            "linear": "float",
        },
    }


def _contradictions(entry: Mapping[str, Any], given: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Problem]:
    """Yield the keys of an entry that the folder decides otherwise."""
    for key, value in given.items():
        if key not in entry:
            continue
        if isinstance(value, dict) and key in ("network", "training"):
            if isinstance(entry[key], Mapping):
                yield from _contradictions(entry[key], value, (*path, key))
        elif entry[key] != value:
            shown = "the folder's noise schedule" if key == "noise_schedule" else value
            yield Problem((*path, key), f"is {entry[key]}; allowed with pretrained: {shown}; leave it out")


def _fill(name: str, entry: Mapping[str, Any], models: Mapping[str, Any], data_dir: Path) -> dict[str, Any]:
    base, null_class = models[FAMILY], _null_class(entry)
    folder = _read(entry["pretrained"], data_dir)
    given = _given(folder, null_class)
    guided = null_class and bool(given["network"]["classes"])
    training = {**base["training"], **({} if guided else {"label_dropout": 0.0}), **given["training"]}
    sampler = {
        **base["sampler"],
        "method": folder.method,
        "steps": _default_steps(folder),
        "guidance": 1.0,
        "guidance_interval": None,
        "clip": folder.clip,
        "sigma_min": None,
        "sigma_max": None,
        "scheduler": folder.sampling,
    }
    return {
        "fit": base["fit"],
        **given,
        **entry,
        "network": {**given["network"], "null_class": null_class, **entry.get("network", {})},
        "training": {**training, **entry.get("training", {})},
        "sampler": {**sampler, **entry.get("sampler", {})},
    }


def _default_steps(folder: DiffusersFolder) -> int:
    """Return the steps of diffusers' own pipelines: all for ddpm, 50 for ddim, or fewer that divide them."""
    steps = int(folder.schedule["num_train_timesteps"])
    if folder.method == "ddpm":
        return steps
    return max(few for few in range(1, min(DDIM_STEPS, steps) + 1) if steps % few == 0)
