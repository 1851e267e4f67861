"""What compression did to a network's structure, as the checkpoint's header records it, and how to do it again.

Apart from the steps themselves, so that reading a file depends on no technique that leaves the structure alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linears import restore_linears
from slimdiff.errors import UserError

Structure = dict[str, Any]

# By name, for steps that plugins bring: (network, record, tensors) → the structure that the record tells of.
RESTORERS: dict[str, Callable[[nn.Module, Any, Mapping[str, torch.Tensor]], None]] = {}


def restore_structure(network: nn.Module, structure: Sequence[Structure], tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a freshly built network the structure that a checkpoint's header records."""
    for record in structure:
        if "step" in record:
            if record["step"] not in RESTORERS:
                raise UserError(f"the step {record['step']!r} of a plugin changed this network: load its plugin first")
            RESTORERS[record["step"]](network, record["record"], tensors)
            continue
        restore_linears(network, record["linear"], record["layers"], tensors)
