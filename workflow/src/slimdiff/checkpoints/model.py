"""Files of one cell's network: safetensors, or the same file packed (slimdiff.io.packed).

Weight-only quantized weights are stored in their few bits (slimdiff.compression.weight_only).
"""

import os
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import nn

from slimdiff.checkpoints.weights import rebuild
from slimdiff.compression import weight_only
from slimdiff.io import packed
from slimdiff.io.files import damaged
from slimdiff.io.safetensors_header import LENGTH_BYTES, check_header, parse_layout
from slimdiff.io.tensors import load_tensors, save_tensors, tensors_digest

KIND = "model"


def write_model(path: str | os.PathLike[str], network: nn.Module, header: Mapping[str, Any]) -> None:
    """Write one cell's network as safetensors, with its weights in the bits that `header["structure"]` records."""
    write_tensors(path, network.state_dict(), header)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write the tensors that an engine made from one cell's network, in the same way."""
    for record in _stored(header):
        tensors = weight_only.encode(tensors, record)
    save_tensors(path, KIND, tensors, header)


def read_model(path: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, Any]]:
    """Return one cell's network (CPU; float, except layers that run quantized) and the header.

    Raises:
        UserError: the file is missing, damaged, or not a model.
    """
    tensors, header = read_tensors(path)
    return build_model(header, tensors), header


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the file's tensors, quantized weights decoded to floats, and the header."""
    tensors, header = _read_packed(path) if packed.is_packed(path) else load_tensors(path, KIND)
    for record in reversed(_stored(header)):
        tensors = weight_only.decode(tensors, record)
    return tensors, header


def build_model(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return the network that `header` describes, with exactly the tensors from `read_tensors`."""
    stored = _stored(header)
    others = [record for record in header["structure"] if record not in stored]
    return rebuild({**header, "structure": others}, tensors)


def _stored(header: Mapping[str, Any]) -> list[weight_only.Record]:
    """Return the structure's records of weight-only quantization."""
    return [record for record in header["structure"] if "weights" in record]


def _read_packed(path: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and header of a packed model, every digest checked."""
    prefix, *contents = packed.read(path)
    header = check_header(path, parse_layout(prefix[LENGTH_BYTES:]).metadata, KIND)
    tensors = safetensors.torch.load(b"".join([prefix, *contents]))
    if tensors_digest(tensors) != header.get("sha256"):
        raise damaged(path, "its tensors do not match the digest in its header")
    return tensors, header
