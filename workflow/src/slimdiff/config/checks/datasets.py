"""Data sets, claims and other files that a config names: usable paths, existing files, pinned digests."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slimdiff.config.checks import Problem
from slimdiff.config.lookup import Config, inception_kinds, plugin_catalog
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.folders import encoding_problem, is_file, is_folder, listing

CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "digits": 10}  # number of classes of each built-in source
SHIPPED_NETWORKS = {"extractors": "extractors", "classifier": "a classifier"}  # key of a data set → noun in messages
INCEPTION_FEATURES = 2048
PATH_KEYS = ("path", "extractors", "classifier")  # keys of a data set that hold a path
FOLDER_KEYS = ("path", "image_size", "channels", "test_fraction")  # keys that source: folder requires


def path_problems(config: Config) -> Iterator[Problem]:
    """Yield paths that a command line would read as an option, or a rule as a pattern."""
    places: list[tuple[tuple[str | int, ...], str]] = [(("data_dir",), config["data_dir"])]
    places += [(("claims", index), file) for index, file in enumerate(config["claims"])]
    places += [(("inception", kind), config["inception"][kind]) for kind in inception_kinds(config)]
    for name, options in config["datasets"].items():
        places += [(("datasets", name, key), options[key]) for key in PATH_KEYS if key in options]
    for path, text in places:
        if text.startswith("-"):
            yield Problem(path, f"is {text!r}, which starts like an option; write ./{text}")
        elif problem := encoding_problem(text):
            yield Problem(path, problem)
        elif "{" in text or "}" in text:
            yield Problem(path, f"is {text!r}; allowed: a path without {{ and }}, which mark patterns; rename it")


def dataset_problems(config: Config) -> Iterator[Problem]:
    """Yield keys that do not fit the source of a data set."""
    for name, options in config["datasets"].items():
        path = ("datasets", name)
        folder = options["source"] == "folder"
        for key in FOLDER_KEYS:
            if folder and key not in options:
                yield Problem((*path, key), "is missing; source: folder requires it")
            if not folder and key in options:
                yield Problem((*path, key), f"requires source: folder, and the source is {options['source']}")
        if "options" in options and options["source"] not in plugin_catalog(config).sources:
            yield Problem((*path, "options"), f"requires a plugin's source, and the source is {options['source']}")
        for network in SHIPPED_NETWORKS:
            if f"{network}_sha256" in options and network not in options:
                yield Problem((*path, f"{network}_sha256"), f"requires the key {network}; add it, or leave both out")


def inception_problems(config: Config) -> Iterator[Problem]:
    """Yield Inception weights that do not exist, and a number of samples below that of Inception's features."""
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
    """Yield missing or changed files: of claims, and of the data sets in the matrix."""
    for index, file in enumerate(config["claims"]):
        if not is_file(file):
            yield Problem(("claims", index), f"is {file!r}, which does not exist; correct it, or take it out")
    for name in dict.fromkeys(entry["dataset"] for entry in config["matrix"]):
        options, path = config["datasets"][name], ("datasets", name)
        for network, noun in SHIPPED_NETWORKS.items():
            yield from _network_problems(options, network, noun, path)
        if options["source"] == "folder":
            yield from _folder_problems(options["path"], path)


def _network_problems(
    options: Mapping[str, Any], network: str, noun: str, path: tuple[str | int, ...]
) -> Iterator[Problem]:
    """Yield a missing, unreadable or changed file of the extractors or the classifier."""
    file = options.get(network)
    if file is None:
        return
    if not is_file(file):
        text = f"is {file!r}, which does not exist; correct it, or leave the key out to train {noun}"
        yield Problem((*path, network), text)
        return
    try:
        digest = files.digest(file)
    except OSError as error:
        yield Problem((*path, network), f"is {file!r}, which cannot be read ({error.strerror}); correct it")
        return
    pinned = options.get(f"{network}_sha256")
    if pinned not in (None, digest):
        text = f"is {pinned}, and {file} has {digest}; restore the file, or leave both keys out to train {noun}"
        yield Problem((*path, f"{network}_sha256"), text)


def _folder_problems(folder: str, path: tuple[str | int, ...]) -> Iterator[Problem]:
    """Yield a folder of images that does not exist, cannot be used, or has fewer than two classes."""
    key = (*path, "path")
    if not is_folder(folder):
        yield Problem(key, f"is {folder!r}; allowed: a folder that exists")
        return
    try:
        listing(folder)
    except UserError as error:
        yield Problem(key, f"is {folder!r}: {error}")
        return
    classes = _class_folders(Path(folder))
    if len(classes) < 2:
        count = f"only {classes[0]!r}" if classes else "none"
        text = f"is {folder!r}; allowed: a folder with one subfolder of images per class, two or more; found {count}"
        yield Problem(key, text)


def count_classes(config: Config, dataset: Mapping[str, Any]) -> int | None:
    """Return the number of classes of a data set; None if only reading it can tell."""
    if dataset["source"] in plugin_catalog(config).sources:
        return len(plugin_catalog(config).sources[dataset["source"]].declared.classes)
    if dataset["source"] != "folder":
        return CLASSES.get(dataset["source"])
    return len(_class_folders(Path(dataset["path"]))) if is_folder(dataset["path"]) else None


def _class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in `folder`.

    Raises:
        UserError: `folder` cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); correct its rights, or the key path") from None
