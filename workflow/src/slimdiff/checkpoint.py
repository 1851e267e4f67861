"""A cell's model from its file, ready to sample: what `slimdiff.load` returns."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff.diffusion.denoiser import Denoiser, build_denoiser
from slimdiff.diffusion.guidance import labels_in_turn
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.errors import UserError
from slimdiff.families import FAMILIES, SAMPLER_CONSTANTS, steps_problem
from slimdiff.modelfile import read_header, read_model
from slimdiff.plugins import missing
from slimdiff.sampling import Progress, Sampled, sample_images
from slimdiff.settings import build


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
        guidance: float | None = None,
        labels: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> Sampled:
        """n images of the size that the data set has, from this cell's own sampler unless another is named.

        Images depend on `seed`, their index and their label alone, not on n or the batch size.

        Args:
            sampler: one that the network's family has; another than the cell's own needs `steps` where it takes any,
                since the cell's number of them says nothing about it.
            steps: of the sampler.
            guidance: scale of classifier-free guidance, of a conditional model.
            labels: classes that a conditional model goes through in turn; None: all of them.
            progress: called as (done, n) while images are drawn; `done` counts images, those of a running batch by
                their share of network evaluations where the sampler's number of them is known beforehand.

        Raises:
            UserError: a sampler, a guidance or a label that the model does not know; steps that are missing or wrong.
        """
        chosen = dict(self.settings["sampler"])
        if sampler is not None:
            allowed = FAMILIES[self.settings["model"]["family"]].samplers
            if sampler not in allowed:
                raise UserError(f"sampler is {sampler!r}; allowed for this model: {', '.join(allowed)}")
            if sampler != chosen["method"] and steps is None and "steps" in SAMPLER_CONSTANTS[sampler]:
                own = chosen["method"]
                raise UserError(f"sampler {sampler!r} needs steps: how many {own} takes here says nothing about it")
            chosen["method"] = sampler
        if guidance is not None:
            if not self.classes:
                raise UserError(f"guidance is {guidance}, but this model is told no class: leave it out")
            chosen["guidance"] = guidance
        if steps is not None:
            _check_steps(chosen["method"], steps)
            chosen["steps"] = steps
        settings = build(SamplerSettings, chosen, "sampler")
        model, dataset = self.settings["model"], self.settings["dataset"]
        told = self._labels(n, labels)
        return sample_images(self.denoiser, settings, model, dataset, n, batch_size, seed, told, progress)

    @property
    def classes(self) -> int:
        """How many classes the network can be asked for; 0: none."""
        return int(self.settings["model"]["network"].get("classes", 0))

    def _labels(self, n: int, asked: Sequence[int] | None) -> torch.Tensor | None:
        if not self.classes:
            if asked is not None:
                raise UserError("labels were given, but this model is told no class: leave them out")
            return None
        wrong = [label for label in asked or () if not 0 <= label < self.classes]
        if wrong:
            raise UserError(f"label {wrong[0]} is unknown to this model; allowed: 0 to {self.classes - 1}")
        return labels_in_turn(n, asked or self.classes)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Loaded:
    """The model in a cell's model.safetensors or model.packed, in evaluation mode on `device`.

    Raises:
        UserError: the file is missing, damaged, or no model; or it needs a plugin that is not loaded, or another state
            of it. `slimdiff.load` loads plugins.
    """
    header = read_header(path)
    restored = {record.get("step") for record in header["structure"]}
    brought = [entry for entry in header.get("plugins", ()) if entry["kind"] == "family" or entry["name"] in restored]
    for problem in missing(brought):
        raise UserError(f"{path}: {problem}")
    network, header = read_model(path)
    network = network.eval().requires_grad_(False).to(device)
    return Loaded(network, build_denoiser(network, header["model"], header["training"]), header)


def _check_steps(method: str, steps: int) -> None:
    """Refuse a number of steps that the sampler cannot take."""
    if "steps" not in SAMPLER_CONSTANTS[method]:
        raise UserError(f"steps is {steps}, but the sampler {method!r} chooses its own: leave it out")
    problem = steps_problem(method, steps) or (f"is {steps}; allowed: 2 or more" if steps < 2 else None)
    if problem:
        raise UserError(f"steps {problem}")
