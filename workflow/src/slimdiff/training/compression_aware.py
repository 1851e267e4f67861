"""Pruning and quantizing while a training goes on; a loss against a teacher stands in slimdiff.training.distillation.

Only trainings with a start import these.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff.compression.unstructured import prunable
from slimdiff.compression.weight_only import quantize_weights
from slimdiff.errors import UserError
from slimdiff.io.settings import build
from slimdiff.training.hooks import TrainingHooks

SCHEDULES = ("one-shot", "cubic")
QUANTIZED = ("8bit", "4bit")


@dataclass(frozen=True)
class SparsifySettings:
    """Settings of `sparsify`."""

    amount: float  # share of the scope's elements that are zero in the end
    schedule: str  # one-shot | cubic
    until: float = 1.0  # cubic: share of the steps after which the amount is reached; the rest trains what is left
    scope: str = "global"  # one of the network's prune_scopes()


class Sparsify(TrainingHooks):
    """L1 pruning while training: the smallest weights become zero, and what is zero stays zero.

    `one-shot` prunes all before the first step. `cubic` prunes `amount` · (1 - (1 - t)³) after the share t · until of
    the steps (Zhu and Gupta 2017, "To prune, or not to prune", equation 1, from no zeros), EVENTS times. A pruned
    weight never comes back: it is zero before each step and put back to zero after it, in the average too.
    """

    EVENTS = 50

    def __init__(self, settings: SparsifySettings) -> None:
        if not 0.0 < settings.amount < 1.0:
            raise UserError(f"sparsify.amount is {settings.amount}; allowed: above 0 and below 1")
        if settings.schedule not in SCHEDULES:
            raise UserError(f"sparsify.schedule is {settings.schedule!r}; allowed: {', '.join(SCHEDULES)}")
        if not 0.0 < settings.until <= 1.0:
            raise UserError(f"sparsify.until is {settings.until}; allowed: above 0, up to 1")
        self.settings = settings

    def share(self, step: int, steps: int) -> float:
        """The share of the elements that is to be zero before `step`: a staircase of EVENTS stairs."""
        if self.settings.schedule == "one-shot":
            return self.settings.amount
        stairs = min(self.EVENTS, max(1, int(steps * self.settings.until)))
        t = min(1.0, int(stairs * step / (steps * self.settings.until)) / stairs)
        return self.settings.amount * (1.0 - (1.0 - t) ** 3)

    @contextlib.contextmanager
    def around_step(
        self, network: nn.Module, average: Mapping[str, torch.Tensor], step: int, steps: int
    ) -> Iterator[None]:
        """Prune what the schedule asks for, and keep it so through the optimizer's step."""
        names = self._names(network)
        state = network.state_dict()
        weights = {name: state[name] for name in names}
        if step == 0 or self.share(step, steps) > self.share(step - 1, steps):
            zero_smallest(weights, self.share(step, steps))
        zeros = {name: value == 0 for name, value in weights.items()}
        yield
        if step + 1 == steps:  # a schedule that ends with the training has its last stair here
            zero_smallest(weights, self.share(steps, steps))
            zeros = {name: zeros[name] | (value == 0) for name, value in weights.items()}
        for name, mask in zeros.items():
            weights[name].masked_fill_(mask, 0.0)
            average[name].masked_fill_(mask, 0.0)

    def _names(self, network: nn.Module) -> list[str]:
        pool = {id(getattr(module, name)) for module, name in prunable(network, self.settings.scope)}
        return [name for name, parameter in network.named_parameters() if id(parameter) in pool]


@torch.no_grad()
def zero_smallest(weights: Mapping[str, torch.Tensor], share: float) -> None:
    """Make exactly round(share · elements) of the weights zero, in place, those of the smallest magnitude.

    Weights that are zero already count and come first.
    """
    sizes = [value.numel() for value in weights.values()]
    wanted = round(share * sum(sizes))
    if not wanted:
        return
    magnitudes = torch.cat([value.detach().abs().reshape(-1) for value in weights.values()])
    chosen = torch.zeros_like(magnitudes, dtype=torch.bool)
    chosen[magnitudes.topk(wanted, largest=False, sorted=False).indices] = True
    for value, mask in zip(weights.values(), chosen.split(sizes), strict=True):
        value.masked_fill_(mask.reshape(value.shape), 0.0)


class Quantized(TrainingHooks):
    """Quantization-aware training: the loss and its gradients are those of the quantized weights.

    The gradients are then applied to the float weights (the straight-through estimator; Bengio, Léonard and Courville
    2013; Jacob et al. 2018). What counts as quantized is what the recipe's `quantize: {weights: …}` will make of them.
    """

    def __init__(self, kind: str) -> None:
        if kind not in QUANTIZED:
            raise UserError(f"trainings.*.quantize.weights is {kind!r}; allowed: {', '.join(QUANTIZED)}")
        self.kind = kind

    @contextlib.contextmanager
    def around_backward(self, network: nn.Module) -> Iterator[None]:
        """With quantized weights inside, and the float ones back afterwards."""
        state = network.state_dict()
        floats = {name: value.clone() for name, value in state.items()}
        quantize_weights(network, self.kind)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in floats.items():
                    state[name].copy_(value)


def _sparsify(options: Mapping[str, Any]) -> TrainingHooks:
    return Sparsify(build(SparsifySettings, options, "sparsify"))


def _quantize(options: Mapping[str, Any]) -> TrainingHooks:
    return Quantized(options["weights"])


# By the key of its entry in `trainings:`.
HOOKS: dict[str, Callable[[Mapping[str, Any]], TrainingHooks]] = {"sparsify": _sparsify, "quantize": _quantize}


def build_hooks(
    settings: Mapping[str, Any], more: Mapping[str, Callable[[Mapping[str, Any]], TrainingHooks]] | None = None
) -> TrainingHooks:
    """The regime of a training's settings: {name: options}, or {} for plain training.

    Args:
        more: regimes that are known beside REGIMES, as those that need to see the training's start.
    """
    if not settings:
        return TrainingHooks()
    known = {**HOOKS, **(more or {})}
    unknown = [name for name in settings if name not in known]
    if unknown or len(settings) > 1:
        raise UserError(f"trainings.*: {', '.join(settings)} while training; allowed: one of {', '.join(known)}")
    ((name, options),) = settings.items()
    return known[name](options)
