"""Tensors with a header in one safetensors file, verified on reading.

slimdiff.io.safetensors_header describes the format. The bytes depend only on the tensors and the header, so equal runs
write equal files.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from slimdiff.errors import TransientError
from slimdiff.io.files import atomic, damaged
from slimdiff.io.records import add_digest
from slimdiff.io.safetensors_header import KEY, UNDIGESTED, read_header
from slimdiff.io.settings import canonical


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def save_tensors(
    path: str | os.PathLike[str], kind: str, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]
) -> None:
    """Write `tensors` (any device) and `header` (JSON) atomically; raise TransientError if the disk is full."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = canonical(add_digest({**header, "kind": kind, "sha256": tensors_digest(plain)}, UNDIGESTED))
    with atomic(path) as temporary:
        try:
            save_file(plain, temporary, metadata={KEY: text})
        except SafetensorError as error:  # safetensors wraps the disk's errors
            raise TransientError(f"{path} cannot be written ({error}): free disk space, then run again") from None


def load_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors (CPU) and the header of a file of this `kind`.

    Raises:
        UserError: the file is missing, damaged, of another kind, or not written by slimdiff.
    """
    header = read_header(path, kind)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise damaged(path, error) from None
    if tensors_digest(tensors) != header.get("sha256"):
        raise damaged(path, "its tensors do not match the digest in its header")
    return tensors, header
