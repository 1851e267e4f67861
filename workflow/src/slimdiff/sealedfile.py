"""Tensors in a file whose header is verified as well (slimdiff.tensorfile verifies the tensors).

A module of its own, since training writes through slimdiff.tensorfile: an edit here retrains nothing.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from slimdiff import tensorfile
from slimdiff.errors import UserError
from slimdiff.sealing import seal, unseal

BESIDE = ("kind", "sha256")  # what slimdiff.tensorfile adds to a header, and checks by itself
T = TypeVar("T")


def write(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write `tensors` (any device) and `header` (JSON) atomically."""
    tensorfile.write(path, kind, tensors, seal(header, BESIDE))


def read_header(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The header alone, without reading a tensor.

    Raises:
        UserError: no such file, not a whole one, one of another kind, or its header is not the one that was written.
    """
    return unseal(path, parsed(path, lambda: tensorfile.read_header(path, kind)), BESIDE)


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (CPU) and header of a file of this `kind`.

    Raises:
        UserError: as `read_header`, or the tensors are not the ones that were written.
    """
    tensors, header = parsed(path, lambda: tensorfile.read(path, kind))
    return tensors, unseal(path, header, BESIDE)


def parsed(path: str | os.PathLike[str], read: Callable[[], T]) -> T:
    """What `read` finds in `path`; whatever is wrong with it is an error that names the file and the way out."""
    try:
        return read()
    except UserError as error:
        if not Path(path).exists() or "run again" in str(error):
            raise
        raise UserError(f"{error}; if it is a result, delete it and run again to rebuild it") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run again to rebuild it") from None
