"""A cell's model from its file, ready to sample: what `slimdiff.load` returns."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff.diffusion.denoiser import Denoiser, build_denoiser
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.sampling import Sampled, sample_images
from slimdiff.settings import build
from slimdiff.weightfile import read_model


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
    network, header = read_model(path)
    network = network.eval().requires_grad_(False).to(device)
    return Loaded(network, build_denoiser(network, header["model"], header["training"]), header)
