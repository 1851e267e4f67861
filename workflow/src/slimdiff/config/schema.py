"""Check a config against its JSON schema, with messages that name the key, the value and what is allowed."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from slimdiff.config.checks import Problem, suggest
from slimdiff.config.lookup import Config
from slimdiff.errors import dotted

MAX_SHOWN = 60  # characters of a value in a message

# JSON Schema accepts 2.0 as an integer, but a seed of 2.0 makes other paths than one of 2.
STRICT = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda checker, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)
TYPE_NAMES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
    "boolean": "true or false",
}
BOUND_NAMES = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
    "minItems": "with {} or more entries",
    "maxItems": "with {} entries at most",
    "minProperties": "with {} or more keys",
    "maxProperties": "with {} key at most",
    "uniqueItems": "without repeats",
    "pattern": "of the form {}",
}


def schema_problems(config: Config, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what `schema` refuses in `config`."""
    return map(_problem, STRICT(schema).iter_errors(config))


def select(schema: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the schema of the top-level key `key` alone."""
    return {"type": "object", "required": [key], "properties": {key: schema["properties"][key]}}


def cut(text: str) -> str:
    """Return `text`, shortened to MAX_SHOWN characters."""
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _problem(error: jsonschema.ValidationError) -> Problem:
    path: tuple[Any, ...] = tuple(error.absolute_path)
    schema: Any = error.schema
    value: Any = error.instance
    if error.validator == "additionalProperties" and "patternProperties" in schema:
        name = next(name for name in value if not re.search(next(iter(schema["patternProperties"])), name))
        text = "is not a usable name; allowed: letters, digits, and . _ + - after the first, 100 at most"
        return Problem((*path, name), text)
    if error.validator == "additionalProperties":
        known = schema["properties"]
        name = next(name for name in value if name not in known)
        place = dotted(path) or "the file"
        plugin = "; for a step of a plugin, add its file to plugins" if path[:1] == ("optimizations",) else ""
        return Problem((*path, name), f"is an unknown key; allowed in {place}: {suggest(name, known)}{plugin}")
    if error.validator == "required":
        name = next(key for key in schema["required"] if key not in value)
        place = f"{dotted(path)} requires {', '.join(schema['required'])}"
        fix = place if path else "add it, or read config.yaml first, which has every key"
        return Problem((*path, name), f"is missing; {fix}")
    return Problem(path, f"is {_show(value)}; allowed: {_allowed(schema)}{_remark(schema)}{_number_hint(value)}")


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return in words which values `schema` allows."""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if "anyOf" in schema:
        return " or ".join(_allowed(option) for option in schema["anyOf"])
    limits = [text.format(schema[key]) for key, text in BOUND_NAMES.items() if key in schema]
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " ".join([" or ".join(TYPE_NAMES[name] for name in types), " and ".join(limits)]).strip()


def _remark(schema: Mapping[str, Any]) -> str:
    return f" ({schema['description']})" if "description" in schema else ""


def _number_hint(value: Any) -> str:
    """Return the fix for a number that YAML reads as text, or nothing."""
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return ""
    # YAML 1.1 reads 1e-3 as text: a number needs a point in the mantissa and a sign in the exponent.
    mantissa, e, exponent = value.lower().partition("e")
    mantissa += "" if "." in mantissa or not e else ".0"
    exponent = f"+{exponent}" if exponent[:1].isdigit() else exponent
    written = mantissa + e + exponent
    return f"; YAML reads {value} as text, write {written}" if written != value.lower() else "; write it without quotes"


def _show(value: Any) -> str:
    """Return `value` as YAML would show it, shortened."""
    return cut(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value))
