"""Data sets, claims and other files that a config names: usable paths, existing files, pinned digests."""

from collections.abc import Iterator, Mapping
from typing import Any

from slimdiff.catalog.limits import SCORERS, sample_faults
from slimdiff.config.checks import Problem
from slimdiff.config.lookup import Config, inception_kinds, plugin_catalog
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.folders import encoding_problem, is_file, is_folder, listing

PATH_KEYS = ("path", *SCORERS)  # keys of a data set that hold a path
FOLDER_KEYS = ("path", "image_size", "channels", "test_fraction")  # keys that source: folder requires
READING_KEYS = ("value_range", "background", "frames")  # keys that it may have


def path_problems(config: Config) -> Iterator[Problem]:
    """Yield paths that a command line would read as an option, or a rule as a pattern."""
    places: list[tuple[tuple[str | int, ...], str]] = [(("data_dir",), config["data_dir"])]
    places += [(("claims", index), file) for index, file in enumerate(config["claims"])]
    places += [(("inception", kind), config["inception"][kind]) for kind in inception_kinds(config)]
    models = config["models"].items()
    places += [(("models", name, "pretrained"), each["pretrained"]) for name, each in models if "pretrained" in each]
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
        for key in (*FOLDER_KEYS, *READING_KEYS):
            if folder and key not in options and key in FOLDER_KEYS:
                yield Problem((*path, key), "is missing; source: folder requires it")
            if not folder and key in options:
                yield Problem((*path, key), f"requires source: folder, and the source is {options['source']}")
        limits = options.get("value_range", "auto")
        if limits != "auto" and not limits[0] < limits[1]:
            yield Problem((*path, "value_range"), f"is {limits}; allowed: auto, or [low, high] with low below high")
        if "options" in options and options["source"] not in plugin_catalog(config).sources:
            yield Problem((*path, "options"), f"requires a plugin's source, and the source is {options['source']}")
        for network in SCORERS:
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
        yield from map(Problem._make, sample_faults(kind, n_samples))


def file_problems(config: Config) -> Iterator[Problem]:
    """Yield missing or changed files: of claims, and of the data sets in the matrix."""
    for index, file in enumerate(config["claims"]):
        if not is_file(file):
            yield Problem(("claims", index), f"is {file!r}, which does not exist; correct it, or take it out")
    for name in dict.fromkeys(entry["dataset"] for entry in config["matrix"]):
        options, path = config["datasets"][name], ("datasets", name)
        for network in SCORERS:
            yield from _network_problems(options, network, path)
        if options["source"] == "folder":
            yield from _folder_problems(options["path"], path)


def _network_problems(options: Mapping[str, Any], network: str, path: tuple[str | int, ...]) -> Iterator[Problem]:
    """Yield a missing, unreadable or changed file of a network that scores."""
    file = options.get(network)
    if file is None:
        return
    if not is_file(file):
        text = f"is {file!r}, which does not exist; correct it, or leave the key out {SCORERS[network]}"
        yield Problem((*path, network), text)
        return
    try:
        digest = files.digest(file)
    except OSError as error:
        yield Problem((*path, network), f"is {file!r}, which cannot be read ({error.strerror}); correct it")
        return
    pinned = options.get(f"{network}_sha256")
    if pinned not in (None, digest):
        text = f"is {pinned}, and {file} has {digest}; restore the file, or leave both keys out {SCORERS[network]}"
        yield Problem((*path, f"{network}_sha256"), text)


def _folder_problems(folder: str, path: tuple[str | int, ...]) -> Iterator[Problem]:
    """Yield a folder of images that does not exist, or that holds links out of it or what cannot be read."""
    if not is_folder(folder):
        yield Problem((*path, "path"), f"is {folder!r}; allowed: a folder that exists")
        return
    try:
        listing(folder)
    except UserError as error:
        yield Problem((*path, "path"), f"is {folder!r}: {error}")
