"""Block pruning: leave out whole residual or attention blocks, those that the loss misses least.

What is left of a block passes on its input (slimdiff.compression.restore.Bypass), so a block can go if its output has
its input's shape. A residual block up, whose input ends with a skip, goes with the skip, as in BK-SDM (Kim et al. 2023,
arXiv 2305.15798).

Each block is left out alone, and its cost is how much the loss rises. The rises are taken to add up, which LAPTOP-Diff
observes (Zhang et al. 2024, arXiv 2404.11098): the blocks with the smallest sum of rises go, of all sets that save the
requested share of the multiply-accumulates.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from slimdiff.compression.arithmetic import count_macs
from slimdiff.compression.linear_quant import computes_in_bits
from slimdiff.compression.restore import StructuralChange, leave_out
from slimdiff.errors import UserError

Modules = Mapping[str, int | None]  # modules of a block, with how many channels of the input each passes on; None: all


@dataclass(frozen=True)
class BlockSettings:
    """Which blocks to leave out: those of an amount, or these."""

    method: str  # blocks
    amount: float | None = None  # share of the network's multiply-accumulates to save at least, 0 to below 1
    names: Sequence[str] | None = None


@dataclass(frozen=True)
class Block:
    """A block that can be left out, alone."""

    name: str
    modules: Modules
    macs: int  # saved without it
    rise: float  # of the loss without it, at least 0


class Sum(NamedTuple):
    """Several blocks."""

    rise: float
    macs: int
    names: tuple[str, ...]


def prune_blocks(
    network: nn.Module, settings: BlockSettings, loss: Callable[[], float] | None = None
) -> StructuralChange:
    """Leave out blocks, in place.

    Args:
        network: has the methods `block_plan()`, blocks by name as Modules, and `channel_plan()`, whose mapping holds
            `inputs` of an evaluation.
        loss: of the network as it is, the same at every call; needed for an amount.

    Returns:
        The structural change for a checkpoint's header.

    Raises:
        UserError: settings out of range, a block that cannot be left out, or an amount that all blocks do not hold.
    """
    if settings.method != "blocks":
        raise UserError(f"prune.method is {settings.method!r}; allowed here: blocks")
    if not hasattr(network, "block_plan"):
        raise UserError(
            f"prune.method is 'blocks', but {type(network).__name__} has no block_plan(); allowed for it: random, l1, "
            "channels"
        )
    if (settings.amount is None) == (settings.names is None):
        raise UserError("prune.method is 'blocks', which needs one of amount and names")
    plan: dict[str, Modules] = network.block_plan()  # type: ignore[operator]
    names = settings.names
    if names is None:
        assert settings.amount is not None
        if not 0.0 <= settings.amount < 1.0:
            raise UserError(f"prune.amount is {settings.amount}; allowed: 0 to below 1")
        if loss is None:
            raise UserError("prune.amount of method blocks needs images; allowed without: names")
        total, blocks = measure(network, plan, loss)
        for block in blocks:
            share = 100 * block.macs / total
            print(f"block {block.name}: {share:.1f} % of the arithmetic, loss + {block.rise:.4g}", flush=True)
        names = cheapest(blocks, settings.amount, total)
        print(f"left out: {', '.join(names) or 'none'}", flush=True)
    removed: dict[str, int | None] = {}
    for name in names:
        if name not in plan:
            raise UserError(f"prune.names has {name!r}; allowed for this network: {', '.join(plan)}")
        if twice := removed.keys() & plan[name].keys():
            raise UserError(f"prune.names has {name!r}, which another one holds ({min(twice)}); name one of them")
        removed |= plan[name]
    quantized = [name for name in removed if any(map(computes_in_bits, network.get_submodule(name).modules()))]
    if quantized:
        raise UserError(f"prune.method is 'blocks', but {quantized[0]} is quantized; prune blocks before quantizing")
    leave_out(network, removed)
    return {"blocks": removed}


def measure(network: nn.Module, plan: Mapping[str, Modules], loss: Callable[[], float]) -> tuple[int, list[Block]]:
    """Return the network's multiply-accumulates for one image, and its blocks with what each costs and saves."""
    device = next(network.parameters()).device
    inputs = [tensor.to(device) for tensor in network.channel_plan()["inputs"]]  # type: ignore[operator]

    def macs() -> int:
        return count_macs(network, lambda network: network(*inputs))

    with torch.no_grad():
        total, whole, blocks = macs(), loss(), []
        for name, modules in plan.items():
            with _without(network, modules):
                rise = loss() - whole
                blocks.append(Block(name, modules, total - macs(), max(0.0, rise) if math.isfinite(rise) else math.inf))
    return total, blocks


def cheapest(blocks: Sequence[Block], amount: float, total: int) -> list[str]:
    """Return the names of the blocks that save `amount` of `total` or more at the smallest sum of rises.

    Of equal sums the one that saves least. Exact, by dynamic programming over the sums that no other one beats.

    Raises:
        UserError: all blocks together save less.
    """
    needed = math.ceil(amount * total)
    best = [Sum(0.0, 0, ())]
    for group in _exclusive(blocks):
        taken = [Sum(s.rise + b.rise, s.macs + b.macs, (*s.names, b.name)) for s in best for b in group]
        best, ordered = [], sorted([*best, *taken], key=lambda s: (s.rise, s.macs))
        for each in ordered:
            if not best or best[-1].macs < min(each.macs, needed):
                best.append(each)
    if best[-1].macs < needed:
        raise UserError(
            f"prune.amount is {amount}; allowed: at most {math.floor(1000 * best[-1].macs / total) / 1000}, the share "
            "of the multiply-accumulates in blocks that can be left out"
        )
    return list(best[-1].names)


def _exclusive(blocks: Sequence[Block]) -> list[list[Block]]:
    """Return the blocks in groups of which one can go: those that share modules are together."""
    groups: list[list[Block]] = []
    for block in blocks:
        sharing = [group for group in groups if any(block.modules.keys() & other.modules.keys() for other in group)]
        groups = [group for group in groups if group not in sharing]
        groups.append([*itertools.chain.from_iterable(sharing), block])
    return groups


@contextlib.contextmanager
def _without(network: nn.Module, modules: Modules) -> Iterator[None]:
    """Leave modules out inside the block."""
    before = {name: network.get_submodule(name) for name in modules}
    leave_out(network, modules)
    try:
        yield
    finally:
        for name, module in before.items():
            network.set_submodule(name, module)
