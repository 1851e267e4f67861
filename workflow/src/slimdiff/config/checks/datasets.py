"""Data sets and other files that a configuration names: paths that can be used, files that are there."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slimdiff.config.checks.problem import Problem
from slimdiff.config.resolve import Config, inception_kinds, plugin_catalog
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.folders import is_file, is_folder, listing

CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "digits": 10}  # of the sources; a folder's are counted
SHIPPED_NETWORKS = {"extractors": "extractors", "classifier": "a classifier"}  # keys of a data set, and what they name
INCEPTION_FEATURES = 2048
PATH_KEYS = ("path", "extractors", "classifier")  # of a data set: what names a file or a folder
FOLDER_KEYS = ("path", "image_size", "channels", "test_fraction")  # what a folder of images must be told


def path_problems(config: Config) -> Iterator[Problem]:
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


def dataset_problems(config: Config) -> Iterator[Problem]:
    for name, options in config["datasets"].items():
        path = ("datasets", name)
        folder = options["source"] == "folder"
        for key in FOLDER_KEYS:
            if folder and key not in options:
                yield Problem((*path, key), "is missing; source: folder needs it")
            if not folder and key in options:
                yield Problem((*path, key), f"is only for source: folder, and the source is {options['source']}")
        if "options" in options and options["source"] not in plugin_catalog(config).sources:
            yield Problem((*path, "options"), f"is only for sources of plugins, and the source is {options['source']}")
        for network in SHIPPED_NETWORKS:
            if f"{network}_sha256" in options and network not in options:
                yield Problem((*path, f"{network}_sha256"), f"needs the key {network} beside it")


def inception_problems(config: Config) -> Iterator[Problem]:
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


def file_problems(config: Config) -> Iterator[Problem]:
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


def count_classes(config: Config, dataset: Mapping[str, Any]) -> int | None:
    """How many classes a data set has; None where that is not known before it is read."""
    if dataset["source"] in plugin_catalog(config).sources:
        return len(plugin_catalog(config).source(dataset["source"]).classes)
    if dataset["source"] != "folder":
        return CLASSES.get(dataset["source"])
    return len(_class_folders(Path(dataset["path"]))) if is_folder(dataset["path"]) else None


def _class_folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); correct its rights, or the key path") from None
