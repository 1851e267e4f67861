"""Look-ups in a config: the training, sampler and engine of a recipe, and the chain of trainings behind it."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slimdiff.catalog.compression import measures_loss
from slimdiff.catalog.engines import ENGINES, runtime_of
from slimdiff.catalog.families import FAMILIES, Family
from slimdiff.catalog.samplers import SAMPLER_ALWAYS, SAMPLER_FACTS, SAMPLER_OPTIONAL
from slimdiff.config.cells import BASELINE, Cell
from slimdiff.errors import UserError
from slimdiff.io import hub
from slimdiff.io.diffusers_folder import read_folder
from slimdiff.plugins.declarations import PluginCatalog, load_catalog

Config = Mapping[str, Any]

TRAINING_STEPS = ("prune",)  # keys of a training with a start, applied before its first step
TRAINING_HOOKS = ("sparsify", "quantize", "distill")  # mutually exclusive: in-training compression, or distillation
START_KEYS = ("start", "weights", *TRAINING_STEPS, *TRAINING_HOOKS, "finetune", "finetune_seed")  # require `start`
COMPRESSION_STEPS = ("prune", "quantize")  # keys of an optimization, in the order of application


def plugin_catalog(config: Config) -> PluginCatalog:
    """Return what the config's plugins declare."""
    return load_catalog(config.get("plugins") or ())


def family_of(config: Config, model: str) -> Family:
    """Return the options of the family of `model`, built-in or of a plugin."""
    name = config["models"][model]["family"]
    return FAMILIES[name] if name in FAMILIES else plugin_catalog(config).families[name].declared.as_family


def steps_of(config: Config, optimization: str) -> list[str]:
    """Return the recipe's compression steps in order: prune, those of plugins as declared, quantize."""
    last = COMPRESSION_STEPS.index("quantize")
    order = (*COMPRESSION_STEPS[:last], *plugin_catalog(config).steps, *COMPRESSION_STEPS[last:])
    return [step for step in order if step in config["optimizations"][optimization]]


def has_random_steps(config: Config, optimization: str) -> bool:
    """Return whether one of the recipe's compression steps draws at random."""
    recipe = config["optimizations"][optimization]
    return any(is_random(step, recipe[step]) for step in steps_of(config, optimization))


def is_random(step: str, options: Mapping[str, Any]) -> bool:
    """Return whether a compression step draws at random: random pruning, or a step of a plugin."""
    return step not in COMPRESSION_STEPS or "random" in (options.get("method"), options.get("importance"))


def is_pretrained(config: Config, model: str) -> bool:
    """Return whether the weights of `model` come from a folder or the Hub."""
    return "pretrained" in config["models"][model]


@functools.cache
def folder_files(pretrained: str, data_dir: str) -> list[str]:
    """Return the paths of the files of a pretrained model, the weights last; those of the Hub may not exist yet."""
    folder = hub.local_folder(pretrained, Path(data_dir))
    return [str(path) for path in read_folder(folder, weights=not hub.is_name(pretrained)).files]


def hub_weights(config: Config) -> dict[str, str]:
    """Return file below data_dir/hub → name of the models whose weights the Hub has."""
    names = [model["pretrained"] for model in config["models"].values() if hub.is_name(model.get("pretrained", ""))]
    data_dir = config["data_dir"]
    return {str(Path(folder_files(name, data_dir)[-1]).relative_to(Path(data_dir, hub.FOLDER))): name for name in names}


def training_of(config: Config, optimization: str) -> str:
    """Return the name of the training that `optimization` uses."""
    return str(config["optimizations"][optimization]["training"])


def walk_starts(trainings: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield `name`, the training that it starts from, and so on.

    Stops after a name that `trainings` lacks, and after one that comes a second time.
    """
    seen: set[str] = set()
    yield name
    while name not in seen and "start" in (options := trainings.get(name, {})):
        seen.add(name)
        name = options["start"]
        yield name


def chain_of(config: Config, training: str) -> list[str]:
    """Return the trainings behind `training`, the first one first, `training` last.

    Raises:
        KeyError: one of them does not exist.
        UserError: the trainings start from each other in a circle.
    """
    chain = list(walk_starts(config["trainings"], training))
    if chain[-1] not in config["trainings"]:
        raise KeyError(chain[-1])
    if len(set(chain)) < len(chain):
        raise UserError(f"trainings.{chain[-2]}.start is {chain[-1]!r}, a circle; allowed: a chain that ends")
    return chain[::-1]


def first_trainings(config: Config) -> list[str]:
    """Return the trainings that start from random weights, or of a pretrained model are its weights.

    They are those of the stages `train` and `pretrained`.
    """
    return [name for name, options in config["trainings"].items() if "start" not in options]


def later_trainings(config: Config) -> list[str]:
    """Return the trainings that start from another one's weights: those of the stage `finetune`."""
    return [name for name, options in config["trainings"].items() if "start" in options]


def training_options(config: Config, model: str, training: str) -> dict[str, Any]:
    """Return the training options of `model` under `training`: the model's own, overridden along the chain."""
    first, *later = chain_of(config, training)
    options = {**config["models"][model]["training"], **config["trainings"][first]}
    for name in later:
        options |= config["trainings"][name].get("finetune", {})
    return options


def distillation_of(config: Config, model: str, training: str) -> dict[str, Any] | None:
    """Return the `distill` of `training` with everything the student's steps depend on.

    None if it has no `distill`, or one of the method knowledge, whose student samples as other models do. Targets of
    the other methods are guided as in the model's own sampler. In progressive distillation its noise levels are used as
    well. `grid` is the length of the schedule that the student's levels are taken from: the number of the teacher's
    steps. A student that becomes a teacher passes on its grid, and already has guidance in its weights.
    """
    own = config["trainings"][training].get("distill")
    if own is None or own.get("method") == "knowledge":
        return None
    before = distillation_of(config, model, config["trainings"][training]["start"])
    sampler = config["models"][model]["sampler"]
    guided = {
        "guidance": 1.0 if before else sampler.get("guidance", 1.0),
        "guidance_interval": None if before else sampler.get("guidance_interval"),
        **own,
    }
    if own.get("method") == "consistency":
        return guided
    return {
        **guided,
        "grid": before["grid"] if before and "grid" in before else own["steps"] * own["substeps"],
        **{key: sampler[key] for key in ("sigma_min", "sigma_max", "rho")},
    }


def sampler_options(config: Config, model: str, optimization: str) -> dict[str, Any]:
    """Return the sampler of `model` under `optimization`: its method and only the constants that it uses."""
    options = {**config["models"][model]["sampler"], **config["optimizations"][optimization].get("sampler", {})}
    family = family_of(config, model)
    used = ("method", *SAMPLER_FACTS[options["method"]].options, *SAMPLER_ALWAYS, *family.sampler)
    used = (*used, *(key for key in (*SAMPLER_FACTS[options["method"]].optional, *SAMPLER_OPTIONAL) if key in options))
    if "scheduler" in options:
        options["scheduler"] = {**config["models"][model]["sampler"].get("scheduler", {}), **options["scheduler"]}
    if not runtime_of(config["optimizations"][optimization]).is_eager_fp32:
        options["precision"] = "float32"  # no autocast: the recipe's own precision decides
    return {key: options[key] for key in used}


def guide_cell(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> Cell | None:
    """Return the cell whose network guides this one's (autoguidance); None for most recipes."""
    guide = config["optimizations"][optimization].get("sampler", {}).get("guide")
    return None if guide is None else Cell(dataset, model, guide["optimization"], int(seed))


def needs_images(config: Config, optimization: str) -> bool:
    """Return whether the stage `compress` reads images, to calibrate an engine or to measure layers or blocks."""
    recipe = config["optimizations"][optimization]
    return runtime_of(recipe).needs_images or measures_loss(recipe.get("prune", {}))


def uses_gpu(config: Config, optimization: str) -> bool:
    """Return whether the engine of `optimization` can run on a GPU."""
    return "cuda" in ENGINES[runtime_of(config["optimizations"][optimization]).engine].devices


def inception_kinds(config: Config) -> list[str]:
    """Return the Inception networks to score samples with."""
    return [kind for kind, weights in config["inception"].items() if weights is not None]


def sampling_seed_of(config: Config, optimization: str, seed: int | str) -> int:
    """Return the seed of the sampling noise of `optimization`: its own, or else the cell's."""
    return int(config["optimizations"][optimization].get("sampling_seed", seed))


def baseline_cell(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> Cell | None:
    """Return the cell that this one's speed is compared with: `profile.baseline` of the same model and seed.

    None if the matrix lacks that cell, or if nothing is timed.
    """
    recipe = config["profile"]["baseline"]
    return _cell_in_matrix(config, dataset, model, recipe, seed) if config["profile"]["repeats"] else None


def same_noise_cell(config: Config, dataset: str, model: str, optimization: str, seed: int | str) -> Cell | None:
    """Return the cell that this one's images are compared with one by one: the baseline of the same model and seed.

    None for the baseline itself, if the matrix lacks it, or if the two draw other noise (`noise_of`).
    """
    if optimization == BASELINE or (cell := _cell_in_matrix(config, dataset, model, BASELINE, seed)) is None:
        return None
    own, baseline = (noise_of(config, model, recipe, seed) for recipe in (optimization, BASELINE))
    return cell if own == baseline else None


def noise_of(config: Config, model: str, optimization: str, seed: int | str) -> tuple[int | str, ...]:
    """Return what decides the noise of each image: cells of one model with equal values draw the same.

    Image i has a generator of its own, seeded by the sampling seed and i. Its first draw is the start of every sampler.
    A stochastic sampler draws again at each step: the same method with as many steps draws the same.
    """
    sampler = sampler_options(config, model, optimization)
    steps = (sampler["method"], sampler["steps"]) if SAMPLER_FACTS[sampler["method"]].stochastic else ()
    return (sampling_seed_of(config, optimization, seed), *steps)


def _cell_in_matrix(config: Config, dataset: str, model: str, recipe: str | None, seed: int | str) -> Cell | None:
    """Return this cell if the matrix has it."""
    for entry in config["matrix"]:
        same = (entry["dataset"], entry["model"]) == (dataset, model) and int(seed) in entry["seeds"]
        if same and recipe is not None and recipe in entry["optimizations"]:
            return Cell(dataset, model, recipe, int(seed))
    return None
