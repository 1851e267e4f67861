"""Trained networks in files: tensors, and in the header all that is needed to build the network again.

A file of the kind `training` holds the raw and the EMA weights of one training. A cell's network is
written by slimdiff.checkpoints.model.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linear_quant import is_frozen_part
from slimdiff.compression.restore import restore_structure
from slimdiff.errors import UserError
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.models.registry import build_network

WEIGHTS = ("raw", "ema")


def write_training(
    path: str | os.PathLike[str],
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    header: Mapping[str, Any],
) -> None:
    """Write state dicts by name (`raw`, `ema`) with the header of their training."""
    tensors = {f"{kind}.{key}": tensor for kind, state in weights.items() for key, tensor in state.items()}
    save_tensors(path, "training", tensors, header)


def read_training(path: str | os.PathLike[str], weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network with its `raw` or `ema` weights (CPU), and the header."""
    if weights not in WEIGHTS:
        raise UserError(f"weights is {weights!r}; allowed: {', '.join(WEIGHTS)}")
    tensors, header = load_tensors(path, "training")
    prefix = f"{weights}."
    state = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return rebuild(header, state), header


def rebuild(header: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network that `header` describes with exactly the tensors of `state`."""
    network = build_network(header["model"], header["training"]["groups"])
    restore_structure(network, header["structure"], state)
    frozen = {key for key in state if is_frozen_part(network, key)}  # already in place
    missing, unexpected = network.load_state_dict(
        {key: tensor for key, tensor in state.items() if key not in frozen}, strict=False
    )
    wrong = sorted(set(missing) - frozen) + sorted(unexpected)
    if wrong:
        raise UserError(f"checkpoint and network do not fit: {wrong[0]!r} is in only one of them")
    return network
