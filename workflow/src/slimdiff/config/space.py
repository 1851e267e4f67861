"""Disk space: the least that the results of a matrix take, known before a run."""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slimdiff.catalog.engines import runtime_of
from slimdiff.catalog.limits import FEATURES, INCEPTION_FEATURES, MAX_KEPT, DatasetFacts, conv_weights
from slimdiff.config.cells import expand, run_path
from slimdiff.config.lookup import Config, chain_of, inception_kinds, training_of, training_options
from slimdiff.io.folders import existing
from slimdiff.io.text import one_line, size

FLOAT = 4  # bytes of a weight
# Shares that a file is never below. Packed weights take 0.85 of their bytes, samples a quarter to nine tenths.
PACKED, SAMPLES = 0.5, 0.1
STORED = {"bf16": 1 / 2, "8bit": 1 / 4, "4bit": 1 / 8, "int8": 1 / 4, "fp32": 1.0}  # of float32
UNEVEN = 1 / 8  # channels are removed in multiples, up to so much more than the amount


class Output(NamedTuple):
    """A file of the results."""

    path: str  # below results/
    n_bytes: float  # at least


def outputs(config: Config, facts: Mapping[str, DatasetFacts]) -> Iterator[Output]:
    """Yield the large files of a valid config's matrix with the bytes that each takes at least.

    Args:
        facts: of each data set in the matrix; what they lack counts as nothing.
    """
    for dataset, known in facts.items():
        yield from _of_dataset(config, dataset, known)
    trainings: dict[str, float] = {}
    for cell in expand(config["matrix"]):
        training = training_of(config, cell.optimization)
        weights = [
            (run_path(cell.dataset, cell.model, name, cell.seed), _weights_bytes(config, cell.model, name))
            for name in chain_of(config, training)
        ]
        trainings |= {path: 2 * n_bytes for path, n_bytes in weights}  # raw and averaged
        recipe = config["optimizations"][cell.optimization]
        model = weights[-1][1] * _kept(recipe)
        zeros = {**config["trainings"][training], **recipe}.get("sparsify", recipe.get("prune", {})).get("amount", 0.0)
        folder, known = f"cells/{cell.path}", facts[cell.dataset]
        yield Output(f"{folder}/model.safetensors", model)
        yield Output(f"{folder}/model.packed", PACKED * (1 - zeros) * model)
        pixels = math.prod(known.shape) if known.shape else 0
        yield Output(f"{folder}/samples.npz", SAMPLES * config["sampling"]["n_samples"] * pixels)
    for path, n_bytes in trainings.items():
        yield Output(f"train/{path}/weights.safetensors", n_bytes)


def missing_bytes(outputs: Iterator[Output], results: Path, enough: float) -> float:
    """Return the bytes of the outputs that are not below `results` yet, or of all, if that is not above `enough`."""
    listed = list(outputs)
    total = sum(output.n_bytes for output in listed)
    if total <= enough:  # spares a look at each file
        return total
    return sum(output.n_bytes for output in listed if not (results / output.path).exists())


def space_problem(config: Config, facts: Mapping[str, DatasetFacts], results: Path) -> str | None:
    """Return why the results of the matrix do not fit on the disk, or None."""
    place = existing(results)
    free = shutil.disk_usage(place).free
    needed = missing_bytes(outputs(config, facts), results, free)
    if needed <= free:
        return None
    return (
        f"{one_line(place)} has {size(free)} free, and the cells of matrix still write {size(needed)} or more; free "
        "disk space, or list fewer cells"
    )


def _of_dataset(config: Config, dataset: str, facts: DatasetFacts) -> Iterator[Output]:
    n_train, n_test = facts.n_train or 0, facts.n_test or 0
    if facts.shape:
        yield Output(f"data/{dataset}/images.safetensors", (n_train + n_test) * math.prod(facts.shape))
    extractors = 1 if "extractors" in config["datasets"][dataset] else len(config["extractor_training"]["seeds"])
    yield Output(
        f"data/{dataset}/reference.safetensors", extractors * (min(n_train, MAX_KEPT) + n_test) * FEATURES * FLOAT
    )
    if "foreign_extractors" in config["datasets"][dataset]:
        yield Output(f"data/{dataset}/foreign.safetensors", min(n_train, MAX_KEPT) * FEATURES * FLOAT)
    for kind in inception_kinds(config):
        yield Output(f"data/{dataset}/inception-{kind}.safetensors", 2 * INCEPTION_FEATURES**2 * 8)


def _weights_bytes(config: Config, model: str, training: str) -> float:
    """Return the bytes of a training's weights, at least."""
    options = config["models"][model]
    groups = training_options(config, model, training)["groups"]
    channels = options["channels"] * options.get("patch", 1) ** 2
    weights = conv_weights(options["family"], channels, options["network"], groups) or 0
    kept = math.prod(_kept(config["trainings"][name]) for name in chain_of(config, training))
    return weights * FLOAT * kept


def _kept(options: Mapping[str, Any]) -> float:
    """Return the share of bytes that pruning of channels and storing in fewer bits leave, at least.

    Args:
        options: a training or a recipe.
    """
    prune = options.get("prune", {})
    channels = max(0.0, 1 - prune["amount"] - UNEVEN) if prune.get("method") == "channels" else 1.0
    if "training" not in options:
        return channels**2
    weights = options.get("quantize", {}).get("weights", "fp32")
    return channels**2 * min(STORED[weights], STORED[runtime_of(options).precision])
