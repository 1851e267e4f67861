"""Widths of layers as plain numbers: read them off a network, and give them to one that was built wider.

A network that lost channels is the network of its settings with other sizes in some layers. So a checkpoint records
those sizes, and loading needs no tool that prunes.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from slimdiff.errors import UserError

Sizes = dict[str, int]  # attributes of a layer that say how wide it is

# What each kind of layer calls its sizes.
NAMES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels"),
    nn.ConvTranspose2d: ("in_channels", "out_channels"),
    nn.Linear: ("in_features", "out_features"),
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.LayerNorm: ("normalized_shape",),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}


def sizes(network: nn.Module) -> dict[str, Sizes]:
    """Sizes of every layer that has some, by the layer's name."""
    return {name: _read(module) for name, module in network.named_modules() if type(module) in NAMES}


def resize(network: nn.Module, wanted: Mapping[str, Mapping[str, int]]) -> None:
    """Give layers other sizes, in place; their parameters are left without values, for a state dict to fill.

    Args:
        wanted: sizes by layer, as `sizes` gives them; layers that are not named stay as they are.

    Raises:
        UserError: a layer is missing, is of a kind without sizes, or calls its sizes otherwise.
    """
    for name, layer_sizes in wanted.items():
        try:
            module = network.get_submodule(name)
        except AttributeError:
            raise UserError(f"the checkpoint's structure names the layer {name!r}, which the network lacks") from None
        if type(module) not in NAMES or set(layer_sizes) != set(NAMES[type(module)]):
            raise UserError(
                f"the checkpoint's structure gives {name!r}, a {type(module).__name__}, the sizes "
                f"{sorted(layer_sizes)}; allowed: {', '.join(NAMES.get(type(module), ('none',)))}"
            )
        for size, value in layer_sizes.items():
            setattr(module, size, (value,) if size == "normalized_shape" else value)
        weight, bias = SHAPES[type(module)](module)
        for parameter, shape in (("weight", weight), ("bias", bias)):
            old = getattr(module, parameter, None)
            if old is not None:
                setattr(module, parameter, _empty(old, shape))


def _read(module: nn.Module) -> Sizes:
    found = {}
    for name in NAMES[type(module)]:
        value = getattr(module, name)
        if isinstance(value, Sequence):
            (value,) = value  # a LayerNorm over the last axis alone
        found[name] = int(value)
    return found


def _empty(old: nn.Parameter, shape: Sequence[int]) -> nn.Parameter:
    """As `old`, of another shape: its device, dtype, memory format and whether it takes a gradient."""
    new = old.new_empty(tuple(shape))
    # by its strides, as kernels choose: with one channel a tensor is contiguous in either format
    if old.dim() == 4 and old.stride() == old.detach().to(memory_format=torch.channels_last).stride():
        new = new.to(memory_format=torch.channels_last)
    return nn.Parameter(new, requires_grad=old.requires_grad)


def _conv(m: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert isinstance(m, nn.Conv2d)
    return (m.out_channels, m.in_channels // m.groups, *m.kernel_size), (m.out_channels,)


def _transposed(m: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert isinstance(m, nn.ConvTranspose2d)
    return (m.in_channels, m.out_channels // m.groups, *m.kernel_size), (m.out_channels,)


def _linear(m: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert isinstance(m, nn.Linear)
    return (m.out_features, m.in_features), (m.out_features,)


def _group_norm(m: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert isinstance(m, nn.GroupNorm)
    return (m.num_channels,), (m.num_channels,)


def _layer_norm(m: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert isinstance(m, nn.LayerNorm)
    return m.normalized_shape, m.normalized_shape


def _embedding(m: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert isinstance(m, nn.Embedding)
    return (m.num_embeddings, m.embedding_dim), ()


# Shapes of weight and bias.
SHAPES: dict[type[nn.Module], Callable[[nn.Module], tuple[tuple[int, ...], tuple[int, ...]]]] = {
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _transposed,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}
