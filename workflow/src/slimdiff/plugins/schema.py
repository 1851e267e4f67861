"""The schema of the configuration with what the configuration's own plugins add to it."""

import copy
from collections.abc import Mapping
from typing import Any

from slimdiff.catalog.families import FAMILIES, SAMPLER_CONSTANTS, Family
from slimdiff.errors import UserError
from slimdiff.plugins import Options
from slimdiff.plugins.declarations import PluginCatalog


def extended(schema: Mapping[str, Any], plugin_catalog: PluginCatalog) -> Mapping[str, Any]:
    """`schema` (workflow/schemas/config.schema.yaml) with the keys and names that plugins bring; itself without any.

    Raises:
        UserError: a plugin takes a name that slimdiff has.
    """
    if not (plugin_catalog.steps or plugin_catalog.families or plugin_catalog.sources):
        return schema
    made: dict[str, Any] = copy.deepcopy(dict(schema))
    definitions = made["$defs"]

    recipe = definitions["optimization"]["properties"]
    for name, found in plugin_catalog.steps.items():
        _refuse_taken(found.path, "step", name, recipe)
        recipe[name] = options_schema(plugin_catalog.step(name).settings, f"step of {found.path}")

    sources = definitions["dataset"]["properties"]["source"]
    for name, found in plugin_catalog.sources.items():
        _refuse_taken(found.path, "source", name, sources["enum"])
    sources["enum"] = [*sources["enum"], *plugin_catalog.sources]
    dataset, model = definitions["dataset"], definitions["model"]
    if plugin_catalog.sources:
        dataset["properties"]["options"] = {"description": "settings of a plugin's source", "type": "object"}
    for name, found in plugin_catalog.sources.items():
        options = plugin_catalog.source(name).options
        then = {"properties": {"options": options_schema(options, f"settings of the source of {found.path}")}}
        _put_before(dataset, "source", name, then | ({"required": ["options"]} if options else {}))

    for name, found in plugin_catalog.families.items():
        _refuse_taken(found.path, "family", name, FAMILIES)
        family = plugin_catalog.family(name)
        then = {
            "properties": {
                "network": options_schema(family.network, "the network's free choices"),
                "training": {"required": list(family.entry.training)},
                "sampler": {"required": _constants(family.entry)},
            }
        }
        _put_before(model, "family", name, then)
    kinds = model["properties"]["family"]
    kinds["enum"] = [*kinds["enum"], *plugin_catalog.families]
    return made


def options_schema(options: Options, description: str) -> dict[str, Any]:
    """A mapping with exactly the keys of `options`."""
    return {
        "description": description,
        "type": "object",
        "additionalProperties": False,
        "required": list(options),
        "properties": {key: dict(schema) for key, schema in options.items()},
    }


def _put_before(schema: dict[str, Any], key: str, value: str, then: Mapping[str, Any]) -> None:
    """Where `key` is `value` hold `then`, elsewhere what the schema's own condition says."""
    rest = {word: schema.pop(word) for word in ("if", "then", "else") if word in schema}
    schema |= {"if": {"properties": {key: {"const": value}}}, "then": then, "else": rest}


def _constants(family: Family) -> list[str]:
    """The sampler options that a model of `family` must have."""
    constants = (key for method in family.samplers for key in SAMPLER_CONSTANTS[method])
    return list(dict.fromkeys([*family.sampler, *constants]))


def _refuse_taken(path: str, kind: str, name: str, taken: Any) -> None:
    if name in taken:
        raise UserError(f"{path}: {kind} {name!r} would stand in the place of slimdiff's own; give it another name")
