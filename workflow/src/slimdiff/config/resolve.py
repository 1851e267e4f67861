"""The settings of each stage: the part of the config that the stage of a given cell uses, and nothing else.

So an edit of the config reruns only the stages whose settings change. Works on plain mappings, as YAML holds them;
slimdiff.config.validate checks them first.
"""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from slimdiff.catalog.engines import runtime_of
from slimdiff.catalog.families import USED_UNTRAINED
from slimdiff.catalog.limits import SCORERS
from slimdiff.config.lookup import (
    TRAINING_HOOKS,
    TRAINING_STEPS,
    Config,
    chain_of,
    distillation_of,
    guide_cell,
    has_random_steps,
    is_pretrained,
    plugin_catalog,
    sampler_options,
    sampling_seed_of,
    steps_of,
    training_of,
    training_options,
)

# Keys of a model that define its network.
MODEL_KEYS = ("family", "image_size", "channels", "fit", "patch", "network", "pretrained")
# Keys of a data set that only scoring uses.
NETWORK_KEYS = tuple(key for network in SCORERS for key in (network, f"{network}_sha256"))


def data_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Return the settings of the stage `data`."""
    options = config["datasets"][dataset]
    plugins = _plugins(config, sources=[options["source"]])
    return {"name": dataset} | {key: value for key, value in options.items() if key not in NETWORK_KEYS} | plugins


def extractors_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Return the settings of the stage `extractors`."""
    return {"dataset": dataset, **config["extractor_training"]}


def classifier_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Return the settings of the stage `classifier`."""
    return {"dataset": dataset, **config["classifier_training"]}


def inception_settings(config: Config, dataset: str, kind: str) -> dict[str, Any]:
    """Return the settings of the stage `inception`."""
    return {"dataset": dataset, "kind": kind}


def inception_weights_settings(config: Config, kind: str) -> dict[str, Any]:
    """Return the settings of the stage `inception_weights`."""
    return {"kind": kind}


def reference_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Return the settings of the stage `reference`."""
    return {"dataset": dataset, "extractors_sha256": config["datasets"][dataset].get("extractors_sha256")}


def foreign_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Return the settings of the stage `reference` for extractors of another data set."""
    digest = config["datasets"][dataset].get("foreign_extractors_sha256")
    return {"dataset": dataset, "extractors_sha256": digest, "foreign": True}


def train_settings(config: Config, dataset: str, model: str, training: str, seed: int | str) -> dict[str, Any]:
    """Return the settings of the stage `train`, or of `pretrained`, which no option of the optimizer reaches."""
    options, own = config["models"][model], training_options(config, model, training)
    if is_pretrained(config, model) and "start" not in config["trainings"][training]:
        own = {"epochs": 0, **{key: own[key] for key in USED_UNTRAINED if key in own}}
    return {
        "dataset": dataset,
        "model": {key: options[key] for key in MODEL_KEYS if key in options},
        "training": own,
        "seed": int(seed),
        **_plugins(config, families=[options["family"]]),
    }


def finetune_settings(config: Config, dataset: str, model: str, training: str, seed: int | str) -> dict[str, Any]:
    """Return the settings of the stage `finetune`: those of `train`, the start, the steps before it, and the hook."""
    options = config["trainings"][training]
    hook = {name: options[name] for name in TRAINING_HOOKS if name in options}
    if (distillation := distillation_of(config, model, training)) is not None:
        hook["distill"] = distillation
    return {
        **train_settings(config, dataset, model, training, seed),
        "start": {"training": options["start"], "weights": options.get("weights", "raw")},
        "steps": [{step: options[step]} for step in TRAINING_STEPS if step in options],
        **({"hook": hook} if hook else {}),
        **{key: options[key] for key in ("finetune_seed",) if key in options},
    }


def compress_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Return the settings of the stage `compress`. Sampler and engine go into the header of the model's file."""
    recipe = config["optimizations"][optimization]
    return {
        "weights": recipe.get("weights", "raw"),
        "steps": [{step: recipe[step]} for step in steps_of(config, optimization)],
        "sampler": sampler_options(config, model, optimization),
        "engine": runtime_of(recipe).engine,
        "precision": runtime_of(recipe).precision,
        "seed": recipe.get("mask_seed", int(seed)),
        **_plugins(config, [config["models"][model]["family"]], steps_of(config, optimization)),
    }


def sample_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Return the settings of the stage `sample`."""
    sampling, own_seed = config["sampling"], sampling_seed_of(config, optimization, seed)
    settings = {"n_samples": sampling["n_samples"], "batch_size": sampling["batch_size"], "seed": own_seed}
    if config["models"][model]["network"].get("classes"):
        settings["labels"] = sampling["labels"]
    if sampling["fill_memory"]:
        settings["fill_memory"] = True
    return {**settings, **_loading(config, model, optimization)}


def score_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Return the settings of the stage `score`."""
    return {"n_samples": config["sampling"]["n_samples"]}


def profile_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Return the settings of the stage `profile`."""
    timing = {key: config["profile"][key] for key in ("repeats", "warmup")}
    settings = {**timing, "batch_size": config["sampling"]["batch_size"], "seed": int(seed)}
    return {**settings, **_loading(config, model, optimization)}


def trainings_settings(
    config: Config, dataset: str, model: str, optimization: str, seed: int | str
) -> list[dict[str, Any]]:
    """Return the settings of every training behind a cell's weights, the first one first."""
    first, *later = chain_of(config, training_of(config, optimization))
    place = (dataset, model)
    return [
        train_settings(config, *place, first, seed),
        *(finetune_settings(config, *place, name, seed) for name in later),
    ]


def origin_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Return what the header of a cell's weights must say (slimdiff.checkpoints.identity.check_provenance)."""
    last = trainings_settings(config, dataset, model, optimization, seed)[-1]
    start = last.get("start", {}).get("training")
    return {"start": start, **{key: last[key] for key in ("dataset", "model", "training", "seed")}}


def row_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Return the settings of the stage `row`: what a row holds besides the measurements."""
    cell = (dataset, model, optimization, seed)
    *starts, train = trainings_settings(config, *cell)
    guide = guide_cell(config, *cell)
    compress, sample = compress_settings(config, *cell), sample_settings(config, *cell)
    return {
        "dataset": dataset,
        "model": model,
        "optimization": optimization,
        "training": training_of(config, optimization),
        "seed": int(seed),
        "mask_seed": compress["seed"] if has_random_steps(config, optimization) else None,
        "sampling_seed": sample["seed"],
        "engine": compress["engine"],
        "engine_precision": compress["precision"],
        "settings": {
            **({"starts": starts} if starts else {}),
            "train": train,
            "compress": compress,
            **({"guide": compress_settings(config, *astuple(guide))} if guide else {}),
            "sample": sample,
            "score": score_settings(config, *cell),
            "profile": profile_settings(config, *cell),
        },
    }


def matrix_settings(config: Config) -> dict[str, Any]:
    """Return the settings of the stage `aggregate`: the matrix unexpanded, since it may list ten thousand cells."""
    used = {optimization for entry in config["matrix"] for optimization in entry["optimizations"]}
    return {"matrix": config["matrix"], "trainings": {name: training_of(config, name) for name in sorted(used)}}


def claims_settings(config: Config) -> dict[str, Any]:
    """Return the settings of the stage `claims`."""
    return {"margins": config["verdicts"]["margins"]}


def provenance(config: Config) -> dict[str, Any]:
    """Return the part of the config that the matrix uses, for the footer of matrix.parquet."""
    used: dict[str, set[str]] = {"datasets": set(), "models": set(), "optimizations": set()}
    for entry in config["matrix"]:
        used["datasets"].add(entry["dataset"])
        used["models"].add(entry["model"])
        used["optimizations"].update(entry["optimizations"])
    last = {training_of(config, optimization) for optimization in used["optimizations"]}
    used["trainings"] = {name for training in last for name in chain_of(config, training)}
    sections = {kind: {name: config[kind][name] for name in sorted(names)} for kind, names in used.items()}
    return {**sections, "sampling": config["sampling"], "profile": config["profile"]}


def _loading(config: Config, model: str, optimization: str) -> dict[str, Any]:
    """Return the plugins that loading a cell's model needs."""
    catalog = plugin_catalog(config)
    restoring = {name for name, step in catalog.steps.items() if step.declared.restores}
    steps = [step for step in steps_of(config, optimization) if step in restoring]
    return _plugins(config, [config["models"][model]["family"]], steps)


def _plugins(
    config: Config, families: Sequence[str] = (), steps: Sequence[str] = (), sources: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the setting `plugins` of a stage that uses these names: the file of each and the digest of its code.

    Empty if none of the names comes from a plugin, so that settings without plugins stay as they are.
    """
    catalog = plugin_catalog(config)
    tables = ((catalog.families, families), (catalog.steps, steps), (catalog.sources, sources))
    entries = [table[name].entry for table, names in tables for name in names if name in table]
    return {"plugins": entries} if entries else {}
