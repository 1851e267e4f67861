"""Validate a config before any job starts; its first problem becomes one line.

The schema says which keys and values are allowed, slimdiff.config.checks what a schema cannot express.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from slimdiff.catalog.limits import DatasetFacts
from slimdiff.config.checks import Problem
from slimdiff.config.checks.axes import axis_problems
from slimdiff.config.checks.datasets import dataset_problems, file_problems, inception_problems, path_problems
from slimdiff.config.checks.names import name_problems
from slimdiff.config.checks.networks import label_problems, model_problems
from slimdiff.config.checks.recipes import recipe_problems
from slimdiff.config.checks.sizes import size_problems
from slimdiff.config.checks.trainings import training_problems
from slimdiff.config.lookup import Config, chain_of, plugin_catalog, training_of
from slimdiff.config.pretrained import pretrained_problems
from slimdiff.config.schema import cut, schema_problems, select
from slimdiff.errors import UserError, dotted
from slimdiff.io.text import one_line
from slimdiff.plugins.declarations import path_problem
from slimdiff.plugins.schema import extend_schema

# Old key → new key; * stands for any name.
RENAMED = {
    "profile.reference": "profile.baseline",
    "models.*.sampler.reuse": "models.*.sampler.cache_interval",
    "optimizations.*.sampler.reuse": "optimizations.*.sampler.cache_interval",
    "inception.report": "inception.paper",
    "trainings.*.distill.log_sigma_mean": "trainings.*.finetune.log_sigma_mean",
    "trainings.*.distill.log_sigma_std": "trainings.*.finetune.log_sigma_std",
}
MAX_CHARACTERS = 1000  # of a text; paths are the longest texts in a config
MAX_INTEGER = 2**53  # JSON readers represent integers exactly up to here
UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # control characters, lone surrogates


def validate(
    config: Config, schema: Mapping[str, Any], files: Mapping[str, Any], with_data: bool = True
) -> dict[str, DatasetFacts]:
    """Return what is known of each data set in the matrix, or raise UserError about the first problem of `config`.

    Args:
        config: the merged config.
        schema: workflow/schemas/config.schema.yaml as a mapping.
        files: the merged files by name, in the order of merging; the message names the last one that holds the key.
        with_data: whether to look at the files that the config names; if not, nothing is known of the data sets.
    """
    facts: dict[str, DatasetFacts] = {}
    # Lazy: each step relies on what the steps before it refuse.
    steps: tuple[Callable[[], Iterable[Problem]], ...] = (
        lambda: _value_problems(config, ()),
        lambda: _renamed_problems(config),
        lambda: schema_problems({key: config[key] for key in config.keys() & {"plugins"}}, select(schema, "plugins")),
        lambda: _plugin_problems(config),
        lambda: pretrained_problems(config),
        lambda: schema_problems(config, extend_schema(schema, plugin_catalog(config))),
        lambda: path_problems(config),
        lambda: dataset_problems(config),
        lambda: name_problems(config),
        lambda: axis_problems(config),
        lambda: _matrix_problems(config),
        lambda: inception_problems(config),
        lambda: label_problems(config),
    )
    if with_data:
        steps = (*steps, lambda: file_problems(config), lambda: size_problems(config, facts))
    problem = next((problem for step in steps for problem in step()), None)
    if problem:
        raise UserError(one_line(f"{_source(problem.path, files)}: {dotted(problem.path)} {problem.text}"))
    return facts


def _source(path: Sequence[str | int], files: Mapping[str, Any]) -> str:
    """Return the name of the last file that holds `path`, or as much of it as any file holds."""
    for length in range(len(path), 0, -1):
        for name, content in reversed(list(files.items())):
            if _holds(content, path[:length]):
                return name
    return next(iter(files), "config")


def _holds(content: Any, path: Sequence[str | int]) -> bool:
    try:
        for key in path:
            content = content[key]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _value_problems(value: Any, path: tuple[str | int, ...]) -> Iterator[Problem]:
    """Yield keys and values that YAML can hold and JSON cannot."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                text = f"is a key that YAML reads as {cut(repr(key))}; write it in quotes"
                yield Problem((*path, cut(str(key))), text)
            elif problem := _text_problem(key):
                yield Problem((*path, cut(key)), f"is a key that {problem}")
            else:
                yield from _value_problems(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _value_problems(item, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(path, f"is {value}; allowed: finite numbers")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        digits = len(f"{abs(value):x}")  # Python refuses to print very large integers in decimal
        yield Problem(path, f"is a number of {digits} hexadecimal digits; allowed: at most {MAX_INTEGER}")
    elif isinstance(value, str) and (problem := _text_problem(value)):
        yield Problem(path, problem)
    elif not isinstance(value, str | int | float | None):
        yield Problem(path, f"is {cut(str(value))}, which YAML reads as a {type(value).__name__}; write it in quotes")


def _text_problem(text: str) -> str | None:
    """Return what is wrong with a key or a text, or None; names and paths hold only what terminals and files accept."""
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text)} characters; allowed: {MAX_CHARACTERS} at most"
    if match := UNUSABLE.search(text):
        return f"has the character {match[0]!r}; allowed: visible characters on one line"
    return None


def _renamed_problems(config: Config) -> Iterator[Problem]:
    """Yield keys by their old name."""
    for old, new in RENAMED.items():
        for path in _matches(config, old.split(".")):
            name = dotted([own if part == "*" else part for own, part in zip(path, new.split("."), strict=True)])
            yield Problem(path, f"is now {name}; rename the key")


def _matches(value: Any, pattern: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the paths in `value` that match `pattern`, whose * stands for any key."""
    if not pattern:
        yield ()
    elif isinstance(value, Mapping):
        for key in value if pattern[0] == "*" else {pattern[0]} & value.keys():
            yield from ((key, *rest) for rest in _matches(value[key], pattern[1:]))


def _plugin_problems(config: Config) -> Iterator[Problem]:
    """Yield plugin files that do not exist; mistakes inside a file are raised when it is read."""
    for index, path in enumerate(config["plugins"]):
        if problem := path_problem(path):
            yield Problem(("plugins", index), problem)


def _matrix_problems(config: Config) -> Iterator[Problem]:
    """Yield what does not fit together in the models, trainings and recipes that the matrix uses."""
    for model in dict.fromkeys(entry["model"] for entry in config["matrix"]):
        used = list(
            dict.fromkeys(o for entry in config["matrix"] if entry["model"] == model for o in entry["optimizations"])
        )
        yield from model_problems(config, model)
        for training in dict.fromkeys(name for o in used for name in chain_of(config, training_of(config, o))):
            yield from training_problems(config, model, training)
        for optimization in used:
            yield from recipe_problems(config, model, optimization)
