"""Knowledge distillation: train on against the outputs, and the features, of the start as it was before any pruning.

At every noise level the target of the regression is between the image x_0 and the teacher's estimate D_T(x):

    (1 - weight) ‖F - a‖² + weight ‖F - b‖² = ‖F - ((1 - weight) a + weight b)‖² + constant,

where F is the student's output, and a and b are what it would have to be for x_0 and for D_T(x). So the weighted sum of
the data's loss and the teacher's (Kim et al. 2023, "BK-SDM", arXiv 2305.15798) is one regression, and the constant has
no gradient. Each noise level has the weight of the denoiser's own loss.

The loss of the features compares the ends of the network's levels, as BK-SDM does. It is relative to the norm of the
teacher's features, without which a few blocks of large values dominate (Zhang et al. 2024, "LAPTOP-Diff", arXiv
2404.11098).
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff.diffusion.denoiser import Denoiser, NoisyBatch
from slimdiff.errors import UserError
from slimdiff.training.hooks import TrainingHooks


@dataclass(frozen=True)
class KnowledgeSettings:
    """Settings of `distill` with the method knowledge."""

    method: str
    weight: float  # of the teacher's estimate in the target, above 0; 1: the images' pixels do not count
    features: float = 0.0  # weight of the features' loss


class KnowledgeDistillation(TrainingHooks):
    """Train the student on its teacher's estimates. The teacher is frozen and not part of a training's state.

    Args:
        start: the teacher's network, which is copied; with `features` it has a method `feature_modules()`, the names of
            the modules whose outputs are compared.
    """

    def __init__(self, settings: KnowledgeSettings, start: nn.Module) -> None:
        if not 0.0 < settings.weight <= 1.0:
            raise UserError(f"distill.weight is {settings.weight}; allowed: above 0, up to 1")
        if settings.features < 0.0:
            raise UserError(f"distill.features is {settings.features}; allowed: 0 or more")
        if settings.features and not hasattr(start, "feature_modules"):
            raise UserError(
                f"distill.features is {settings.features}, but {type(start).__name__} has no feature_modules(); leave "
                "it out"
            )
        self.settings = settings
        self.teacher = copy.deepcopy(start).eval().requires_grad_(False)
        self.compared: Sequence[str] = start.feature_modules() if settings.features else ()  # type: ignore[operator]

    def loss(self, denoiser: Denoiser, batch: NoisyBatch, progress: float) -> torch.Tensor:
        """Return the denoiser's loss against the blended target, plus that of the features, per image (N,)."""
        x_0, sigma, _, labels = batch
        x = batch.x
        teacher = Denoiser(self.teacher.to(x.device), denoiser.settings)
        with torch.no_grad(), _outputs(self.teacher, self.compared) as theirs:
            target = torch.lerp(x_0, teacher(x, sigma, labels), self.settings.weight)
        with _outputs(denoiser.network, self.compared) as own:
            loss = denoiser.regression(x, sigma, target, labels)
        if not self.compared:
            return loss
        relative = torch.stack([_relative_error(own[name], theirs[name], name) for name in self.compared]).mean(0)
        return loss + self.settings.features * x_0[0].numel() * relative  # a sum over pixels, as the loss is


@contextlib.contextmanager
def _outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Collect the outputs of modules by name, of evaluations inside the block."""
    outputs: dict[str, torch.Tensor] = {}

    def collect(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = output[0] if isinstance(output, tuple) else output  # blocks down also return their skips

        return hook

    handles = [network.get_submodule(name).register_forward_hook(collect(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _relative_error(own: torch.Tensor, theirs: torch.Tensor, name: str) -> torch.Tensor:
    """Return ‖own - theirs‖² / ‖theirs‖² per image (N,)."""
    if own.shape != theirs.shape:
        raise UserError(
            f"distill.features: {name} has {own.shape[1]} channels, in the teacher {theirs.shape[1]}; allowed: a "
            "student with all of its start's channels; leave features out"
        )
    theirs = theirs.float().flatten(1)
    return (own.float().flatten(1) - theirs).square().sum(1) / theirs.square().sum(1).clamp_min(1e-12)
