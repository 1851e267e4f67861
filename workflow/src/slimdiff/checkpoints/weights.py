"""Files of trained weights: the raw and EMA weights of one training, and a header that rebuilds the network."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from slimdiff.checkpoints.identity import check_provenance
from slimdiff.compression.linear_quant import is_frozen_part
from slimdiff.compression.restore import restore_structure
from slimdiff.errors import UserError
from slimdiff.io.files import damaged
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.models.registry import build_network

KIND = "training"
WEIGHTS = ("raw", "ema")
MISMATCH_ERRORS = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)  # header contradicts tensors


def write_training(
    path: str | os.PathLike[str],
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    header: Mapping[str, Any],
) -> None:
    """Write the state dicts `raw` and `ema` with the header of their training."""
    tensors = {f"{kind}.{key}": tensor for kind, state in weights.items() for key, tensor in state.items()}
    save_tensors(path, KIND, tensors, header)


def read_training(path: str | os.PathLike[str], weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained network with its `raw` or `ema` weights (CPU), and the header.

    Raises:
        UserError: `weights` is neither; the file is missing, damaged, or not of a training.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights is {weights!r}; allowed: {', '.join(WEIGHTS)}")
    tensors, header = load_tensors(path, KIND)
    prefix = f"{weights}."
    state = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return rebuild(header, state), header


def read_verified(
    path: str | os.PathLike[str], weights: str, expected: Mapping[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Return `read_training`'s result after checking that the file is the one expected by a cell.

    Args:
        expected: values that the header must have (slimdiff.checkpoints.identity.check_provenance); None: any.

    Raises:
        UserError: the file is missing or damaged, or not the expected one.
    """
    header = read_header(path, KIND)
    try:
        if expected is not None:
            check_provenance(path, header, expected)
        return read_training(path, weights)
    except MISMATCH_ERRORS as error:
        raise damaged(path, f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    except UserError as error:
        if str(path) in str(error):
            raise
        raise damaged(path, error) from None


def rebuild(header: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return the network that `header` describes, with exactly the tensors of `state`.

    Raises:
        UserError: a tensor is missing, or not of this network.
    """
    network = build_network(header["model"], header["training"]["groups"])
    restore_structure(network, header["structure"], state)
    frozen = {key for key in state if is_frozen_part(network, key)}  # already in place
    missing, unexpected = network.load_state_dict(
        {key: tensor for key, tensor in state.items() if key not in frozen}, strict=False
    )
    wrong = sorted(set(missing) - frozen) + sorted(unexpected)
    if wrong:
        raise UserError(f"checkpoint and network do not match: only one of them has {wrong[0]!r}")
    return network
