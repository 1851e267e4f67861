"""Unstructured pruning by torch.nn.utils.prune: zeros in place, at random or where the weights are small.

The report's techniques (§4.2.2). A scope names modules; all their weights and biases form one pool, of which exactly
round(amount · elements) become zero. Masks are made permanent, so that what is left is a plain network with zeros.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import prune

from slimdiff.errors import UserError

METHODS: dict[str, type[prune.BasePruningMethod]] = {
    "random": prune.RandomUnstructured,
    "l1": prune.L1Unstructured,
}


@dataclass(frozen=True)
class PruneSettings:
    """What to set to zero."""

    method: str  # random | l1
    amount: float  # share of the scope's elements, 0 to below 1
    scope: str = "global"  # one of the network's prune_scopes()


def prune_unstructured(network: nn.Module, settings: PruneSettings, seed: int) -> None:
    """Zero a share of the scope's elements, in place; the same seed zeroes the same elements."""
    if settings.method not in METHODS:
        raise UserError(f"prune.method is {settings.method!r}; allowed: {', '.join(METHODS)}, channels")
    if not 0.0 <= settings.amount < 1.0:
        raise UserError(f"prune.amount is {settings.amount}; allowed: 0 up to, but not including, 1")
    pool = prunable(network, settings.scope)
    for module, name in pool:  # torch flattens by a view, which channels_last refuses; files keep no memory format
        getattr(module, name).data = getattr(module, name).data.contiguous()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prune.global_unstructured(pool, pruning_method=METHODS[settings.method], amount=settings.amount)
    for module, name in pool:
        prune.remove(module, name)
        getattr(module, name).data.add_(0.0)  # torch's masks make negative weights -0.0: their signs take room in files


def prunable(network: nn.Module, scope: str) -> list[tuple[nn.Module, str]]:
    """(module, parameter name) pairs of `scope`, in the order of the scope's modules."""
    scopes: dict[str, tuple[str, ...]] = network.prune_scopes()  # type: ignore[operator]
    if scope not in scopes:
        raise UserError(f"prune.scope is {scope!r}; allowed for this network: {', '.join(scopes)}")
    pool = []
    for module_name in scopes[scope]:
        module = network.get_submodule(module_name)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_floating_point():
                raise UserError(f"prune cannot reach {module_name}.{name}: it is quantized; prune before quantizing")
            pool.append((module, name))
    return pool
