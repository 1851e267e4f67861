"""Checkpoints that describe themselves: tensors, and in the header all that is needed to build the network and sample.

Two kinds: `training` holds the raw and the EMA weights of one training, `model` one compressed network of one cell.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff import tensorfile
from slimdiff.compression.linears import is_frozen_part
from slimdiff.compression.steps import Structure, restore_structure
from slimdiff.diffusion.denoiser import Denoiser, PreconditioningSettings
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network
from slimdiff.sampling import Sampled, sample_images
from slimdiff.settings import build

WEIGHTS = ("raw", "ema")


def build_denoiser(network: nn.Module, model: Mapping[str, Any], training: Mapping[str, Any]) -> Denoiser:
    """The denoiser that `training` makes of `network`."""
    settings = {
        "name": training["preconditioning"],
        "sigma": model["network"]["sigma"],
        "sigma_data": training["sigma_data"],
    }
    return Denoiser(network, build(PreconditioningSettings, settings, "training"))


def write_training(
    path: str | os.PathLike[str],
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    header: Mapping[str, Any],
) -> None:
    """Write state dicts by name (`raw`, `ema`) with the header of their training."""
    tensors = {f"{kind}.{key}": tensor for kind, state in weights.items() for key, tensor in state.items()}
    tensorfile.write(path, "training", tensors, header)


def read_training(path: str | os.PathLike[str], weights: str) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network with its `raw` or `ema` weights (CPU), and the header."""
    if weights not in WEIGHTS:
        raise UserError(f"weights is {weights!r}; allowed: {', '.join(WEIGHTS)}")
    tensors, header = tensorfile.read(path, "training")
    prefix = f"{weights}."
    state = {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return rebuild(header, header["structure"], state), header


def write_model(path: str | os.PathLike[str], network: nn.Module, header: Mapping[str, Any]) -> None:
    """Write one cell's network."""
    tensorfile.write(path, "model", network.state_dict(), header)


def rebuild(header: Mapping[str, Any], structure: Sequence[Structure], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network that `header` describes with exactly the tensors of `state`."""
    network = build_network(header["model"], header["training"]["groups"])
    restore_structure(network, structure, state)
    frozen = {key for key in state if is_frozen_part(network, key)}  # already in place
    missing, unexpected = network.load_state_dict(
        {key: tensor for key, tensor in state.items() if key not in frozen}, strict=False
    )
    wrong = sorted(set(missing) - frozen) + sorted(unexpected)
    if wrong:
        raise UserError(f"checkpoint and network do not fit: {wrong[0]!r} is in only one of them")
    return network


@dataclass(frozen=True)
class Loaded:
    """A model from a file, ready to sample."""

    network: nn.Module
    denoiser: Denoiser
    settings: dict[str, Any]  # the header: model, training, dataset, steps, sampler, seed, status, …

    def sample(
        self,
        n: int,
        seed: int = 0,
        sampler: str | None = None,
        steps: int | None = None,
        batch_size: int = 100,
    ) -> Sampled:
        """n images of the size that the data set has, from this cell's own sampler unless another is named.

        Images depend on `seed` and their index alone, not on n or the batch size.
        """
        chosen = dict(self.settings["sampler"])
        if sampler is not None:
            chosen["method"] = sampler
        if steps is not None:
            chosen["steps"] = steps
        settings = build(SamplerSettings, chosen, "sampler")
        return sample_images(
            self.denoiser, settings, self.settings["model"], self.settings["dataset"], n, batch_size, seed
        )


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Loaded:
    """The model in a cell's model.safetensors, in evaluation mode on `device`.

    Raises:
        UserError: the file is missing, damaged, or no model.
    """
    tensors, header = tensorfile.read(path, "model")
    network = rebuild(header, header["structure"], tensors).eval().requires_grad_(False).to(device)
    return Loaded(network, build_denoiser(network, header["model"], header["training"]), header)
