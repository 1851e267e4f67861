"""Extend the config's schema with the keys and names that the config's plugins declare."""

import copy
from collections.abc import Mapping
from typing import Any

from slimdiff.catalog.families import FAMILIES, Family
from slimdiff.catalog.samplers import SAMPLER_FACTS
from slimdiff.errors import UserError
from slimdiff.plugins import Options
from slimdiff.plugins.declarations import PluginCatalog


def extend_schema(schema: Mapping[str, Any], catalog: PluginCatalog) -> Mapping[str, Any]:
    """Return `schema` (workflow/schemas/config.schema.yaml) with the keys and names of plugins; itself without plugins.

    Raises:
        UserError: a plugin uses a name of slimdiff's own.
    """
    if not (catalog.steps or catalog.families or catalog.sources):
        return schema
    extended: dict[str, Any] = copy.deepcopy(dict(schema))
    definitions = extended["$defs"]

    recipe = definitions["optimization"]["properties"]
    for name, step in catalog.steps.items():
        _refuse_taken(step.path, "step", name, recipe)
        recipe[name] = options_schema(step.declared.settings, f"step of {step.path}")

    sources = definitions["dataset"]["properties"]["source"]
    for name, source in catalog.sources.items():
        _refuse_taken(source.path, "source", name, sources["enum"])
    sources["enum"] = [*sources["enum"], *catalog.sources]
    dataset, model = definitions["dataset"], definitions["model"]
    if catalog.sources:
        dataset["properties"]["options"] = {"description": "settings of a plugin's source", "type": "object"}
    for name, source in catalog.sources.items():
        options = source.declared.options
        then = {"properties": {"options": options_schema(options, f"settings of the source of {source.path}")}}
        _put_before(dataset, "source", name, then | ({"required": ["options"]} if options else {}))

    for name, family in catalog.families.items():
        _refuse_taken(family.path, "family", name, FAMILIES)
        then = {
            "properties": {
                "network": options_schema(family.declared.network, "options of the network"),
                "training": {"required": list(family.declared.as_family.training)},
                "sampler": {"required": _constants(family.declared.as_family)},
            }
        }
        _put_before(model, "family", name, then)
    kinds = model["properties"]["family"]
    kinds["enum"] = [*kinds["enum"], *catalog.families]
    return extended


def options_schema(options: Options, description: str) -> dict[str, Any]:
    """Return the schema of a mapping with exactly the keys of `options`."""
    return {
        "description": description,
        "type": "object",
        "additionalProperties": False,
        "required": list(options),
        "properties": {key: dict(schema) for key, schema in options.items()},
    }


def _put_before(schema: dict[str, Any], key: str, value: str, then: Mapping[str, Any]) -> None:
    """Require `then` where `key` is `value`, and the schema's own condition elsewhere."""
    rest = {word: schema.pop(word) for word in ("if", "then", "else", "allOf") if word in schema}
    schema |= {"if": {"properties": {key: {"const": value}}}, "then": then, "else": rest}


def _constants(family: Family) -> list[str]:
    """Return the sampler options that a model of `family` must have."""
    constants = (key for method in family.samplers for key in SAMPLER_FACTS[method].options)
    return list(dict.fromkeys([*family.sampler, *constants]))


def _refuse_taken(path: str, kind: str, name: str, taken: Any) -> None:
    if name in taken:
        raise UserError(f"{path}: {kind} {name!r} conflicts with a name of slimdiff's own; rename it")
