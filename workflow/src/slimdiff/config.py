"""What a configuration asks for: its cells, and the settings of each stage of each cell.

Works on plain mappings, as YAML holds them; slimdiff.validation says whether they are sound. A stage is handed only the
settings that it uses, so that an edit of the configuration reruns no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimdiff.families import FAMILIES, SAMPLER_ALWAYS, SAMPLER_CONSTANTS
from slimdiff.runtimes import RUNTIMES, way_of

Config = Mapping[str, Any]

# Keys of a data set that are for scoring alone.
NETWORK_KEYS = ("extractors", "extractors_sha256", "classifier", "classifier_sha256")
COMPRESSION_STEPS = ("prune", "quantize")  # keys of an optimization, in the order in which they are applied


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the matrix."""

    dataset: str
    model: str
    optimization: str
    seed: int


def expand(matrix: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The cells of `matrix` (the configuration's list) in its order."""
    return [
        Cell(entry["dataset"], entry["model"], optimization, seed)
        for entry in matrix
        for optimization in entry["optimizations"]
        for seed in entry["seeds"]
    ]


def training_of(config: Config, optimization: str) -> str:
    """Name of the training that `optimization` starts from."""
    return str(config["optimizations"][optimization]["training"])


def training_options(config: Config, model: str, training: str) -> dict[str, Any]:
    """How `training` trains `model`: its own options over the model's."""
    return {**config["models"][model]["training"], **config["trainings"][training]}


def sampler_options(config: Config, model: str, optimization: str) -> dict[str, Any]:
    """How `optimization` samples from `model`: the method and the constants that it uses."""
    options = {**config["models"][model]["sampler"], **config["optimizations"][optimization].get("sampler", {})}
    family = FAMILIES[config["models"][model]["family"]]
    used = ("method", *SAMPLER_CONSTANTS[options["method"]], *SAMPLER_ALWAYS, *family.sampler)
    if not way_of(config["optimizations"][optimization]).plain:
        options["precision"] = "float32"  # no autocast: the recipe's own precision decides
    return {key: options[key] for key in used}


def needs_images(config: Config, optimization: str) -> bool:
    """Whether the stage `compress` reads images: to calibrate an engine's network, and to measure its error."""
    return way_of(config["optimizations"][optimization]).needs_images


def uses_gpu(config: Config, optimization: str) -> bool:
    """Whether the engine of `optimization` can run on a GPU."""
    return "cuda" in RUNTIMES[way_of(config["optimizations"][optimization]).engine].devices


def data_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Settings of the stage `data`."""
    options = config["datasets"][dataset]
    return {"name": dataset} | {key: value for key, value in options.items() if key not in NETWORK_KEYS}


def extractors_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Settings of the stage `extractors`."""
    return {"dataset": dataset, **config["extractor_training"]}


def classifier_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Settings of the stage `classifier`."""
    return {"dataset": dataset, **config["classifier_training"]}


def inception_kinds(config: Config) -> list[str]:
    """The Inception networks that samples are scored with, none by default."""
    return [kind for kind, weights in config["inception"].items() if weights is not None]


def inception_settings(config: Config, dataset: str, kind: str) -> dict[str, Any]:
    """Settings of the stage `inception`."""
    return {"dataset": dataset, "kind": kind}


def inception_weights_settings(config: Config, kind: str) -> dict[str, Any]:
    """Settings of the stage `inception_weights`."""
    return {"kind": kind}


def reference_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Settings of the stage `reference`."""
    return {"dataset": dataset, "extractors_sha256": config["datasets"][dataset].get("extractors_sha256")}


def train_settings(config: Config, dataset: str, model: str, training: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `train`."""
    options = config["models"][model]
    return {
        "dataset": dataset,
        "model": {key: options[key] for key in ("family", "image_size", "channels", "fit", "network")},
        "training": training_options(config, model, training),
        "seed": int(seed),
    }


def compress_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `compress`; sampler and engine go into the model's file, which says how it is to be run."""
    recipe = config["optimizations"][optimization]
    return {
        "weights": recipe.get("weights", "raw"),
        "steps": [{step: recipe[step]} for step in COMPRESSION_STEPS if step in recipe],
        "sampler": sampler_options(config, model, optimization),
        "engine": way_of(recipe).engine,
        "precision": way_of(recipe).precision,
        "seed": int(seed),
    }


def sample_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `sample`."""
    sampling = config["sampling"]
    return {"n_samples": sampling["n_samples"], "batch_size": sampling["batch_size"], "seed": int(seed)}


def score_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `score`."""
    return {"n_samples": config["sampling"]["n_samples"]}


def profile_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `profile`."""
    return {**config["profile"], "batch_size": config["sampling"]["batch_size"], "seed": int(seed)}


def row_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """What the stage `row` writes about a cell beside its measurements."""
    cell = (dataset, model, optimization, seed)
    training = training_of(config, optimization)
    compress = compress_settings(config, *cell)
    return {
        "dataset": dataset,
        "model": model,
        "optimization": optimization,
        "training": training,
        "seed": int(seed),
        "engine": compress["engine"],
        "engine_precision": compress["precision"],
        "settings": {
            "train": train_settings(config, dataset, model, training, seed),
            "compress": compress,
            "sample": sample_settings(config, *cell),
            "score": score_settings(config, *cell),
            "profile": profile_settings(config, *cell),
        },
    }


def matrix_settings(config: Config) -> dict[str, Any]:
    """What the stage `aggregate` expands again: the matrix, not its cells, which may be ten thousand."""
    used = {optimization for entry in config["matrix"] for optimization in entry["optimizations"]}
    return {"matrix": config["matrix"], "trainings": {name: training_of(config, name) for name in sorted(used)}}


def provenance(config: Config) -> dict[str, Any]:
    """The part of the configuration that the matrix uses, for the footer of its file."""
    used: dict[str, set[str]] = {"datasets": set(), "models": set(), "optimizations": set()}
    for entry in config["matrix"]:
        used["datasets"].add(entry["dataset"])
        used["models"].add(entry["model"])
        used["optimizations"].update(entry["optimizations"])
    used["trainings"] = {training_of(config, optimization) for optimization in used["optimizations"]}
    chosen = {kind: {name: config[kind][name] for name in sorted(names)} for kind, names in used.items()}
    return {**chosen, "sampling": config["sampling"], "profile": config["profile"]}
