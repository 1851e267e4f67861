"""What a schema cannot say of a configuration: names that must exist, numbers that must divide each other, options that
a family of networks knows nothing of, files that must be there.
"""

from collections.abc import Iterator

from slimdiff.config.checks.datasets import dataset_problems, file_problems, inception_problems, path_problems
from slimdiff.config.checks.names import name_problems
from slimdiff.config.checks.networks import model_problems
from slimdiff.config.checks.problem import Problem
from slimdiff.config.checks.recipes import recipe_problems
from slimdiff.config.checks.trainings import training_problems
from slimdiff.config.resolve import Config, chain_of, training_of


def problems(config: Config) -> Iterator[Problem]:
    """What is wrong with `config`, whose keys and types are sound; each step relies on what those before it refuse."""
    yield from path_problems(config)
    yield from dataset_problems(config)
    yield from name_problems(config)
    yield from _cell_problems(config)
    yield from inception_problems(config)
    yield from file_problems(config)


def _cell_problems(config: Config) -> Iterator[Problem]:
    """What does not go together in the models and recipes that the matrix uses."""
    for model in dict.fromkeys(entry["model"] for entry in config["matrix"]):
        used = list(
            dict.fromkeys(o for entry in config["matrix"] if entry["model"] == model for o in entry["optimizations"])
        )
        yield from model_problems(config, model)
        for training in dict.fromkeys(name for o in used for name in chain_of(config, training_of(config, o))):
            yield from training_problems(config, model, training)
        for optimization in used:
            yield from recipe_problems(config, model, optimization)
