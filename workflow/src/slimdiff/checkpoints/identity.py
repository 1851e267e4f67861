"""Whether a file is the one that a cell is to be made from, and not another's that was put under its name.

A cell's identity is a digest of all settings and code that its model comes from (workflow/rules/functions.smk). The
model carries it in its header, its samples and records carry it on, and who reads one of them is told what to expect.
"""

import os
from collections.abc import Mapping
from typing import Any

from slimdiff.errors import UserError
from slimdiff.io.settings import canonical

Path = str | os.PathLike[str]


def check(path: Path, found: str | None, expected: str | None) -> None:
    """Refuse the file `path`, whose identity is `found`; who is told no identity, as by hand, expects none.

    Raises:
        UserError: it is another cell's, or of other settings or code.
    """
    if expected is not None and found != expected:
        raise UserError(
            f"{path} is not this cell's: its identity is {found or 'unknown'}, this cell's is {expected}, so it comes "
            "from other settings, other code or another cell; delete it and run again to rebuild it"
        )


def check_provenance(path: Path, header: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a training's weights whose `header` says that they are not the expected ones.

    Args:
        expected: values by the header's keys; `dataset` and `start` by name.

    Raises:
        UserError: which of them differs.
    """
    named = {**header, "dataset": header["dataset"]["name"], "start": header.get("start", {}).get("training")}
    if header["status"] != "ok":  # a failed start is passed on as it is
        expected = {key: value for key, value in expected.items() if key != "training"}
    for key, value in expected.items():
        if canonical(named.get(key)) != canonical(value):
            raise UserError(
                f"{path} is not what this cell is made from: its {key} is {canonical(named.get(key))}, expected "
                f"{canonical(value)}; delete it and run again to rebuild it"
            )


def check_settings(path: Path, record: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse a training's record that is of other settings.

    Raises:
        UserError: it is.
    """
    if canonical(record.get("settings")) != canonical(settings):
        raise UserError(
            f"{path} is not of this cell's training: it was trained with other settings; delete it and run again to "
            "rebuild it"
        )
