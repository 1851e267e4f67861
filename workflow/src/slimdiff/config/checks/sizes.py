"""Sizes and counts of data sets: those of built-in sources are known, names and headers of files show the others."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slimdiff.catalog import limits
from slimdiff.catalog.compositions import UNIFORM, apportion
from slimdiff.catalog.limits import BUILT_IN, SCORERS, DatasetFacts
from slimdiff.config.checks import Problem
from slimdiff.config.lookup import Config, inception_kinds, plugin_catalog
from slimdiff.data import class_folders
from slimdiff.data.class_folders import ClassFolder
from slimdiff.data.image_reading import Reading
from slimdiff.errors import UserError
from slimdiff.io.safetensors_header import read_header


def size_problems(config: Config, facts: dict[str, DatasetFacts]) -> Iterator[Problem]:
    """Yield what does not fit together in the data sets of the matrix, their models, and the networks that score them.

    The job that relies on a size or a count checks it again, by the same function of slimdiff.catalog.limits.

    Args:
        facts: of each data set, entered here.
    """
    for dataset in dict.fromkeys(entry["dataset"] for entry in config["matrix"]):
        options = config["datasets"][dataset]
        folders: list[ClassFolder] = []
        if options["source"] == "folder":
            try:
                folders = _look_into(dataset, options)
            except UserError as error:
                yield Problem(("datasets", dataset, "path"), f"is {options['path']!r}: {error}")
                continue
        known = facts[dataset] = facts_of(config, dataset, folders)
        for model in dict.fromkeys(entry["model"] for entry in config["matrix"] if entry["dataset"] == dataset):
            for keys, text in limits.model_faults(config["models"][model], dataset, known):
                yield Problem(("models", model, *keys), text)
        yield from map(Problem._make, limits.dataset_faults(dataset, known))
        if config["sampling"]["labels"] == UNIFORM and known.class_counts and _is_conditional(config, dataset):
            counts = apportion(config["sampling"]["n_samples"], [1] * len(known.class_counts))
            yield from map(Problem._make, limits.comparison_faults(dataset, counts, known.class_counts, known.names))
        for kind in inception_kinds(config):
            yield from map(Problem._make, limits.inception_faults(kind, dataset, known.n_train))
        for network in SCORERS:
            yield from _scorer_problems(network, dataset, options, known)


def facts_of(config: Config, dataset: str, folders: list[ClassFolder]) -> DatasetFacts:
    """Return what is known of a data set before a run.

    Args:
        folders: the classes of a folder of images; empty for other sources.
    """
    options = config["datasets"][dataset]
    if options["source"] in plugin_catalog(config).sources:
        names = tuple(plugin_catalog(config).sources[options["source"]].declared.classes)
        return DatasetFacts(len(names), names)
    if options["source"] != "folder":
        return BUILT_IN[options["source"]]
    n_files = [len(folder.files) for folder in folders]
    tested = [class_folders.count_test(n, options["test_fraction"]) for n in n_files]
    trained = tuple(n - n_test for n, n_test in zip(n_files, tested, strict=True))
    shape = (options["channels"], options["image_size"], options["image_size"])
    names = tuple(folder.name for folder in folders)
    if options.get("frames") == "all":  # a file may hold any number of images
        return DatasetFacts(len(names), names, shape)
    return DatasetFacts(len(names), names, shape, sum(trained), sum(tested), trained)


def _is_conditional(config: Config, dataset: str) -> bool:
    """Return whether a model of the matrix samples classes of `dataset`."""
    models = {entry["model"] for entry in config["matrix"] if entry["dataset"] == dataset}
    return any(config["models"][model]["network"].get("classes") for model in models)


def _look_into(dataset: str, options: Mapping[str, Any]) -> list[ClassFolder]:
    """Return the classes of a folder of images, after a look into the headers of some files."""
    from slimdiff.data import image_headers  # Pillow takes 0.1 s to import, and no other source needs it

    folders = class_folders.find(Path(options["path"]))
    image_headers.check_some([file for one in folders for file in one.files], Reading.of(dataset, options))
    return folders


def _scorer_problems(network: str, dataset: str, options: Mapping[str, Any], facts: DatasetFacts) -> Iterator[Problem]:
    """Yield why the file of a network that a data set names cannot score it."""
    if network not in options:
        return
    try:
        header = read_header(options[network], network.removeprefix("foreign_"))
    except UserError as error:
        yield Problem(("datasets", dataset, network), f"is {options[network]!r}: {error}")
        return
    yield from map(Problem._make, limits.scorer_faults(network, options[network], header, dataset, facts))
