"""Check that a file belongs to its cell and was not replaced by another cell's file.

A cell's identity is a digest of all settings and code behind its model, computed by the rules. The model's header, the
samples and the records carry it; stages that read them get the expected identity as an option.
"""

import os
from collections.abc import Mapping
from typing import Any

from slimdiff.errors import UserError
from slimdiff.io.settings import canonical

StrPath = str | os.PathLike[str]


def check_identity(path: StrPath, actual: str | None, expected: str | None) -> None:
    """Raise if the file's identity is not `expected`; None, as in manual runs, skips the check.

    Raises:
        UserError: the file belongs to another cell, or to other settings or code.
    """
    if expected is not None and actual != expected:
        raise UserError(
            f"{path} is not this cell's: its identity is {actual or 'unknown'}, expected {expected}, so it comes from "
            "other settings, other code or another cell: delete it and run again to rebuild it"
        )


def check_provenance(path: StrPath, header: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise if the `header` of a training's weights lacks the expected values.

    Args:
        expected: header key → value; `dataset` and `start` are given by name.

    Raises:
        UserError: the message names the first key that differs.
    """
    named = {**header, "dataset": header["dataset"]["name"], "start": header.get("start", {}).get("training")}
    if header["status"] != "ok":  # the weights of a failed start keep its training's name
        expected = {key: value for key, value in expected.items() if key != "training"}
    for key, value in expected.items():
        if canonical(named.get(key)) != canonical(value):
            raise UserError(
                f"{path} does not match this cell: its {key} is {canonical(named.get(key))}, expected "
                f"{canonical(value)}: delete it and run again to rebuild it"
            )


def check_settings(path: StrPath, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise UserError if a training's record has other settings."""
    if canonical(record.get("settings")) != canonical(settings):
        raise UserError(
            f"{path} is not this cell's training, which has other settings: delete it and run again to rebuild it"
        )
