"""Channel pruning: remove whole channels, which makes the network smaller and faster.

torch-pruning's dependency graph finds what depends on a channel (DepGraph, Fang et al. 2023, CVPR): the filter that
produces it, the weights that read it, its entries in norms, skips and residuals. This module decides the rest:

- Every layer loses the same share, so that no part of the network becomes a bottleneck.
- Channels of different layers that a concatenated skip joins are ranked per layer, so that each layer loses its share.
  A joint ranking removed channels of one layer alone.
- A GroupNorm of several groups loses whole groups, so the remaining groups keep their statistics. Where a group spans
  two layers, as in a UNet2DModel, every group loses the same share of its channels instead (`even_norms`).
- Every attention head loses the same number of channels, and queries, keys and values lose the same ones.
- With the mode `uniform` what is left is the same network with other widths, one for each level: a UNet2DModel that
  diffusers loads. Its embedding of noise levels gets as many inputs as the first level has channels.
- Other widths are multiples of 8 if that changes a width by an eighth at most: bfloat16 and int8 kernels prefer them.
- A scope of one module covers the channels that its convolutions alone produce, or its linear layers if no convolution
  produces them. Channels that several blocks produce, the residual stream, are in the scope `global` alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn

from slimdiff.catalog.layers import MODULE, modules, within
from slimdiff.compression.importance import LevelLoss, score_by
from slimdiff.compression.linear_quant import computes_in_bits
from slimdiff.compression.restore import Bypass, StructuralChange, sizes
from slimdiff.errors import UserError

ROUNDING = 1e-6  # of an amount in decimals, such as 0.333333
WIDTHS = (8, 4, 2, 1)  # a new width is a multiple of the first that divides the old and is at most a quarter of it
QUERIES = ("qkv", "to_q", "to_k", "to_v")  # layers of an attention whose outputs are removed alike
PRODUCERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # layers whose outputs can be removed


@dataclass(frozen=True)
class ChannelSettings:
    """Which channels to remove."""

    method: str  # channels
    importance: str  # l1 | taylor | diff-pruning | random
    amount: float  # share of every layer's channels, 0 to below 1
    threshold: float | None = None  # diff-pruning: ignore noise levels with a loss below this share of the largest
    scope: str = "global"  # or `module:NAME` of a layer or block
    mode: str = "layers"  # each layer to about the amount; uniform: every level to exactly the amount


@dataclass(frozen=True)
class Part:
    """Channels that are ranked together, as indices into the outputs of the layer that produces them."""

    group: Any  # torch_pruning.Group over all channels of that layer
    channels: list[int]
    block: int  # channels that can only be removed together; if `even`, number of norm groups
    even: bool = False  # whether every norm group loses the same number of channels


def prune_channels(
    network: nn.Module, settings: ChannelSettings, seed: int, losses: Sequence[LevelLoss] | None = None
) -> StructuralChange:
    """Remove the least important channels, in place.

    Args:
        network: has a method `channel_plan()`. Its mapping holds `inputs` for tracing, the layers that `keep` all their
            outputs, and the number of `heads` of each attention, a module with the layers qkv and proj, or to_q, to_k
            and to_v. With `even_norms`, a GroupNorm keeps the number of its groups. `scale_shift` names the layers that
            give each channel of a convolution a scale, then each a shift.
        seed: of the importance `random`; the same seed removes the same channels.
        losses: for the importances `taylor` and `diff-pruning`, one per noise level.

    Returns:
        The structural change for a checkpoint's header: the sizes of all narrower layers.

    Raises:
        UserError: settings out of range, grouped convolutions, quantized layers, or a scope without own channels.
    """
    if settings.method != "channels":
        raise UserError(f"prune.method is {settings.method!r}; allowed here: channels")
    if not 0.0 <= settings.amount < 1.0:
        raise UserError(f"prune.amount is {settings.amount}; allowed: 0 to below 1")
    if settings.mode == "uniform" and not hasattr(network, "narrow_waves"):
        raise UserError(f"prune.mode is 'uniform'; allowed for {type(network).__name__}: layers; leave it out")
    _check_prunable(network)
    before = sizes(network)
    score = score_by(settings.importance, network, settings.threshold, losses)
    plan = network.channel_plan()  # type: ignore[operator]
    device = next(network.parameters()).device
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(network, example_inputs=tuple(tensor.to(device) for tensor in plan["inputs"]))
    attentions = {f"{name}.{layer}": heads for name, heads in plan["heads"].items() for layer in QUERIES}
    names = {module: name for name, module in network.named_modules()}

    # Choose before removing anything: gradients and the graph are those of the whole network.
    chosen: list[tuple[Any, list[int]]] = []
    heads_chosen: list[tuple[str, list[int]]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kept = [network.get_submodule(name) for name in plan["keep"]]
        groups = list(graph.get_all_groups(ignored_layers=kept, root_module_types=list(PRODUCERS)))
        for group in _within(groups, names, settings.scope):
            name = names[group[0].dep.target.module]
            scores = score(group).cpu()
            if name in attentions:
                joint = name.endswith(".qkv")
                pruned = _smallest_of_heads(scores, attentions[name], settings, 3 if joint else 1)
                heads_chosen.append((name.rpartition(".")[0], pruned))
                if joint:  # has no group with the layer that reads it
                    continue
            else:
                parts = list(_parts(group, plan.get("even_norms", False)))
                half = len(scores) // 2 if name in plan.get("scale_shift", ()) else 0
                if half:  # the channels are in the group once, at the shifts
                    scores = scores.unflatten(0, (2, half)).sum(0).repeat(2)
                    parts = [part for part in parts if part.channels[0] >= half]
                pruned = [channel for part in parts for channel in _smallest(scores, part, settings)]
                pruned += [channel - half for channel in pruned] if half else []
            chosen.append((group, sorted(pruned)))

    for group, pruned in chosen:
        if pruned:
            root = group[0].dep
            graph.get_pruning_group(root.target.module, root.handler, pruned).prune()
    for name, pruned in heads_chosen:
        if not pruned:
            continue
        attention = network.get_submodule(name)
        if hasattr(attention, "qkv"):
            _narrow_joint(attention, pruned)
        _scale_queries(attention, len(pruned))
    if not plan.get("even_norms", False):
        _fit_norms(network, before)
    waves = {}
    if settings.mode == "uniform":
        waves = {"waves": sizes(network)["conv_in"]["out_channels"]}
        network.narrow_waves(waves["waves"])  # type: ignore[operator]
    network.zero_grad(set_to_none=True)
    after = sizes(network)
    return {"channels": {name: layer for name, layer in after.items() if layer != before.get(name)}, **waves}


def kept_width(width: int, amount: float, block: int = 1) -> int:
    """Return how many of `width` channels remain: the multiple nearest to (1 - amount) · width, at least one unit.

    Args:
        block: channels that can only be removed together; it divides `width`.
    """
    multiple = math.lcm(block, next(step for step in WIDTHS if step == 1 or (width % step == 0 and 4 * step <= width)))
    unit = multiple if width % multiple == 0 and 4 * multiple <= width else block
    return max(1, math.floor((1.0 - amount) * width / unit + 0.5)) * unit


def uniform_width(width: int, amount: float, block: int = 1) -> int:
    """Return how many of `width` channels remain in the mode `uniform`: exactly (1 - amount) · width.

    Args:
        block: what the number must be a multiple of, a divisor of `width`.

    Raises:
        UserError: that is no multiple of `block`, or 0.
    """
    keep = round((1.0 - amount) * width)
    if keep < 1 or keep % block or abs(keep - (1.0 - amount) * width) > ROUNDING * width:
        raise UserError(
            f"prune.amount is {amount}; allowed in mode uniform for {width} channels in units of {block}: multiples of "
            f"{block / width:g} below 1"
        )
    return keep


def _check_prunable(network: nn.Module) -> None:
    if not hasattr(network, "channel_plan"):
        raise UserError(
            f"prune.method is 'channels', but {type(network).__name__} has no channel_plan(); allowed for it: "
            "random, l1"
        )
    for name, module in network.named_modules():
        if computes_in_bits(module):
            raise UserError(f"prune.method is 'channels', but {name} is quantized; prune channels before quantizing")
        if isinstance(module, Bypass) and module.channels is not None:
            raise UserError(
                f"prune.method is 'channels', but {name} was left out together with a skip; prune channels before "
                "blocks"
            )
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.groups != 1:
            raise UserError(
                f"prune.method is 'channels', but {name} is a convolution of {module.groups} groups; allowed: a "
                "network whose training has groups: 1"
            )


def _within(groups: Sequence[Any], names: dict[nn.Module, str], scope: str) -> list[Any]:
    """Return the groups of a scope: all, or those whose channels one module produces."""
    if scope == "global":
        return list(groups)
    makers = [_makers(group, names) for group in groups]
    module = scope.removeprefix(MODULE)
    selected = [group for group, own in zip(groups, makers, strict=True) if set(within(own, module)) == set(own)]
    if not selected or not scope.startswith(MODULE):
        alone = dict.fromkeys(block for own in makers for block in modules(own) if len(modules(own)) == 1)
        order = list(names.values())
        allowed = ", ".join(sorted(alone, key=order.index))
        raise UserError(
            f"prune.scope is {scope!r}; allowed for channels: global, or {MODULE!r} and a module with channels of its "
            f"own: {allowed}"
        )
    return selected


def _makers(group: Any, names: dict[nn.Module, str]) -> list[str]:
    """Return the layers that produce a group's channels: its convolutions, or its linear layers if it has none."""
    producers = {member.dep.target.module: None for member in group if _produces(member)}
    convolutions = [names[module] for module in producers if not isinstance(module, nn.Linear)]
    return convolutions or [names[module] for module in producers]


def _produces(member: Any) -> bool:
    """Whether a member of a group is the output side of a layer."""
    return isinstance(member.dep.target.module, PRODUCERS) and member.dep.handler.__name__ == "prune_out_channels"


def _parts(group: Any, even: bool) -> Iterator[Part]:
    """Yield the channels of a group by the layers that produce them, with the norm groups to keep whole, or `even`."""
    makers: dict[int, set[int]] = {}  # by channel: which members of the group produce it
    blocks: dict[int, int] = {}  # by channel: least common multiple of the sizes, or numbers, of its norms' groups
    for position, member in enumerate(group):
        module, produces = member.dep.target.module, _produces(member)
        width = _outputs(module)
        norm = isinstance(module, nn.GroupNorm) and module.num_groups > 1
        for index, channel in zip(member.idxs, member.root_idxs, strict=True):
            if produces:
                makers.setdefault(channel, set()).add(position)
            if norm:
                block = module.num_groups if even else width // module.num_groups
                if not even and index % block != channel % block:
                    raise UserError(
                        f"prune.method is 'channels', but a norm group of {block} channels spans two layers"
                    )
                blocks[channel] = math.lcm(blocks.get(channel, 1), block)
    parts: dict[frozenset[int], list[int]] = {}
    for channel in sorted(makers):
        parts.setdefault(frozenset(makers[channel]), []).append(channel)
    for channels in parts.values():
        yield Part(group, channels, math.lcm(*(blocks.get(channel, 1) for channel in channels)), even)


def _outputs(module: nn.Module) -> int:
    return int(module.num_channels) if isinstance(module, nn.GroupNorm) else 0


def _smallest(scores: torch.Tensor, part: Part, settings: ChannelSettings) -> list[int]:
    """Return the channels of `part` to remove: the smallest of each norm group, or the blocks of the smallest sums."""
    width, block = len(part.channels), part.block
    if width % block:
        raise UserError(f"prune: {width} channels are not whole norm groups of {block}; prune channels once at most")
    keep = _width_of(settings)(width, settings.amount, block) // block
    if part.even:
        channels = torch.tensor(part.channels).unflatten(0, (block, -1))
        order = scores[channels].argsort(dim=1, stable=True)
        return channels.gather(1, order[:, : channels.shape[1] - keep]).flatten().tolist()
    channels = torch.tensor(part.channels).unflatten(0, (-1, block))
    order = scores[channels].double().sum(1).argsort(stable=True)
    return channels[order[: len(order) - keep]].flatten().tolist()


def _width_of(settings: ChannelSettings) -> Callable[[int, float, int], int]:
    return uniform_width if settings.mode == "uniform" else kept_width


def _smallest_of_heads(scores: torch.Tensor, heads: int, settings: ChannelSettings, thirds: int) -> list[int]:
    """Return the channels to remove from queries, keys and values alike, the same number in each head.

    Args:
        thirds: 3 if one layer gives queries, keys and values, each with its scores; 1 if `scores` are of all three.
    """
    per_head = scores.unflatten(0, (thirds, heads, -1)).double().sum(0)  # (heads, channels of a head)
    width = per_head.shape[1]
    keep = _width_of(settings)(width, settings.amount, 1)
    order = per_head.argsort(dim=1, stable=True)[:, : width - keep]
    return sorted((order + torch.arange(heads)[:, None] * width).flatten().tolist())


def _narrow_joint(attention: nn.Module, pruned: list[int]) -> None:
    """Remove channels of a joint layer of queries, keys and values, and of the layer that reads their mixture."""
    qkv, proj = attention.get_submodule("qkv"), attention.get_submodule("proj")
    width = sizes(attention)["proj"]["in_features"]
    torch_pruning.prune_linear_out_channels(qkv, [third * width + channel for third in range(3) for channel in pruned])
    torch_pruning.prune_linear_in_channels(proj, pruned)


def _scale_queries(attention: nn.Module, removed: int) -> None:
    """Keep the scores of the remaining channels, which attention divides by the root of a head's width."""
    name, thirds = ("qkv", 3) if hasattr(attention, "qkv") else ("to_q", 1)
    left = sizes(attention)[name]["out_features"] // thirds
    for parameter in attention.get_submodule(name).parameters():
        parameter.data[:left] *= math.sqrt(left / (left + removed))


def _fit_norms(network: nn.Module, before: dict[str, dict[str, int]]) -> None:
    """Reduce the number of norm groups, which keep their size; torch-pruning leaves the number unchanged."""
    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
            module.num_groups = module.num_channels * module.num_groups // before[name]["num_channels"]
