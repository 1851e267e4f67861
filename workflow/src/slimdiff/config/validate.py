"""Is a configuration sound? One line about the first thing that is not, before any job starts.

The schema says which keys and values there may be, slimdiff.config.checks what no schema can.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jsonschema

from slimdiff.config.checks.all import problems
from slimdiff.config.checks.problem import Problem, offer
from slimdiff.config.resolve import Config, plugin_catalog
from slimdiff.errors import UserError
from slimdiff.io.text import one_line
from slimdiff.plugins.declarations import path_problem
from slimdiff.plugins.schema import extended

SHOWN_CHARACTERS = 60  # of a value in a message
LONGEST = 1000  # characters of a text: a path is the longest that a configuration holds
LARGEST = 2**53  # of whole numbers: up to there JSON and its readers have them exactly
UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # in names and paths: controls, half characters

# JSON Schema takes 2.0 for a whole number; a seed of 2.0 would make other paths than one of 2.
STRICT = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda checker, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def check(config: Config, schema: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Raise UserError about the first problem of `config`.

    Args:
        config: the merged configuration.
        schema: workflow/schemas/config.schema.yaml as a mapping.
        files: what was merged, by name, in the order of merging: used to say which file holds the culprit.
    """
    # Lazily: each step may rely on what the ones before it would have refused.
    steps: tuple[Callable[[], Iterable[Problem]], ...] = (
        lambda: _plain_problems(config, ()),
        lambda: _schema_problems({"plugins": config.get("plugins")}, _part(schema, "plugins")),
        lambda: _plugin_problems(config),
        lambda: _schema_problems(config, extended(schema, plugin_catalog(config))),
        lambda: problems(config),
    )
    problem = next((problem for step in steps for problem in step()), None)
    if problem:
        raise UserError(one_line(f"{_origin(problem.path, files)}: {dotted(problem.path)} {problem.text}"))


def dotted(path: Sequence[str | int]) -> str:
    """("matrix", 0, "seeds") → "matrix[0].seeds"; keys that are nothing or hold spaces are in quotes."""
    shown = (key if isinstance(key, int) or key.split() == [key] else repr(key) for key in path)
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in shown).removeprefix(".")


def _origin(path: Sequence[str | int], files: Mapping[str, Any]) -> str:
    """The last file that holds `path`, or as much of it as any file holds."""
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


def _plain_problems(value: Any, path: tuple[str | int, ...]) -> Iterator[Problem]:
    """Keys and values that YAML can hold and JSON cannot."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                yield Problem(
                    (*path, _cut(str(key))), f"is a key that YAML reads as {_cut(repr(key))}; write it in quotes"
                )
            elif problem := _text_problem(key):
                yield Problem((*path, _cut(key)), f"is a key that {problem}")
            else:
                yield from _plain_problems(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _plain_problems(item, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(path, f"is {value}; allowed: finite numbers")
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield Problem(path, f"is a number of {len(f'{abs(value):x}')} hexadecimal digits; allowed: at most {LARGEST}")
    elif isinstance(value, str) and (problem := _text_problem(value)):
        yield Problem(path, problem)
    elif not isinstance(value, str | int | float | None):
        yield Problem(path, f"is {_cut(str(value))}, which YAML reads as a {type(value).__name__}; write it in quotes")


def _text_problem(text: str) -> str | None:
    """What is wrong with a key or a text, or None: no name or path of ours holds what a terminal or a file refuses."""
    if len(text) > LONGEST:
        return f"has {len(text)} characters; allowed: {LONGEST} at most"
    if found := UNUSABLE.search(text):
        return f"has the character {found[0]!r}; allowed: characters that can be seen, on one line"
    return None


def _part(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The schema of `key` at the top alone."""
    return {"type": "object", "required": [key], "properties": {key: schema["properties"][key]}}


def _schema_problems(config: Config, schema: Mapping[str, Any]) -> Iterator[Problem]:
    return map(_schema_problem, STRICT(schema).iter_errors(config))


def _plugin_problems(config: Config) -> Iterator[Problem]:
    """Files of plugins that are not there; what is wrong inside of one is raised when it is read."""
    for index, path in enumerate(config["plugins"]):
        problem = path_problem(path)
        if problem:
            yield Problem(("plugins", index), problem)


def _schema_problem(error: jsonschema.ValidationError) -> Problem:
    path: tuple[Any, ...] = tuple(error.absolute_path)
    schema: Any = error.schema
    value: Any = error.instance
    if error.validator == "additionalProperties" and "patternProperties" in schema:
        name = next(name for name in value if not re.search(next(iter(schema["patternProperties"])), name))
        return Problem(
            (*path, name), "is not a usable name; allowed: letters, digits, and . _ + - after the first, 100 at most"
        )
    if error.validator == "additionalProperties":
        known = schema["properties"]
        name = next(name for name in value if name not in known)
        place = dotted(path) or "the file"
        own = "; a step of your own comes with a file named in plugins" if path[:1] == ("optimizations",) else ""
        return Problem((*path, name), f"is an unknown key; allowed in {place}: {offer(name, known)}{own}")
    if error.validator == "required":
        return Problem((*path, next(key for key in schema["required"] if key not in value)), "is missing")
    return Problem(path, f"is {_show(value)}; allowed: {_allowed(schema)}{_remark(schema)}{_number_hint(value)}")


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a value of `schema` may be, in words."""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(_allowed(option) for option in schema["anyOf"])
    words = {
        "integer": "a whole number",
        "number": "a number",
        "string": "text",
        "array": "a list",
        "object": "a mapping",
        "null": "null",
        "boolean": "true or false",
    }
    bounds = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "exclusiveMinimum": "above {}",
        "exclusiveMaximum": "below {}",
        "multipleOf": "a multiple of {}",
        "minItems": "with {} or more entries",
        "maxItems": "with {} entries at most",
        "uniqueItems": "without repeats",
        "pattern": "of the form {}",
    }
    limits = [text.format(schema[key]) for key, text in bounds.items() if key in schema]
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " ".join([" or ".join(words[name] for name in types), " and ".join(limits)]).strip()


def _remark(schema: Mapping[str, Any]) -> str:
    return f" ({schema['description']})" if "description" in schema else ""


def _number_hint(value: Any) -> str:
    """The way out for a number that is text."""
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return ""
    # YAML 1.1 reads 1e-3 as text: it wants a point in the mantissa and a sign in the exponent.
    mantissa, e, exponent = value.lower().partition("e")
    mantissa += "" if "." in mantissa or not e else ".0"
    exponent = f"+{exponent}" if exponent[:1].isdigit() else exponent
    written = mantissa + e + exponent
    return f"; YAML reads {value} as text, write {written}" if written != value.lower() else "; write it without quotes"


def _show(value: Any) -> str:
    """`value` as it would stand in YAML, cut short."""
    return _cut(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"
