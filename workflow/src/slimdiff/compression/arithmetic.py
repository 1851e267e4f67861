"""Multiply-accumulates of a network."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def count_macs(network: nn.Module, evaluate: Callable[[nn.Module], Any]) -> int:
    """Count the multiply-accumulates of `evaluate(network)`, by torch's formulas for each operation."""
    with torch.no_grad(), _FlopCounter() as counter:
        evaluate(network)
    return counter.flops // 2


# torch has formulas for attention on GPUs alone.
OF_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
OF_GPU = torch.ops.aten._scaled_dot_product_flash_attention


class _FlopCounter(TorchDispatchMode):
    """Count floating-point operations with torch's formulas, as FlopCounterMode does.

    Entering FlopCounterMode imports torch's compiler, which takes a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, to tell it to skip this class

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        formula = flop_registry.get(OF_GPU if packet is OF_CPU else packet)
        if formula is None:
            with self:
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        self.flops += formula(*args, **kwargs, out_val=out)
        return out
