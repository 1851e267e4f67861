"""What compression did to a network's structure, as the checkpoint's header records it, and how to do it again.

Apart from the steps themselves, so that reading a file depends on no technique that leaves the structure alone, nor on
the tools that found out which channels to remove.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linear_quant import restore_linears
from slimdiff.compression.shapes import resize
from slimdiff.errors import UserError

StructuralChange = dict[str, Any]  # {"channels": {layer: sizes}} or {"linear": bits, "layers": names}

# By name, for steps that plugins bring: (network, record, tensors) → the structure that the record tells of.
RESTORERS: dict[str, Callable[[nn.Module, Any, Mapping[str, torch.Tensor]], None]] = {}


def restore_structure(
    network: nn.Module, structure: Sequence[StructuralChange], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Give a freshly built network the structure that a checkpoint's header records."""
    for record in structure:
        if "step" in record:
            if record["step"] not in RESTORERS:
                raise UserError(f"the step {record['step']!r} of a plugin changed this network: load its plugin first")
            RESTORERS[record["step"]](network, record["record"], tensors)
        elif "channels" in record:
            resize(network, record["channels"])
        else:
            restore_linears(network, record["linear"], record["layers"], tensors)


def restore_shapes(network: nn.Module, structure: Sequence[StructuralChange]) -> None:
    """As `restore_structure`, but every layer stays one of floats: for what depends on widths alone."""
    for record in structure:
        if "channels" in record:
            resize(network, record["channels"])
