"""What compression did to a network's structure, as the checkpoint's header records it, and how to do it again.

Apart from the steps themselves, so that reading a file depends on no technique that leaves the structure alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linears import restore_linears

Structure = dict[str, Any]


def restore_structure(network: nn.Module, structure: Sequence[Structure], tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a freshly built network the structure that a checkpoint's header records."""
    for record in structure:
        restore_linears(network, record["linear"], record["layers"], tensors)
