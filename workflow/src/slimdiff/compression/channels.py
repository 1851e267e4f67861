"""Channel pruning: whole channels go, so that the network is really smaller and really faster.

torch-pruning's dependency graph says what goes with a channel (DepGraph, Fang et al. 2023, CVPR): the filter that makes
it, the weights that read it, its place in norms, skips and residuals. What it does not decide is decided here:

- Every layer loses the same share, so that no part of the network becomes a bottleneck.
- Channels that different layers make and a residual joins again (a skip's concatenation) are ranked apart, so that each
  of those layers loses its share. One ranking over both cut one half alone.
- A GroupNorm of several groups loses whole groups: those that stay keep their channels, and so their statistics.
- Every head of an attention loses as many channels, and of queries, keys and values the same ones.
- Widths are multiples of 8 where that moves a width by an eighth at most: bfloat16 and int8 kernels want them.
- A scope of one module means the channels that its convolutions alone make, or its linear layers where no convolution
  is among those that make them. What blocks make together, the residual stream that runs through them, is in no scope
  but the whole.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import nn

from slimdiff.catalog.layers import MODULE, modules, within
from slimdiff.compression.bitsandbytes import is_quantized
from slimdiff.compression.importance import LevelLoss, score_by
from slimdiff.compression.restore import StructuralChange
from slimdiff.compression.shapes import sizes
from slimdiff.errors import UserError

WIDTHS = (8, 4, 2, 1)  # a width is a multiple of the first that divides it and is a quarter of it at most
PRODUCERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # layers whose outputs can go


@dataclass(frozen=True)
class ChannelSettings:
    """Which channels to remove."""

    method: str  # channels
    importance: str  # l1 | taylor | diff-pruning | random
    amount: float  # share of every layer's channels, 0 to below 1
    threshold: float | None = None  # diff-pruning alone: noise levels whose loss is below this share of the largest go
    scope: str = "global"  # or `module:` and the name of a layer or a block


@dataclass(frozen=True)
class Part:
    """Channels that are ranked with each other: indices into those of the layer that makes them."""

    group: Any  # torch_pruning.Group over all channels of that layer
    channels: list[int]
    block: int  # channels that can only go together


def prune_channels(
    network: nn.Module, settings: ChannelSettings, seed: int, losses: Sequence[LevelLoss] | None = None
) -> StructuralChange:
    """Remove the channels that matter least, in place.

    Args:
        network: with a method `channel_plan()`, whose mapping holds `inputs` to trace it with, the layers that `keep`
            all their outputs, and the number of `heads` of each attention, a module with the layers qkv and proj.
        seed: of the importance `random`; the same seed removes the same channels.
        losses: of the importances `taylor` and `diff-pruning`, one for each noise level.

    Returns:
        The structure record for a checkpoint's header: sizes of the layers that are narrower now.

    Raises:
        UserError: settings out of range, a network with grouped convolutions or quantized layers, or a scope that makes
            no channels of its own.
    """
    if settings.method != "channels":
        raise UserError(f"prune.method is {settings.method!r}; allowed here: channels")
    if not 0.0 <= settings.amount < 1.0:
        raise UserError(f"prune.amount is {settings.amount}; allowed: 0 up to, but not including, 1")
    _check_prunable(network)
    before = sizes(network)
    score = score_by(settings.importance, network, settings.threshold, losses)
    plan = network.channel_plan()  # type: ignore[operator]
    device = next(network.parameters()).device
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(network, example_inputs=tuple(tensor.to(device) for tensor in plan["inputs"]))
    attentions = {f"{name}.qkv": heads for name, heads in plan["heads"].items()}
    names = {module: name for name, module in network.named_modules()}

    # Choose everywhere before anything is removed: gradients and the graph are those of the whole network.
    chosen: list[tuple[Any, list[int]]] = []
    heads_chosen: list[tuple[str, list[int]]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kept = [network.get_submodule(name) for name in plan["keep"]]
        every = list(graph.get_all_groups(ignored_layers=kept, root_module_types=list(PRODUCERS)))
        for group in _within(every, names, settings.scope):
            name = names[group[0].dep.target.module]
            scores = score(group).cpu()
            if name in attentions:
                heads_chosen.append((name.removesuffix(".qkv"), _least_of_heads(scores, attentions[name], settings)))
                continue
            gone = [channel for part in _parts(group) for channel in _least(scores, part, settings.amount)]
            chosen.append((group, sorted(gone)))

    for group, gone in chosen:
        if gone:
            root = group[0].dep
            graph.get_pruning_group(root.target.module, root.handler, gone).prune()
    for name, gone in heads_chosen:
        _prune_attention(network.get_submodule(name), gone)
    _fit_norms(network, before)
    network.zero_grad(set_to_none=True)
    after = sizes(network)
    return {"channels": {name: layer for name, layer in after.items() if layer != before[name]}}


def kept_width(width: int, amount: float, block: int = 1) -> int:
    """How many of `width` channels stay: the multiple that is nearest to (1 - amount) · width, one at least.

    Args:
        block: channels that only go together; it divides `width`.
    """
    multiple = math.lcm(block, next(step for step in WIDTHS if step == 1 or (width % step == 0 and 4 * step <= width)))
    unit = multiple if width % multiple == 0 and 4 * multiple <= width else block
    return max(1, math.floor((1.0 - amount) * width / unit + 0.5)) * unit


def _check_prunable(network: nn.Module) -> None:
    if not hasattr(network, "channel_plan"):
        raise UserError(
            f"prune.method is 'channels', and {type(network).__name__} has no channel_plan(); allowed for it: "
            "random, l1"
        )
    for name, module in network.named_modules():
        if is_quantized(module):
            raise UserError(f"prune cannot reach {name}: it is quantized; prune channels before quantizing")
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.groups != 1:
            raise UserError(
                f"prune.method is 'channels', and {name} is a convolution of {module.groups} groups; allowed: a "
                "network whose training has groups: 1"
            )


def _within(groups: Sequence[Any], names: dict[nn.Module, str], scope: str) -> list[Any]:
    """The groups of a scope: all, or those whose channels one module makes."""
    if scope == "global":
        return list(groups)
    makers = [_makers(group, names) for group in groups]
    wanted = scope.removeprefix(MODULE)
    found = [group for group, own in zip(groups, makers, strict=True) if set(within(own, wanted)) == set(own)]
    if not found or not scope.startswith(MODULE):
        alone = dict.fromkeys(block for own in makers for block in modules(own) if len(modules(own)) == 1)
        order = list(names.values())
        allowed = ", ".join(sorted(alone, key=order.index))
        raise UserError(
            f"prune.scope is {scope!r}; allowed for channels: global, or {MODULE!r} and a module that makes channels "
            f"alone: {allowed}"
        )
    return found


def _makers(group: Any, names: dict[nn.Module, str]) -> list[str]:
    """The layers that make a group's channels: its convolutions, or its linear layers where it has none."""
    made = {member.dep.target.module: None for member in group if _makes(member)}
    convolutions = [names[module] for module in made if not isinstance(module, nn.Linear)]
    return convolutions or [names[module] for module in made]


def _makes(member: Any) -> bool:
    """Whether a member of a group is the side of a layer that makes the group's channels."""
    return isinstance(member.dep.target.module, PRODUCERS) and member.dep.handler.__name__ == "prune_out_channels"


def _parts(group: Any) -> Iterator[Part]:
    """The channels of a group by the layers that make them, with the norm groups that they must leave whole."""
    makers: dict[int, set[int]] = {}  # by channel: which members of the group produce it
    blocks: dict[int, int] = {}  # by channel: of the finest norm blocks that hold it, the least common multiple
    for position, member in enumerate(group):
        module, makes = member.dep.target.module, _makes(member)
        width = _outputs(module)
        norm = isinstance(module, nn.GroupNorm) and module.num_groups > 1
        for index, channel in zip(member.idxs, member.root_idxs, strict=True):
            if makes:
                makers.setdefault(channel, set()).add(position)
            if norm:
                block = width // module.num_groups
                if index % block != channel % block:
                    raise UserError(f"a norm of groups of {block} channels begins inside a group of another layer's")
                blocks[channel] = math.lcm(blocks.get(channel, 1), block)
    parts: dict[frozenset[int], list[int]] = {}
    for channel in sorted(makers):
        parts.setdefault(frozenset(makers[channel]), []).append(channel)
    for channels in parts.values():
        yield Part(group, channels, math.lcm(*(blocks.get(channel, 1) for channel in channels)))


def _outputs(module: nn.Module) -> int:
    return int(module.num_channels) if isinstance(module, nn.GroupNorm) else 0


def _least(scores: torch.Tensor, part: Part, amount: float) -> list[int]:
    """The channels of `part` that go: whole blocks, those of the smallest sums of scores."""
    width, block = len(part.channels), part.block
    if width % block:
        raise UserError(f"{width} channels do not make whole norm groups of {block}; prune this network before or not")
    keep = kept_width(width, amount, block) // block
    channels = torch.tensor(part.channels).unflatten(0, (-1, block))
    order = scores[channels].double().sum(1).argsort(stable=True)
    return channels[order[: len(order) - keep]].flatten().tolist()


def _least_of_heads(scores: torch.Tensor, heads: int, settings: ChannelSettings) -> list[int]:
    """Of queries, keys and values alike: the channels that go, as many in each head."""
    each = scores.unflatten(0, (3, heads, -1)).double().sum(0)  # (heads, channels of a head)
    width = each.shape[1]
    keep = kept_width(width, settings.amount)
    order = each.argsort(dim=1, stable=True)[:, : width - keep]
    return sorted((order + torch.arange(heads)[:, None] * width).flatten().tolist())


def _prune_attention(attention: nn.Module, gone: list[int]) -> None:
    if not gone:
        return
    qkv, proj = attention.get_submodule("qkv"), attention.get_submodule("proj")
    width = sizes(attention)["proj"]["in_features"]
    torch_pruning.prune_linear_out_channels(qkv, [third * width + channel for third in range(3) for channel in gone])
    torch_pruning.prune_linear_in_channels(proj, gone)
    # Attention divides by the root of a head's width. Queries that are as much smaller keep what the channels that stay
    # had to say.
    left = width - len(gone)
    for parameter in qkv.parameters():
        parameter.data[:left] *= math.sqrt(left / width)


def _fit_norms(network: nn.Module, before: dict[str, dict[str, int]]) -> None:
    """Norm groups keep their channels, so there are fewer of them; torch-pruning leaves their number as it was."""
    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
            module.num_groups = module.num_channels * module.num_groups // before[name]["num_channels"]
