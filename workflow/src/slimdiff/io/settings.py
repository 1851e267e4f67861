"""Settings travel between rules and stages as canonical JSON, and live in stages as frozen dataclasses."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from slimdiff.errors import UserError

T = TypeVar("T")


def canonical(value: Any) -> str:
    """`value` as JSON that is equal exactly when the settings are: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(text: str, where: str = "--settings") -> dict[str, Any]:
    """The mapping that `text` (JSON) holds."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}): {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a JSON object, not {type(value).__name__}: {text[:80]!r}")
    return value


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """The frozen dataclass `cls` from `values`; unknown and missing keys are refused by name."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(fields))}")
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = sorted(set(required) - set(values))
    if missing:
        raise UserError(f"{where}: key {missing[0]!r} is missing")
    frozen = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
    return cls(**frozen)
