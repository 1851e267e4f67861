"""A cell's model from its file, ready to sample: what `slimdiff.load` returns."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from slimdiff.catalog.engines import runtime_of
from slimdiff.catalog.families import FAMILIES
from slimdiff.catalog.samplers import SAMPLER_FACTS, steps_problem
from slimdiff.checkpoints import header as modelheader
from slimdiff.checkpoints.model import build_model, read_tensors
from slimdiff.diffusion.denoiser import Denoiser, build_denoiser
from slimdiff.diffusion.guidance import Guided, labels_in_turn
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.engines.lowering import start_graph, start_network
from slimdiff.engines.network import EngineNetwork, Placement
from slimdiff.errors import UserError
from slimdiff.inference.sampling import Progress, Sampled, sample_images
from slimdiff.io.settings import build
from slimdiff.io.text import one_line
from slimdiff.plugins import missing_plugins

# What is raised where a file's header says one thing and its tensors another.
MISMATCH_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError)


@dataclass(frozen=True)
class LoadedModel:
    """A model from a file, ready to sample."""

    network: nn.Module  # with the weights of the file, or what runs the graph in a file that holds one
    denoiser: Denoiser  # of the network as its engine runs it
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
            if sampler != chosen["method"] and steps is None and SAMPLER_FACTS[sampler].takes_steps:
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
        class_labels = self._labels(n, labels)
        return sample_images(self.denoiser, settings, model, dataset, n, batch_size, seed, class_labels, progress)

    @property
    def classes(self) -> int:
        """How many classes the network can be asked for; 0: none."""
        return int(self.settings["model"]["network"].get("classes", 0))

    def prepare(self, batch_size: int) -> float | None:
        """Have the engine compile for sampling `batch_size` images at once; seconds, None for engine torch in fp32.

        Sampling does so by itself where it has to. What is prepared for keeps smaller batches from being filled up.
        """
        if not isinstance(self.denoiser.network, EngineNetwork):
            return None
        settings = build(SamplerSettings, self.settings["sampler"], "sampler")
        guided = Guided(self.denoiser, self._labels(batch_size, None), settings.guidance, settings.clip)
        return self.denoiser.network.prepare(batch_size * guided.passes)

    def _labels(self, n: int, labels: Sequence[int] | None) -> torch.Tensor | None:
        if not self.classes:
            if labels is not None:
                raise UserError("labels were given, but this model is told no class: leave them out")
            return None
        wrong = [label for label in labels or () if not 0 <= label < self.classes]
        if wrong:
            raise UserError(f"label {wrong[0]} is unknown to this model; allowed: 0 to {self.classes - 1}")
        return labels_in_turn(n, labels or self.classes)


def load(
    path: str | os.PathLike[str], device: torch.device | str = "cpu", cache: str | os.PathLike[str] | None = None
) -> LoadedModel:
    """The model in a cell's model.safetensors or model.packed, in evaluation mode on `device`, run by its own engine.

    Args:
        cache: folder where compilers keep what they made for other processes; None: where they do so by themselves.

    Raises:
        UserError: the file is missing, damaged, or no model; it needs a plugin that is not loaded, or another state of
            it (`slimdiff.load` loads plugins); its engine is not installed or not for this device.
    """
    try:
        return _load(path, Placement(torch.device(device), None if cache is None else Path(cache)))
    except (UserError, torch.OutOfMemoryError):
        raise
    except MISMATCH_ERRORS as error:
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UserError(
            f"{path} is no model that can be loaded ({reason}): delete it and run or fetch it again"
        ) from error


def _load(path: str | os.PathLike[str], placement: Placement) -> LoadedModel:
    tensors, header = read_tensors(path)
    modelheader.check(path, header)
    restored = {record.get("step") for record in header["structure"]}
    plugin_catalog = [
        entry for entry in header.get("plugins", ()) if entry["kind"] == "family" or entry["name"] in restored
    ]
    for problem in missing_plugins(plugin_catalog):
        raise UserError(f"{path}: {problem}")
    if "graph" in header:
        network: nn.Module = start_graph(header, tensors, placement)
        running = network
    else:
        network = build_model(header, tensors).eval().requires_grad_(False).to(placement.device)
        running = network if runtime_of(header).is_eager_fp32 else start_network(header, network, placement)
    return LoadedModel(network, build_denoiser(running, header["model"], header["training"]), header)


def _check_steps(method: str, steps: int) -> None:
    """Refuse a number of steps that the sampler cannot take."""
    if not SAMPLER_FACTS[method].takes_steps:
        raise UserError(f"steps is {steps}, but the sampler {method!r} chooses its own: leave it out")
    problem = steps_problem(method, steps) or (f"is {steps}; allowed: 2 or more" if steps < 2 else None)
    if problem:
        raise UserError(f"steps {problem}")
