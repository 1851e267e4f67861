"""What a configuration asks for: its cells, and the settings of each stage of each cell.

Works on plain mappings, as YAML holds them; slimdiff.config.validate says whether they are sound. A stage is handed only the
settings that it uses, so that an edit of the configuration reruns no other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimdiff.catalog.engines import ENGINES, runtime_of
from slimdiff.catalog.families import FAMILIES, SAMPLER_ALWAYS, SAMPLER_CONSTANTS, Family
from slimdiff.errors import UserError
from slimdiff.plugins.declarations import PluginCatalog, load_catalog

Config = Mapping[str, Any]

# Keys of a data set that are for scoring alone.
NETWORK_KEYS = ("extractors", "extractors_sha256", "classifier", "classifier_sha256")
TRAINING_STEPS = ("prune",)  # keys of a training that starts from another: what is done to its weights before
# Others of its keys, one of them: what is done to its weights meanwhile, or what it learns instead of the images.
TRAINING_HOOKS = ("sparsify", "quantize", "distill")
# Of a training that starts from another, and no more.
START_KEYS = ("start", "weights", *TRAINING_STEPS, *TRAINING_HOOKS, "finetune")
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


def plugin_catalog(config: Config) -> PluginCatalog:
    """What the configuration's plugins bring."""
    return load_catalog(config.get("plugins") or ())


def family_of(config: Config, model: str) -> Family:
    """What the family of `model` can be told."""
    name = config["models"][model]["family"]
    return FAMILIES[name] if name in FAMILIES else plugin_catalog(config).family(name).entry


def steps_of(config: Config, optimization: str) -> list[str]:
    """The recipe's compression steps as they are applied: prune, then those of plugins as declared, then quantize."""
    last = COMPRESSION_STEPS.index("quantize")
    order = (*COMPRESSION_STEPS[:last], *plugin_catalog(config).steps, *COMPRESSION_STEPS[last:])
    return [step for step in order if step in config["optimizations"][optimization]]


def training_of(config: Config, optimization: str) -> str:
    """Name of the training that `optimization` starts from."""
    return str(config["optimizations"][optimization]["training"])


def chain_of(config: Config, training: str) -> list[str]:
    """The trainings that `training` starts from, the first one first, and itself at the end.

    Raises:
        UserError: they start from each other in a circle.
    """
    chain = [training]
    while "start" in config["trainings"][chain[0]]:
        start = config["trainings"][chain[0]]["start"]
        if start in chain:
            raise UserError(f"trainings.{chain[0]}.start is {start!r}, a circle; allowed: a chain that ends")
        chain.insert(0, start)
    return chain


def first_trainings(config: Config) -> list[str]:
    """The trainings that start from nothing but their seed: those of the stage `train`."""
    return [name for name, options in config["trainings"].items() if "start" not in options]


def later_trainings(config: Config) -> list[str]:
    """The trainings that start from the weights of another one: those of the stage `finetune`."""
    return [name for name, options in config["trainings"].items() if "start" in options]


def training_options(config: Config, model: str, training: str) -> dict[str, Any]:
    """How `training` trains `model`: its own options over those of the training that it starts from, or the model's."""
    first, *later = chain_of(config, training)
    options = {**config["models"][model]["training"], **config["trainings"][first]}
    for name in later:
        options |= config["trainings"][name].get("finetune", {})
    return options


def distillation_of(config: Config, model: str, training: str) -> dict[str, Any] | None:
    """The `distill` of a training with all that the student's steps depend on; None for any other training.

    The noise levels are those of the model's own sampler. `grid` is of how many steps' levels they are some: the
    teacher's steps; a student that is a teacher itself hands its own grid on, and has guidance in its weights.
    """
    own = config["trainings"][training].get("distill")
    if own is None:
        return None
    before = distillation_of(config, model, config["trainings"][training]["start"])
    sampler = config["models"][model]["sampler"]
    return {
        "guidance": 1.0 if before else sampler.get("guidance", 1.0),
        **own,
        "grid": before["grid"] if before else own["steps"] * own["substeps"],
        **{key: sampler[key] for key in ("sigma_min", "sigma_max", "rho")},
    }


def sampler_options(config: Config, model: str, optimization: str) -> dict[str, Any]:
    """How `optimization` samples from `model`: the method and the constants that it uses."""
    options = {**config["models"][model]["sampler"], **config["optimizations"][optimization].get("sampler", {})}
    family = family_of(config, model)
    used = ("method", *SAMPLER_CONSTANTS[options["method"]], *SAMPLER_ALWAYS, *family.sampler)
    if not runtime_of(config["optimizations"][optimization]).plain:
        options["precision"] = "float32"  # no autocast: the recipe's own precision decides
    return {key: options[key] for key in used}


def needs_images(config: Config, optimization: str) -> bool:
    """Whether the stage `compress` reads images: for an engine's network, or to find out which layers matter."""
    recipe = config["optimizations"][optimization]
    return runtime_of(recipe).needs_images or recipe.get("prune", {}).get("allocation") == "sensitivity"


def uses_gpu(config: Config, optimization: str) -> bool:
    """Whether the engine of `optimization` can run on a GPU."""
    return "cuda" in ENGINES[runtime_of(config["optimizations"][optimization]).engine].devices


def data_settings(config: Config, dataset: str) -> dict[str, Any]:
    """Settings of the stage `data`."""
    options = config["datasets"][dataset]
    plugins = _plugins(config, sources=[options["source"]])
    return {"name": dataset} | {key: value for key, value in options.items() if key not in NETWORK_KEYS} | plugins


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
        **_plugins(config, families=[options["family"]]),
    }


def finetune_settings(config: Config, dataset: str, model: str, training: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `finetune`: those of a training, its start, what is done before it begins and meanwhile."""
    options = config["trainings"][training]
    hook = {name: options[name] for name in TRAINING_HOOKS if name in options}
    if (distillation := distillation_of(config, model, training)) is not None:
        hook["distill"] = distillation
    return {
        **train_settings(config, dataset, model, training, seed),
        "start": {"training": options["start"], "weights": options.get("weights", "raw")},
        "steps": [{step: options[step]} for step in TRAINING_STEPS if step in options],
        **({"hook": hook} if hook else {}),
    }


def compress_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `compress`; sampler and engine go into the model's file, which says how it is to be run."""
    recipe = config["optimizations"][optimization]
    return {
        "weights": recipe.get("weights", "raw"),
        "steps": [{step: recipe[step]} for step in steps_of(config, optimization)],
        "sampler": sampler_options(config, model, optimization),
        "engine": runtime_of(recipe).engine,
        "precision": runtime_of(recipe).precision,
        "seed": int(seed),
        **_plugins(config, [config["models"][model]["family"]], steps_of(config, optimization)),
    }


def sample_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `sample`."""
    sampling = config["sampling"]
    settings = {"n_samples": sampling["n_samples"], "batch_size": sampling["batch_size"], "seed": int(seed)}
    return {**settings, **_loading(config, model, optimization)}


def score_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `score`."""
    return {"n_samples": config["sampling"]["n_samples"]}


def profile_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """Settings of the stage `profile`."""
    measured = {key: config["profile"][key] for key in ("repeats", "warmup")}
    settings = {**measured, "batch_size": config["sampling"]["batch_size"], "seed": int(seed)}
    return {**settings, **_loading(config, model, optimization)}


def reference_of(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> Cell | None:
    """The cell that the speed of another one is held against: of the same model and seed, if the matrix holds it."""
    recipe = config["profile"]["reference"]
    if not config["profile"]["repeats"]:
        return None
    for entry in config["matrix"]:
        same = (entry["dataset"], entry["model"]) == (dataset, model) and int(seed) in entry["seeds"]
        if same and recipe in entry["optimizations"]:
            return Cell(dataset, model, recipe, int(seed))
    return None


def trainings_settings(
    config: Config, dataset: str, model: str, optimization: str, seed: int | str
) -> list[dict[str, Any]]:
    """Settings of the trainings that a cell's model comes from, the first one first."""
    later = later_trainings(config)
    return [
        (finetune_settings if name in later else train_settings)(config, dataset, model, name, seed)
        for name in chain_of(config, training_of(config, optimization))
    ]


def origin_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """What the header of the weights that a cell is made from must say (slimdiff.checkpoints.identity.check_training)."""
    last = trainings_settings(config, dataset, model, optimization, seed)[-1]
    start = last.get("start", {}).get("training")
    return {"start": start, **{key: last[key] for key in ("dataset", "model", "training", "seed")}}


def row_settings(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> dict[str, Any]:
    """What the stage `row` writes about a cell beside its measurements."""
    cell = (dataset, model, optimization, seed)
    training = training_of(config, optimization)
    *starts, train = trainings_settings(config, *cell)
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
            **({"starts": starts} if starts else {}),
            "train": train,
            "compress": compress,
            "sample": sample_settings(config, *cell),
            "score": score_settings(config, *cell),
            "profile": profile_settings(config, *cell),
        },
    }


def _loading(config: Config, model: str, optimization: str) -> dict[str, Any]:
    """The plugins that reading a cell's model needs."""
    found = plugin_catalog(config)
    steps = [step for step in steps_of(config, optimization) if step in found.steps and found.step(step).restores]
    return _plugins(config, [config["models"][model]["family"]], steps)


def _plugins(
    config: Config, families: Sequence[str] = (), steps: Sequence[str] = (), sources: Sequence[str] = ()
) -> dict[str, Any]:
    """The setting `plugins` of a stage that uses these: which file each one comes from, and the digest of its code.

    Empty where plugins bring none of them, so that the settings are those that they would be without plugins.
    """
    found = plugin_catalog(config)
    shelves = ((found.families, families), (found.steps, steps), (found.sources, sources))
    entries = [shelf[name].entry for shelf, names in shelves for name in names if name in shelf]
    return {"plugins": entries} if entries else {}


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
    last = {training_of(config, optimization) for optimization in used["optimizations"]}
    used["trainings"] = {name for training in last for name in chain_of(config, training)}
    chosen = {kind: {name: config[kind][name] for name in sorted(names)} for kind, names in used.items()}
    return {**chosen, "sampling": config["sampling"], "profile": config["profile"]}
