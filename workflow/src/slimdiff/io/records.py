"""Digests of records: a bit that flips in a file of JSON leaves JSON, so the record itself says what it was.

What was written without one, by an older slimdiff, is taken as it is.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from typing import Any

from slimdiff.errors import UserError
from slimdiff.io import files

KEY = "record_sha256"


def seal(record: Mapping[str, Any], beside: Collection[str] = ()) -> dict[str, Any]:
    """`record` with the SHA-256 of its JSON, sorted by names; those in `beside` do not count."""
    return {**record, KEY: _digest(record, beside)}


def unseal(path: str | os.PathLike[str], record: Mapping[str, Any], beside: Collection[str] = ()) -> dict[str, Any]:
    """What was sealed, from the file `path`.

    Raises:
        UserError: it is not what was written.
    """
    found = {key: value for key, value in record.items() if key != KEY}
    if KEY in record and record[KEY] != _digest(found, beside):
        raise UserError(
            f"{path} is damaged (its content does not have the digest in it): delete it and run again to rebuild it"
        )
    return found


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write `record` sealed, atomically."""
    files.write_json(path, seal(record))


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record in `path`.

    Raises:
        UserError: there is no such file, it is no JSON object, or not what was written.
    """
    record = files.read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} is no JSON object: delete it and run again to rebuild it")
    return unseal(path, record)


def _digest(record: Mapping[str, Any], beside: Collection[str]) -> str:
    counted = {key: value for key, value in record.items() if key != KEY and key not in beside}
    read_back = json.loads(json.dumps(counted))  # as a reader has it: names are text there, and sorted as such
    return hashlib.sha256(json.dumps(read_back, sort_keys=True).encode()).hexdigest()
