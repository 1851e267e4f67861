"""Unstructured pruning by torch.nn.utils.prune: zero weights at random or by magnitude, in place.

The paper's techniques (§4.2.2). Of all weights and biases of a scope's layers exactly round(amount · elements) become
zero, from one pool or by a share per layer (slimdiff.compression.allocation). Masks are made permanent: the result is a
plain network with zeros.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import prune

from slimdiff.catalog.layers import MODULE, modules, within
from slimdiff.catalog.limits import MAX_SHARE
from slimdiff.compression.allocation import ALLOCATIONS, by_sensitivity, rising
from slimdiff.errors import UserError

Pool = list[tuple[nn.Module, str]]  # modules, each with the name of one of its parameters
Loss = Callable[[nn.Module], float]  # of a network of the same structure, on fixed images and noise
PROBED_SHARES = (0.2, 0.4, 0.6, 0.8, MAX_SHARE)  # of zeros in a layer, to measure its sensitivity

METHODS: dict[str, type[prune.BasePruningMethod]] = {
    "random": prune.RandomUnstructured,
    "l1": prune.L1Unstructured,
}


@dataclass(frozen=True)
class PruneSettings:
    """Which weights to zero."""

    method: str  # random | l1
    amount: float  # share of the scope's elements, 0 to below 1
    scope: str = "global"  # a key of prune_scopes(), or `module:NAME` of a layer or block
    allocation: str = "pool"  # one of ALLOCATIONS


def prune_unstructured(network: nn.Module, settings: PruneSettings, seed: int, loss: Loss | None = None) -> None:
    """Zero a share of the scope's elements, in place; the same seed zeroes the same elements.

    Args:
        loss: by which the allocation `sensitivity` measures layers.

    Raises:
        UserError: a setting is unknown or out of range, or the allocation `sensitivity` lacks its loss.
    """
    if settings.method not in METHODS:
        raise UserError(f"prune.method is {settings.method!r}; allowed: {', '.join(METHODS)}, channels, blocks")
    if not 0.0 <= settings.amount < 1.0:
        raise UserError(f"prune.amount is {settings.amount}; allowed: 0 to below 1")
    if settings.allocation not in ALLOCATIONS:
        raise UserError(f"prune.allocation is {settings.allocation!r}; allowed: {', '.join(ALLOCATIONS)}")
    if settings.allocation == "pool":
        with _seeded(seed):
            _zero(prunable(network, settings.scope), settings.method, settings.amount)
        return
    sizes = {name: _size(_parameters(network, name)) for name in layers(network, settings.scope)}
    if settings.allocation == "rising":
        zeros = rising(sizes, settings.amount)
    elif loss is None:
        raise UserError("prune.allocation is 'sensitivity', which needs images; allowed without: pool, rising")
    else:
        zeros = by_sensitivity(sizes, settings.amount, sensitivity(network, settings, seed, loss))
    with _seeded(seed):  # once: with a seed per layer, layers of one size would get the same zeros
        for name, count in zeros.items():
            _zero(_parameters(network, name), settings.method, count)


def sensitivity(
    network: nn.Module, settings: PruneSettings, seed: int, loss: Loss, shares: Sequence[float] = PROBED_SHARES
) -> dict[str, list[tuple[float, float]]]:
    """Return a curve per layer of the scope: the loss with that layer alone pruned to 0 and to each of `shares`."""
    unpruned = loss(network)
    curves = {}
    for name in layers(network, settings.scope):
        curves[name] = [(0.0, unpruned)]
        for share in shares:
            pruned = copy.deepcopy(network)
            with _seeded(seed):
                _zero(_parameters(pruned, name), settings.method, share)
            curves[name].append((share, loss(pruned)))
    return curves


def layers(network: nn.Module, scope: str) -> list[str]:
    """Return the names of the scope's layers in the order of the network's definition.

    Raises:
        UserError: the network has no such scope, layer or block.
    """
    scopes: dict[str, tuple[str, ...]] = network.prune_scopes()  # type: ignore[operator]
    every = [name for name, _ in network.named_modules() if name in scopes["global"]]
    if scope.startswith(MODULE):
        selected = within(every, scope.removeprefix(MODULE))
        if not selected:
            raise UserError(f"prune.scope is {scope!r}; allowed after {MODULE!r}: {', '.join(modules(every))}")
        return selected
    if scope not in scopes:
        allowed = f"{', '.join(scopes)}, or {MODULE!r} and the name of a layer or block"
        raise UserError(f"prune.scope is {scope!r}; allowed for this network: {allowed}")
    return [name for name in every if name in scopes[scope]]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator within the block, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _zero(pool: Pool, method: str, amount: float | int) -> None:
    """Zero a share (float) or a number (int) of the pool's elements."""
    for module, name in pool:  # torch flattens by a view, which channels_last does not allow
        getattr(module, name).data = getattr(module, name).data.contiguous()
    prune.global_unstructured(pool, pruning_method=METHODS[method], amount=amount)
    for module, name in pool:
        prune.remove(module, name)
        getattr(module, name).data.add_(0.0)  # masks turn negative weights into -0.0, which compresses worse


def prunable(network: nn.Module, scope: str) -> Pool:
    """Return the (module, parameter name) pairs of `scope`, in the order of its modules."""
    scopes: dict[str, tuple[str, ...]] = network.prune_scopes()  # type: ignore[operator]
    names = scopes[scope] if scope in scopes else layers(network, scope)
    return [pair for name in names for pair in _parameters(network, name)]


def _parameters(network: nn.Module, layer: str) -> Pool:
    module = network.get_submodule(layer)
    for name, parameter in module.named_parameters(recurse=False):
        if not parameter.is_floating_point():
            raise UserError(f"prune.scope includes {layer}.{name}, which is quantized; prune before quantizing")
    return [(module, name) for name, _ in module.named_parameters(recurse=False)]


def _size(pool: Pool) -> int:
    return sum(getattr(module, name).numel() for module, name in pool)
