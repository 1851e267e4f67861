"""Training hooks that compress: gradual pruning and quantization-aware training.

The third hook, distillation, is slimdiff.training.distillation and slimdiff.training.knowledge.
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

SPARSITY_SCHEDULES = ("one-shot", "cubic")
QAT_FORMATS = ("8bit", "4bit")


@dataclass(frozen=True)
class SparsifySettings:
    """Settings of `sparsify`."""

    amount: float  # final fraction of zeros in the scope
    schedule: str  # one-shot | cubic
    until: float = 1.0  # cubic: fraction of the steps after which `amount` is reached
    scope: str = "global"  # a key of the network's prune_scopes(), or `module:NAME` of a layer or block


class Sparsify(TrainingHooks):
    """L1 pruning during training: the smallest weights become zero, and zeros stay zero.

    `one-shot` prunes before the first step. `cubic` prunes `amount` · (1 - (1 - t)³) after a fraction t · until of the
    steps (Zhu and Gupta 2017, "To prune, or not to prune", equation 1, from no zeros), EVENTS times. A pruned weight
    stays zero: it is reset after each step, in the average, too.
    """

    EVENTS = 50

    def __init__(self, settings: SparsifySettings) -> None:
        if not 0.0 < settings.amount < 1.0:
            raise UserError(f"sparsify.amount is {settings.amount}; allowed: above 0 and below 1")
        if settings.schedule not in SPARSITY_SCHEDULES:
            raise UserError(f"sparsify.schedule is {settings.schedule!r}; allowed: {', '.join(SPARSITY_SCHEDULES)}")
        if not 0.0 < settings.until <= 1.0:
            raise UserError(f"sparsify.until is {settings.until}; allowed: above 0, up to 1")
        self.settings = settings

    def share(self, step: int, steps: int) -> float:
        """Return the fraction of zeros before `step`, which rises in EVENTS stairs."""
        if self.settings.schedule == "one-shot":
            return self.settings.amount
        stairs = min(self.EVENTS, max(1, int(steps * self.settings.until)))
        t = min(1.0, int(stairs * step / (steps * self.settings.until)) / stairs)
        return self.settings.amount * (1.0 - (1.0 - t) ** 3)

    @contextlib.contextmanager
    def around_step(
        self, network: nn.Module, average: Mapping[str, torch.Tensor], step: int, steps: int
    ) -> Iterator[None]:
        """Prune by the schedule, and keep zeros through the optimizer's step."""
        names = self._names(network)
        state = network.state_dict()
        weights = {name: state[name] for name in names}
        if step == 0 or self.share(step, steps) > self.share(step - 1, steps):
            zero_smallest(weights, self.share(step, steps))
        zeros = {name: value == 0 for name, value in weights.items()}
        yield
        if step + 1 == steps:  # the last stair, if the schedule ends with the training
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
    """Set the round(share · elements) weights of the smallest magnitude to zero, in place.

    Existing zeros count and come first.
    """
    sizes = [value.numel() for value in weights.values()]
    count = round(share * sum(sizes))
    if not count:
        return
    magnitudes = torch.cat([value.detach().abs().reshape(-1) for value in weights.values()])
    chosen = torch.zeros_like(magnitudes, dtype=torch.bool)
    chosen[magnitudes.topk(count, largest=False, sorted=False).indices] = True
    for value, mask in zip(weights.values(), chosen.split(sizes), strict=True):
        value.masked_fill_(mask.reshape(value.shape), 0.0)


class Quantized(TrainingHooks):
    """Quantization-aware training: loss and gradients are those of the quantized weights.

    The gradients are applied to the float weights (the straight-through estimator; Bengio, Léonard and Courville 2013;
    Jacob et al. 2018). The quantization is that of a recipe's `quantize: {weights: …}`.
    """

    def __init__(self, kind: str) -> None:
        if kind not in QAT_FORMATS:
            raise UserError(f"trainings.*.quantize.weights is {kind!r}; allowed: {', '.join(QAT_FORMATS)}")
        self.kind = kind

    @contextlib.contextmanager
    def around_backward(self, network: nn.Module) -> Iterator[None]:
        """Quantize the weights inside the block and restore the floats after it."""
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


# By the key of an entry of `trainings:`.
HOOKS: dict[str, Callable[[Mapping[str, Any]], TrainingHooks]] = {"sparsify": _sparsify, "quantize": _quantize}


def build_hooks(
    settings: Mapping[str, Any], more: Mapping[str, Callable[[Mapping[str, Any]], TrainingHooks]] | None = None
) -> TrainingHooks:
    """Return the hooks of a training's setting `hook`, {name: options}; {} is plain training.

    Args:
        more: hooks besides HOOKS, for those that need the training's start.

    Raises:
        UserError: a hook is unknown, there are several, or its settings are out of range.
    """
    if not settings:
        return TrainingHooks()
    available = {**HOOKS, **(more or {})}
    unknown = [name for name in settings if name not in available]
    if unknown or len(settings) > 1:
        raise UserError(f"trainings.* has the hooks {', '.join(settings)}; allowed: one of {', '.join(available)}")
    ((name, options),) = settings.items()
    return available[name](options)
