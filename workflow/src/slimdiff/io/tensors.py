"""Tensors with a header in one safetensors file, whole and verified: the only container slimdiff writes tensors into.

The header is the metadata key "slimdiff": canonical JSON with the `kind`, the SHA-256 of the tensors, and its own.
The bytes depend on the tensors and the header alone, so equal runs write equal files.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from slimdiff.errors import UserError
from slimdiff.io.files import atomic
from slimdiff.io.records import seal, unseal
from slimdiff.io.settings import canonical

KEY = "slimdiff"
BESIDE = ("kind", "sha256")  # checked by themselves


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def write(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write `tensors` (any device) and `header` (JSON) atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = canonical(seal({**header, "kind": kind, "sha256": tensors_digest(plain)}, BESIDE))
    with atomic(path) as temporary:
        try:
            save_file(plain, temporary, metadata={KEY: text})
        except SafetensorError as error:  # what the disk said, in words that are no OSError
            raise UserError(f"{path} cannot be written ({error}): make room, or mend the disk, and run again") from None


def read_header(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The header alone, without reading a tensor.

    Raises:
        UserError: no such file, not a whole safetensors file, one of another kind, or a header that was not written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(_broken(path, str(error))) from None
    if KEY not in metadata:
        raise UserError(
            f"{path} was not written by slimdiff: its metadata has no key {KEY!r}; if it is a result, delete it and "
            "run again"
        )
    try:
        parsed: Any = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise UserError(_broken(path, f"its header is no JSON: {error}")) from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} holds {type(parsed).__name__!r}, expected {kind!r}: delete it and run again")
    header = unseal(path, parsed, BESIDE)
    if header.get("kind") != kind:
        raise UserError(
            f"{path} holds {header.get('kind')!r}, expected {kind!r}; if it is a result, delete it and run again"
        )
    return header


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (CPU) and header of a file of this `kind`, its digest checked.

    Raises:
        UserError: as `read_header`, or the tensors are not the ones that were written.
    """
    header = read_header(path, kind)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(_broken(path, str(error))) from None
    if tensors_digest(tensors) != header.get("sha256"):
        raise UserError(_broken(path, "its tensors do not have the digest in its header"))
    return tensors, header


def _broken(path: str | os.PathLike[str], why: str) -> str:
    return f"{Path(path)} is damaged ({why}): delete it and run again to rebuild it"
