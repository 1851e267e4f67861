"""Mutated configs, valid or with mistakes of every kind, and their outcome."""

import copy
import os
from dataclasses import astuple
from typing import Any

import yaml
from hypothesis import strategies as st
from presets import CONFIG, ROOT, SCHEMA, merge, read_yaml

from slimdiff.analysis.claims import file as claimfile
from slimdiff.config import lookup, resolve
from slimdiff.config.axes import expand_axes
from slimdiff.config.cells import expand
from slimdiff.config.validate import validate
from slimdiff.errors import UserError
from slimdiff.io.settings import canonical

FILE = "theirs.yaml"  # name of the mutated file in messages
PLUGIN = "examples/round_mantissa.py"

# A small overlay of config.yaml.
MINIMAL = {
    "matrix": [
        {"dataset": "digits", "model": "ncsn", "optimizations": ["baseline", "l1-30", "channels-50"], "seeds": [0, 1]},
        {"dataset": "digits", "model": "ddpm", "optimizations": ["noise-prediction", "openvino-int8"], "seeds": [0]},
    ]
}
NAMES = [
    "a;touch x",
    "$(id)",
    "`id`",
    "../x",
    "..",
    ".",
    "/etc/passwd",
    "a\nb",
    "-rf",
    "a/b",
    "a b",
    "é",
    "💾",
    "a" * 300,
]
NAMES += ["", "\x00", "a\x1b[2J", "\u202eabc", "\ud800", "~", "{seed}", "{config[x]}", "%s", "'", '"', "|", "<script>"]
NAMES += [
    "__use_yte__",
    "?open('x')",
    "NaN",
    "no",
    "null",
    "0",
    "1e400",
    "C:\\x",
    "file:///etc/passwd",
    "con",
    "s3://x/y",
]
EXTREMES = [0, -1, 1, 2, 3, 10, 1000, 2**31, 2**53, 2**53 + 1, 2**63, 10**400, -(10**400), 0.0, -0.0, 0.5, 1.0, 2.0]
EXTREMES += [1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan")]
ODD: list[Any] = [None, True, False, [], {}, [[]], [{}], {"": None}, {1: 2}, {None: None}, [None], b"x", {"a"}, (1,)]
ODD += [yaml.safe_load("2026-11-23"), yaml.safe_load("2026-11-23T12:00:00Z"), {"x": {"y": {"z": [1]}}}, ["a"] * 50]
PATHS = [
    ".",
    "config.yaml",
    "workflow",
    "/dev/null",
    "/proc/self/mem",
    "/root",
    PLUGIN,
    "tests",
    "-",
    "x" * 5000,
    "docs/x.py",
]
CHANGES = ["replace", "replace", "delete", "add", "rename", "double", "empty", "move", "wrap"]
KEYS = st.sampled_from([*NAMES, "start", "finetune", "prune", "plugins", "options", "classes", "pathvars", "<<"])
VALUES = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(EXTREMES),
    st.sampled_from(ODD),
    st.sampled_from(PATHS),
    st.text(max_size=12),
    st.integers(),
    st.floats(),
)
# Values of the right type; most are valid, or invalid only in combination with other keys.
SMALL = st.one_of(
    st.integers(0, 12), st.sampled_from([16, 17, 28, 32, 64, 2048, 0.0, 0.1, 0.3, 0.5, 0.9, 1.0, 1.5, 25.0])
)
Place = tuple[Any, Any]  # a mapping or list, and a key or index in it


def words(schema: Any) -> list[str]:
    """Return every word that the schema allows somewhere."""
    if isinstance(schema, list):
        return [word for item in schema for word in words(item)]
    if not isinstance(schema, dict):
        return []
    own = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
    return [
        *(word for word in own if isinstance(word, str)),
        *(word for item in schema.values() for word in words(item)),
    ]


WORDS = sorted(set(words(SCHEMA)) | set(CONFIG["trainings"]) | set(CONFIG["optimizations"]) | set(CONFIG["datasets"]))


def bases() -> list[dict[str, Any]]:
    """Return config.yaml, every preset without a folder and a minimal matrix, each without unused recipes."""
    overlays = [read_yaml(path) for path in sorted((ROOT / "config").glob("*.yaml"))]
    overlays = [
        each for each in overlays if not any("pretrained" in model for model in each.get("models", {}).values())
    ]
    return [trimmed(merge(CONFIG, overlay)) for overlay in ({}, MINIMAL, *overlays)]


def trimmed(config: dict[str, Any]) -> dict[str, Any]:
    """Return `config` with few recipes and seeds, and only the trainings that these use."""
    for entry in config["matrix"]:
        entry["optimizations"], entry["seeds"] = entry["optimizations"][:8], entry["seeds"][:2]
    used = {name for entry in config["matrix"] for name in entry["optimizations"]} | {"baseline"}
    kept = {name: config["optimizations"][name] for name in config["optimizations"] if name in used}
    chains = {name for recipe in kept.values() for name in lookup.chain_of(config, recipe["training"])}
    trainings = {name: config["trainings"][name] for name in config["trainings"] if name in chains}
    return {**config, "optimizations": kept, "trainings": trainings}


BASES = bases()


def places(value: Any) -> list[Place]:
    """Return every place in `value` that can be replaced, deleted or duplicated."""
    found: list[Place] = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            found += places(value[key])
    return found


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a config with one to three changes, which may be mistakes or harmless."""
    made = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 3))):
        found = places(made)
        if not found:
            break
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        if draw(st.booleans()):
            value = holder[key]
            if isinstance(value, str):
                holder[key] = draw(st.sampled_from(WORDS))
            elif isinstance(value, int | float):
                holder[key] = draw(SMALL)
            elif isinstance(value, dict) and value:
                value.pop(draw(st.sampled_from(sorted(map(str, value)))), None)
            continue
        change = draw(st.sampled_from(CHANGES))
        if change == "replace":
            holder[key] = copy.deepcopy(draw(VALUES))
        elif change == "delete":
            del holder[key]
        elif change == "empty":
            holder[key] = type(holder[key])() if isinstance(holder[key], dict | list | str) else None
        elif change == "move":  # a value from elsewhere
            other, place = found[draw(st.integers(0, len(found) - 1))]
            holder[key] = copy.deepcopy(other[place])
        elif change == "wrap":
            holder[key] = draw(st.sampled_from([[holder[key]], {"x": holder[key]}, [[[[holder[key]]]]]]))
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif change == "rename":
            holder[draw(KEYS)] = holder.pop(key)
        else:
            holder[draw(KEYS)] = copy.deepcopy(draw(VALUES))
    return made


def outcome(config: dict[str, Any], overlay: dict[str, Any] | None = None) -> str | None:
    """Return the message that refuses a config; None if it is valid and every job can be planned.

    Exceptions other than UserError, and paths outside results/, fail the test.
    """
    try:
        validate(config, SCHEMA, {"config.yaml": CONFIG, FILE: config if overlay is None else overlay})
        claimfile.read(config["claims"])
    except UserError as error:
        return str(error)
    plan(expand_axes(config))
    return None


def plan(config: dict[str, Any]) -> None:
    """Compute the rules' settings and paths for every cell of a valid config: JSON, and paths inside results/."""
    for cell in expand(config["matrix"]):
        path = os.path.normpath(f"results/cells/{cell.path}")
        assert path.split("/") == ["results", "cells", cell.dataset, cell.model, cell.optimization, f"seed{cell.seed}"]
        assert path.isascii() and path.isprintable() and all(len(part) < 200 for part in path.split("/"))
        assert type(cell.seed) is int
        place = astuple(cell)
        for pick in (
            resolve.compress_settings,
            resolve.sample_settings,
            resolve.score_settings,
            resolve.profile_settings,
            resolve.row_settings,
        ):
            canonical(pick(config, *place))
        lookup.baseline_cell(config, *place)
        lookup.needs_images(config, cell.optimization)
        lookup.uses_gpu(config, cell.optimization)
        for pick_data in (
            resolve.data_settings,
            resolve.extractors_settings,
            resolve.classifier_settings,
            resolve.reference_settings,
        ):
            canonical(pick_data(config, cell.dataset))
    for kind in lookup.inception_kinds(config):
        canonical(resolve.inception_weights_settings(config, kind))
    canonical(resolve.matrix_settings(config))
    canonical(resolve.provenance(config))


def names_the_key(message: str, config: dict[str, Any]) -> bool:
    """Return whether a message names a file and a full key, or a file of claims or of a plugin."""
    file, _, rest = message.partition(": ")
    if file in (FILE, "config.yaml"):
        known = {*SCHEMA["properties"], *map(str, config)}
        return any(rest.startswith(key) for key in known if key) or rest.split(" ")[0] not in ("", "is", "has")
    named = [*_texts(config.get("claims")), *_texts(config.get("plugins"))]
    return any(message.startswith(name) for name in named if name)


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
