"""A network without its weights: what it would hold, and what it would compute, before anything is allocated."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimdiff.models.registry import build_network

FILLS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)  # a tensor, by its name
CHANGES = (torch.Tensor.mul, torch.Tensor.normal_, torch.Tensor.uniform_)  # a tensor's values and nothing else


class _SkipInit(TorchFunctionMode):
    """No tensor is filled with numbers. On the meta device torch would import its compiler to do nothing: a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in FILLS or func in CHANGES:
            return args[0] if args else (kwargs or {})["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def build_on_meta(model: Mapping[str, Any], groups: int | str = 1) -> nn.Module:
    """The network that `model` (an entry of `models:`) describes, on torch's meta device."""
    with torch.device("meta"), _SkipInit():
        return build_network(model, groups)
