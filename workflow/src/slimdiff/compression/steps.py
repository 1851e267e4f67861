"""Compression steps by name: each changes a network in place.

A step is one entry of a recipe's list, {name: settings}. It returns the structural change that a load must repeat
before it reads weights, or None.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from slimdiff.catalog.compression import measures_loss
from slimdiff.compression.blocks import BlockSettings, prune_blocks
from slimdiff.compression.channels import ChannelSettings, prune_channels
from slimdiff.compression.linear_quant import BITS, quantize_linears
from slimdiff.compression.restore import StructuralChange
from slimdiff.compression.unstructured import Loss, PruneSettings, prune_unstructured
from slimdiff.compression.weight_only import WEIGHT_FORMATS, quantize_weights
from slimdiff.errors import UserError
from slimdiff.io.settings import build


def _prune(
    network: nn.Module, settings: Mapping[str, Any], seed: int, loss: Loss | None = None
) -> StructuralChange | None:
    if settings.get("method") == "channels":
        return prune_channels(network, build(ChannelSettings, settings, "prune"), seed)
    if settings.get("method") == "blocks":
        settings_of_blocks = build(BlockSettings, settings, "prune")
        return prune_blocks(network, settings_of_blocks, None if loss is None else lambda: loss(network))
    prune_unstructured(network, build(PruneSettings, settings, "prune"), seed, loss)
    return None


def _quantize(network: nn.Module, settings: Mapping[str, Any], seed: int) -> StructuralChange | None:
    if set(settings) == {"weights"}:
        return quantize_weights(network, settings["weights"])
    if set(settings) != {"linear"}:
        allowed = f"linear ({', '.join(BITS)}) or weights ({', '.join(WEIGHT_FORMATS)})"
        raise UserError(f"quantize has the keys {sorted(settings)}; allowed: one of {allowed}")
    names = quantize_linears(network, settings["linear"])
    return {"linear": settings["linear"], "layers": names}


STEPS: dict[str, Callable[[nn.Module, Mapping[str, Any], int], StructuralChange | None]] = {
    "prune": _prune,
    "quantize": _quantize,
}


def apply_steps(
    network: nn.Module, steps: Sequence[Mapping[str, Any]], seed: int, loss: Loss | None = None
) -> list[StructuralChange]:
    """Apply the recipe's steps in order, in place; return the structural changes for the checkpoint's header.

    Args:
        loss: of a network, for a `prune` that measures it.

    Raises:
        UserError: a step or a setting of it is unknown or out of range, or does not fit the network.
    """
    structure = []
    for step in steps:
        if len(step) != 1 or next(iter(step)) not in STEPS:
            raise UserError(f"compression step is {dict(step)}; allowed: one of {', '.join(STEPS)}")
        ((name, settings),) = step.items()
        extra = {"loss": loss} if name == "prune" and measures_loss(settings) else {}
        record = STEPS[name](network, settings, seed, **extra)
        if record is not None:
            structure.append(record)
    return structure
