"""Load a cell's model from its file, ready to sample."""

import dataclasses
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from slimdiff.catalog.compositions import apportion, interleave
from slimdiff.catalog.engines import runtime_of
from slimdiff.catalog.families import FAMILIES
from slimdiff.catalog.samplers import SAMPLER_FACTS, steps_problem
from slimdiff.checkpoints.header import check_model_header
from slimdiff.checkpoints.model import build_model, read_tensors
from slimdiff.diffusion.denoiser import Denoiser, build_denoiser
from slimdiff.diffusion.guidance import Guided, labels_in_turn
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.engines.lowering import start_graph, start_network
from slimdiff.engines.network import EngineNetwork, Placement
from slimdiff.errors import UserError
from slimdiff.inference.classes import find_classes
from slimdiff.inference.sampling import Progress, Sampled, sample_images
from slimdiff.io.settings import build
from slimdiff.io.text import one_line
from slimdiff.plugins import missing_plugins

MISMATCH_ERRORS = (  # raised if a file's header and tensors contradict each other
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError),
)


@dataclass(frozen=True)
class LoadedModel:
    """A model from a file, ready to sample."""

    network: nn.Module  # has the file's weights, or runs the file's graph
    denoiser: Denoiser  # its network runs on the cell's engine
    settings: dict[str, Any]  # the file's header: model, training, dataset, steps, sampler, seed, status, …
    guide: "LoadedModel | None" = None  # of sampler.guide

    def sample(
        self,
        n: int,
        seed: int = 0,
        sampler: str | None = None,
        steps: int | None = None,
        batch_size: int = 100,
        guidance: float | None = None,
        labels: Sequence[str | int] | None = None,
        progress: Progress | None = None,
        classes: Sequence[str] | None = None,
        class_index: Sequence[int] | None = None,
        fill_memory: bool = False,
    ) -> Sampled:
        """Sample n images in the data set's size.

        Images depend only on `seed`, their index and their class, not on the batch size. A class-conditional model
        samples the named classes in turn. Without any, each class gets its share of the training images, by largest
        remainders, and so does, nearly, each of any number of first images.

        Args:
            sampler: a sampler of the network's family; None: the cell's own. Another one needs `steps` if it takes
                any, since the cell's number does not carry over.
            steps: number of sampler steps, 1 or more.
            batch_size: images per batch, 1 or more; it changes no image.
            guidance: scale of classifier-free guidance, 0 or more, for a class-conditional model.
            labels: the older name of `classes`; it refuses a name that is also the position of another class.
            progress: called as (done, n) during sampling; `done` counts images, including the share of the running
                batch's network evaluations if the sampler's number of evaluations is known in advance.
            classes: names of the classes to sample.
            class_index: positions, from 0, of further ones.
            fill_memory: after the first batch, sample as many images at once as fit into a GPU's memory.

        Raises:
            UserError: the model does not support the sampler, the guidance or a class; `n`, `batch_size` or `guidance`
                is out of range; `steps` is missing or invalid; no class is named, and the file, from an older slimdiff,
                lacks the number of training images of each.
        """
        _check_count("n", n)
        _check_count("batch_size", batch_size)
        options = dict(self.settings["sampler"])
        if sampler is not None:
            allowed = FAMILIES[self.settings["model"]["family"]].samplers
            if sampler not in allowed:
                raise UserError(f"sampler is {sampler!r}; allowed for this model: {', '.join(allowed)}")
            if sampler != options["method"] and steps is None and SAMPLER_FACTS[sampler].takes_steps:
                raise UserError(f"sampler {sampler!r} needs steps: those of {options['method']} do not carry over")
            options["method"] = sampler
        if guidance is not None:
            if not self.classes:
                raise UserError(f"guidance is {guidance}, but this model is unconditional: leave it out")
            if not 0.0 <= guidance < math.inf:
                raise UserError(f"guidance is {guidance}; allowed: a number, 0 or more")
            if guidance != 1 and not self.settings["model"]["network"].get("null_class", True):
                raise UserError(f"guidance is {guidance}; allowed for this model, which has no null class: 1")
            if guidance != 1 and self.settings["sampler"].get("guide"):
                raise UserError(f"guidance is {guidance}; allowed for this model, which its sampler.guide guides: 1")
            options["guidance"] = guidance
        if steps is not None:
            _check_steps(options["method"], steps, len(self.denoiser.vp.betas))
            options["steps"] = steps
        settings = build(SamplerSettings, options, "sampler")
        model, dataset = self.settings["model"], self.settings["dataset"]
        class_labels = self._labels(
            n,
            () if classes is None else classes,
            () if class_index is None else class_index,
            () if labels is None else labels,
        )
        guide = self.guide.denoiser if self.guide else None
        drawn = (n, batch_size, seed, class_labels, progress, fill_memory, guide)
        return sample_images(self.denoiser, settings, model, dataset, *drawn)

    @property
    def classes(self) -> int:
        """Number of classes; 0 for an unconditional model."""
        return int(self.settings["model"]["network"].get("classes", 0))

    def prepare(self, batch_size: int) -> float | None:
        """Compile for sampling `batch_size` images at once; return the seconds, or None for engine torch in fp32.

        Sampling compiles by itself if needed. A prepared batch size needs no padding to a larger one.
        """
        if not isinstance(self.denoiser.network, EngineNetwork):
            return None
        settings = build(SamplerSettings, self.settings["sampler"], "sampler")
        labels = labels_in_turn(batch_size, self.classes) if self.classes else None
        guided = Guided(self.denoiser, labels, settings.guidance, interval=settings.guidance_interval)
        return sum(self.denoiser.network.prepare(batch_size * passes) for passes in guided.passes)

    def _labels(
        self, n: int, names: Sequence[str], positions: Sequence[int], labels: Sequence[str | int]
    ) -> torch.Tensor | None:
        if not self.classes:
            if any(not hasattr(given, "__len__") or len(given) for given in (names, positions, labels)):
                raise UserError("classes are given, but this model is unconditional: leave them out")
            return None
        dataset = self.settings["dataset"]
        if requested := find_classes(dataset["classes"][: self.classes], names, positions, labels):
            return labels_in_turn(n, requested)
        counts = [int(count) for count in dataset.get("class_counts", ())]
        if len(counts) != self.classes or not any(counts):
            raise UserError(
                "the model's file, from an older slimdiff, lacks the number of training images of each class: name the "
                "classes to sample, with --class or --class-index (classes or class_index in Python)"
            )
        return torch.tensor(interleave(apportion(n, counts)))


def load(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    cache: str | os.PathLike[str] | None = None,
    guide: str | os.PathLike[str] | None = None,
) -> LoadedModel:
    """Load a cell's model.safetensors or model.packed, in evaluation mode on `device`, for its own engine.

    Args:
        cache: folder of the compilers' cache, shared between processes; None: the compilers' default.
        guide: the file of the recipe that the sampler's `guide` names, of the same model; sampling needs it.

    Raises:
        UserError: the file is missing, damaged, or not a model; it needs a plugin that is not loaded or has changed
            (`slimdiff.load` loads plugins); its engine is not installed or does not support the device; there is no
            such device; the guide is of another model, or the model's sampler has none.
    """
    if guide is not None:
        return _with_guide(load(path, device, cache), load(guide, device, cache), path, guide)
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder; allowed: a file, such as model.safetensors or model.packed in it")
    placement = _placement(device, cache)
    try:
        return _load(path, placement)
    except (UserError, torch.OutOfMemoryError):
        raise
    except MISMATCH_ERRORS as error:
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UserError(
            f"{path} cannot be loaded as a model ({reason}): delete it and run or fetch it again"
        ) from error


def _load(path: str | os.PathLike[str], placement: Placement) -> LoadedModel:
    tensors, header = read_tensors(path)
    check_model_header(path, header)
    steps = {record.get("step") for record in header["structure"]}
    needed = [entry for entry in header.get("plugins", ()) if entry["kind"] == "family" or entry["name"] in steps]
    for problem in missing_plugins(needed):
        raise UserError(f"{path}: {problem}")
    if "graph" in header:
        network: nn.Module = start_graph(header, tensors, placement)
        running = network
    else:
        network = build_model(header, tensors).eval().requires_grad_(False).to(placement.device)
        running = network if runtime_of(header).is_eager_fp32 else start_network(header, network, placement)
    return LoadedModel(network, build_denoiser(running, header["model"], header["training"]), header)


def _with_guide(
    loaded: LoadedModel, guide: LoadedModel, path: str | os.PathLike[str], guide_path: str | os.PathLike[str]
) -> LoadedModel:
    """Return `loaded` with its guide, or raise UserError if they do not belong together."""
    if not loaded.settings["sampler"].get("guide"):
        raise UserError(f"guide is {guide_path}, and the sampler of {path} has none: leave it out")
    ours, theirs = loaded.settings, guide.settings
    if (ours["model"], ours["training"]["black"]) != (theirs["model"], theirs["training"]["black"]):
        raise UserError(f"guide is {guide_path}; allowed: a file of the same model and `black` as {path}")
    return dataclasses.replace(loaded, guide=guide)


def _check_steps(method: str, steps: int, timesteps: int) -> None:
    """Raise UserError if the sampler cannot take this number of steps."""
    if not SAMPLER_FACTS[method].takes_steps:
        raise UserError(f"steps is {steps}, but the sampler {method!r} chooses its own: leave it out")
    _check_count("steps", steps)
    if problem := steps_problem(method, steps, timesteps):
        raise UserError(f"steps {problem}")


def _check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise UserError unless the argument `name` is a whole number, `least` or more."""
    if type(value) is bool or not isinstance(value, Integral) or value < least:
        raise UserError(f"{name} is {value!r}; allowed: a whole number, {least} or more")


def _placement(device: torch.device | str, cache: str | os.PathLike[str] | None) -> Placement:
    """Return where a model runs.

    Raises:
        UserError: slimdiff does not support the device, or the machine lacks it.
    """
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise UserError(f"device is {str(device)!r}; allowed: cpu, cuda")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device is {str(device)!r}, and torch finds no CUDA device; allowed here: cpu")
    return Placement(place, None if cache is None else Path(cache))
