"""Settings: canonical JSON between rules and stages, frozen dataclasses within a stage."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from slimdiff.errors import UserError

T = TypeVar("T")


def canonical(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces: equal text means equal settings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse(text: str, where: str = "--settings") -> dict[str, Any]:
    """Parse the JSON object `text`; raise UserError, which names it `where`, if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}): {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a JSON object, not {type(value).__name__}: {text[:80]!r}")
    return value


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build the frozen dataclass `cls`, lists as tuples.

    Raises:
        UserError: a key is unknown or missing; the message names it, and `where` it belongs.
    """
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
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
