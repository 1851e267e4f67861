"""JSON records that carry their own digest: a flipped bit can leave valid JSON, so parsing alone proves nothing.

Records without a digest, from older versions, pass unchecked.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from slimdiff.errors import UserError
from slimdiff.io import files

KEY = "record_sha256"


def add_digest(record: Mapping[str, Any], exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return `record` with the SHA-256 of its JSON, sorted by key, without the keys in `exclude`."""
    return {**record, KEY: _digest(record, exclude)}


def check_digest(
    path: str | os.PathLike[str], record: Mapping[str, Any], exclude: Collection[str] = ()
) -> dict[str, Any]:
    """Return `record`, read from `path`, without its digest.

    Raises:
        UserError: the record does not match its digest.
    """
    content = {key: value for key, value in record.items() if key != KEY}
    if KEY in record and record[KEY] != _digest(content, exclude):
        raise files.damaged(path, "its content does not match its digest")
    return content


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write `record` with its digest atomically."""
    files.write_json(path, add_digest(record))


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the record in `path`.

    Raises:
        UserError: the file is missing, not a JSON object, or does not match its digest.
    """
    record = files.read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} is not a JSON object: delete it and run again to rebuild it")
    return check_digest(path, record)


def _digest(record: Mapping[str, Any], exclude: Collection[str]) -> str:
    content = {key: value for key, value in record.items() if key != KEY and key not in exclude}
    parsed = json.loads(json.dumps(content))  # a reader sees keys as text, and text sorts differently
    return hashlib.sha256(json.dumps(parsed, sort_keys=True).encode()).hexdigest()
