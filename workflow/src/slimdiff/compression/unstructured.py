"""Unstructured pruning by torch.nn.utils.prune: zeros in place, at random or where the weights are small.

The report's techniques (§4.2.2). A scope names layers; of all their weights and biases exactly round(amount · elements)
become zero. They form one pool, or each layer has a share of its own (slimdiff.compression.allocation). Masks are made
permanent, so that what is left is a plain network with zeros.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import prune

from slimdiff.catalog.layers import MODULE, modules, within
from slimdiff.compression.allocation import ALLOCATIONS, MOST, by_sensitivity, rising
from slimdiff.errors import UserError

Pool = list[tuple[nn.Module, str]]  # modules, each with the name of one of its parameters
Loss = Callable[[nn.Module], float]  # of a network of the same structure, on images and noise that stay the same
PROBED = (0.2, 0.4, 0.6, 0.8, MOST)  # shares of a layer at which its sensitivity is measured

METHODS: dict[str, type[prune.BasePruningMethod]] = {
    "random": prune.RandomUnstructured,
    "l1": prune.L1Unstructured,
}


@dataclass(frozen=True)
class PruneSettings:
    """What to set to zero."""

    method: str  # random | l1
    amount: float  # share of the scope's elements, 0 to below 1
    scope: str = "global"  # one of the network's prune_scopes(), or `module:` and the name of a layer or a block
    allocation: str = "pool"  # one of ALLOCATIONS


def prune_unstructured(network: nn.Module, settings: PruneSettings, seed: int, loss: Loss | None = None) -> None:
    """Zero a share of the scope's elements, in place; the same seed zeroes the same elements.

    Args:
        loss: what allocation `sensitivity` measures layers by.
    """
    if settings.method not in METHODS:
        raise UserError(f"prune.method is {settings.method!r}; allowed: {', '.join(METHODS)}, channels")
    if not 0.0 <= settings.amount < 1.0:
        raise UserError(f"prune.amount is {settings.amount}; allowed: 0 up to, but not including, 1")
    if settings.allocation not in ALLOCATIONS:
        raise UserError(f"prune.allocation is {settings.allocation!r}; allowed: {', '.join(ALLOCATIONS)}")
    if settings.allocation == "pool":
        with _drawn(seed):
            _zero(prunable(network, settings.scope), settings.method, settings.amount)
        return
    sizes = {name: _size(_parameters(network, name)) for name in layers(network, settings.scope)}
    if settings.allocation == "rising":
        zeros = rising(sizes, settings.amount)
    elif loss is None:
        raise UserError("prune.allocation is 'sensitivity', which needs images; allowed without: pool, rising")
    else:
        zeros = by_sensitivity(sizes, settings.amount, sensitivity(network, settings, seed, loss))
    with _drawn(seed):  # once for all layers: one seed each would zero the same places of those of one size
        for name, count in zeros.items():
            _zero(_parameters(network, name), settings.method, count)


def sensitivity(
    network: nn.Module, settings: PruneSettings, seed: int, loss: Loss, shares: Sequence[float] = PROBED
) -> dict[str, list[tuple[float, float]]]:
    """The loss with one layer pruned alone, at each of `shares` and at none: a curve for each layer of the scope."""
    whole = loss(network)
    curves = {}
    for name in layers(network, settings.scope):
        curves[name] = [(0.0, whole)]
        for share in shares:
            pruned = copy.deepcopy(network)
            with _drawn(seed):
                _zero(_parameters(pruned, name), settings.method, share)
            curves[name].append((share, loss(pruned)))
    return curves


def layers(network: nn.Module, scope: str) -> list[str]:
    """Names of the scope's layers in the order in which the network defines, and so applies, them.

    Raises:
        UserError: no scope, no layer and no block of the network is called so.
    """
    scopes: dict[str, tuple[str, ...]] = network.prune_scopes()  # type: ignore[operator]
    every = [name for name, _ in network.named_modules() if name in scopes["global"]]
    if scope.startswith(MODULE):
        found = within(every, scope.removeprefix(MODULE))
        if not found:
            raise UserError(f"prune.scope is {scope!r}; allowed after {MODULE!r}: {', '.join(modules(every))}")
        return found
    if scope not in scopes:
        allowed = f"{', '.join(scopes)}, or {MODULE!r} and the name of a layer or a block"
        raise UserError(f"prune.scope is {scope!r}; allowed for this network: {allowed}")
    return [name for name in every if name in scopes[scope]]


@contextmanager
def _drawn(seed: int) -> Iterator[None]:
    """Random masks within are `seed`'s; torch's generator is afterwards what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _zero(pool: Pool, method: str, amount: float | int) -> None:
    """Zero a share (float) or a number (int) of the pool's elements."""
    for module, name in pool:  # torch flattens by a view, which channels_last refuses; files keep no memory format
        getattr(module, name).data = getattr(module, name).data.contiguous()
    prune.global_unstructured(pool, pruning_method=METHODS[method], amount=amount)
    for module, name in pool:
        prune.remove(module, name)
        getattr(module, name).data.add_(0.0)  # torch's masks make negative weights -0.0: their signs take room in files


def prunable(network: nn.Module, scope: str) -> Pool:
    """(module, parameter name) pairs of `scope`, in the order of the scope's modules."""
    scopes: dict[str, tuple[str, ...]] = network.prune_scopes()  # type: ignore[operator]
    names = scopes[scope] if scope in scopes else layers(network, scope)
    return [pair for name in names for pair in _parameters(network, name)]


def _parameters(network: nn.Module, layer: str) -> Pool:
    module = network.get_submodule(layer)
    for name, parameter in module.named_parameters(recurse=False):
        if not parameter.is_floating_point():
            raise UserError(f"prune cannot reach {layer}.{name}: it is quantized; prune before quantizing")
    return [(module, name) for name, _ in module.named_parameters(recurse=False)]


def _size(pool: Pool) -> int:
    return sum(getattr(module, name).numel() for module, name in pool)
