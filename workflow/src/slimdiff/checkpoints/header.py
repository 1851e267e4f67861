"""Validate the header of a model file before anything is built or allocated.

Model files are untrusted. Their JSON header defines the network's size and its sampler. It is checked
against a schema, and the network is measured on torch's meta device, which allocates nothing. No header can name code:
families, samplers and engines are keys of tables, and only the user can load plugins.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import jsonschema

from slimdiff.catalog.families import FAMILIES
from slimdiff.errors import UserError
from slimdiff.io.text import one_line
from slimdiff.models.registry import build_on_meta

MAX_BYTES = 8 << 30  # total of all tensors, as in slimdiff.io.packed
MAX_SIZE = 4096  # pixels in height and width
MAX_STEPS = 1_000_000

_TEXT, _OBJECT, _NUMBER = {"type": "string"}, {"type": "object"}, {"type": "number"}
_NULLABLE = {"type": ["number", "null"], "exclusiveMinimum": 0}
_CHANNELS = {"type": "integer", "minimum": 1, "maximum": 4}
_PIXELS = {"type": "integer", "minimum": 1, "maximum": MAX_SIZE}
_LABELS = {"type": "array", "items": _TEXT, "maxItems": 1_000_000}


def _mapping(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _with(schema: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {**schema, "properties": {**schema["properties"], **optional}}


_PLUGIN = _mapping(path=_TEXT, kind=_TEXT, name=_TEXT, code=_TEXT)
SCHEMA = _with(
    _mapping(
        model=_with(
            _mapping(family=_TEXT, image_size=_PIXELS, channels=_CHANNELS, fit=_TEXT, network=_OBJECT),
            patch={"type": "integer", "minimum": 1, "maximum": MAX_SIZE},
        ),
        training=_with(
            _mapping(preconditioning=_TEXT, groups={"type": ["integer", "string"]}),
            log_sigma_mean=_NUMBER,
            log_sigma_std={**_NUMBER, "exclusiveMinimum": 0},
        ),
        sampler=_with(
            _mapping(method=_TEXT),
            steps={"type": "integer", "minimum": 1, "maximum": MAX_STEPS},
            sigma_min=_NULLABLE,
            sigma_max=_NULLABLE,
            rho={**_NUMBER, "exclusiveMinimum": 0},
            grid={"type": ["integer", "null"], "minimum": 1, "maximum": MAX_STEPS},
            renoise={"type": "array", "items": {**_NUMBER, "exclusiveMinimum": 0}, "maxItems": MAX_STEPS},
            snr=_NUMBER,
            tolerance={**_NUMBER, "exclusiveMinimum": 0},
            guidance=_NUMBER,
            guidance_interval={"type": ["array", "null"], "items": _NUMBER, "minItems": 2, "maxItems": 2},
            guide=_mapping(optimization=_TEXT, scale=_NUMBER),
            clip={"type": "boolean"},
            cache_interval={"type": "integer", "minimum": 1},
            scheduler={"type": ["object", "null"]},  # run_scheduler checks its options
            precision=_TEXT,
        ),
        structure={"type": "array", "items": _OBJECT},
        dataset=_with(
            _mapping(height=_PIXELS, width=_PIXELS, channels=_CHANNELS, classes=_LABELS, saturated=_NUMBER),
            class_counts={**_LABELS, "items": {"type": "integer", "minimum": 0}},
        ),
    ),
    engine=_TEXT,
    precision=_TEXT,
    plugins={"type": "array", "items": _PLUGIN},
    graph=_OBJECT,
)


def check_model_header(path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
    """Raise UserError if `header` is not one of a slimdiff model, or its network is larger than 8 GiB.

    Raises:
        UserError: the message names the file, the key and the value.
    """
    error = next(_validator().iter_errors(dict(header)), None)
    if error is not None:
        key = ".".join(map(str, error.absolute_path)) or "header"
        raise UserError(f"{path} is not a slimdiff model: {key}: {one_line(error.message)[:200]}; fetch it again")
    if header["model"]["family"] in FAMILIES:  # others are plugins' networks, code that the user trusts
        network = build_on_meta(header["model"], header["training"]["groups"])
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        if n_bytes > MAX_BYTES:
            raise UserError(
                f"{path} defines a network of {n_bytes} bytes; allowed: up to {MAX_BYTES}: do not load it, or fetch it "
                "again"
            )


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(SCHEMA)
