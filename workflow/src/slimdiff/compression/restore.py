"""Structural changes of a network: record them in a checkpoint's header, and repeat them on a freshly built network.

A network that lost channels is the network of its settings with other sizes in some layers. The checkpoint records
those sizes, so loading needs no pruning tool.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linear_quant import restore_linears
from slimdiff.errors import UserError

# {"channels": {layer: sizes}}, with "waves": width if uniform; {"blocks": {module: channels of its input, None: all}};
# or {"linear": bits, "layers": names}
StructuralChange = dict[str, Any]

# By name, for steps of plugins: (network, record, tensors), restores the recorded structure in place.
RESTORERS: dict[str, Callable[[nn.Module, Any, Mapping[str, torch.Tensor]], None]] = {}


def restore_structure(
    network: nn.Module, structure: Sequence[StructuralChange], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Apply the structural changes of a checkpoint's header to a freshly built network, in place.

    Raises:
        UserError: a change is of a plugin that is not loaded, or does not fit the network.
    """
    for record in structure:
        if "step" in record:
            if record["step"] not in RESTORERS:
                raise UserError(f"the plugin step {record['step']!r} changed this network; load its plugin first")
            RESTORERS[record["step"]](network, record["record"], tensors)
        elif "channels" in record:
            _remove_channels(network, record)
        elif "blocks" in record:
            leave_out(network, record["blocks"])
        else:
            restore_linears(network, record["linear"], record["layers"], tensors)


def restore_shapes(network: nn.Module, structure: Sequence[StructuralChange]) -> None:
    """Remove channels and blocks alone and leave all layers in float, for measures that depend on shapes alone."""
    for record in structure:
        if "channels" in record:
            _remove_channels(network, record)
        elif "blocks" in record:
            leave_out(network, record["blocks"])


class Bypass(nn.Module):
    """What is left of a block that was left out: it passes on the first `channels` of its input; None: all."""

    def __init__(self, channels: int | None) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        """(N, C, S, S) and whatever the block takes → (N, channels, S, S)."""
        return x if self.channels is None else x[:, : self.channels]


def leave_out(network: nn.Module, modules: Mapping[str, int | None]) -> None:
    """Replace modules by a Bypass, in place.

    Args:
        modules: by name, how many channels of its input each passes on; None: all.

    Raises:
        UserError: a module is missing, or a number of channels is none.
    """
    for name, channels in modules.items():
        if channels is not None and not (isinstance(channels, int) and channels > 0):
            raise UserError(f"the checkpoint's structure leaves {channels!r} channels of {name!r}; allowed: 1 or more")
        try:
            network.get_submodule(name)
        except AttributeError:
            raise UserError(f"the checkpoint's structure names the module {name!r}, which the network lacks") from None
        network.set_submodule(name, Bypass(channels))


def _remove_channels(network: nn.Module, record: StructuralChange) -> None:
    """Give layers the sizes of `record`, and a unet2d its layer between waves and embedding."""
    if "waves" in record:
        if not hasattr(network, "project_waves"):
            raise UserError(f"the checkpoint's structure has `waves`, which {type(network).__name__} lacks")
        network.project_waves(record["waves"])  # type: ignore[operator]
    resize(network, record["channels"])


Sizes = dict[str, int]  # a layer's size attributes

# The size attributes of each type of layer.
NAMES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels"),
    nn.ConvTranspose2d: ("in_channels", "out_channels"),
    nn.Linear: ("in_features", "out_features"),
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.LayerNorm: ("normalized_shape",),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}


def sizes(network: nn.Module) -> dict[str, Sizes]:
    """Return the sizes of all layers in NAMES, by the layer's name."""
    return {name: _read(module) for name, module in network.named_modules() if type(module) in NAMES}


def resize(network: nn.Module, new_sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Change the sizes of layers, in place; their parameters are uninitialized, for a state dict to fill.

    Args:
        new_sizes: by layer, as returned by `sizes`; other layers are unchanged.

    Raises:
        UserError: a layer is missing, or its type does not have these sizes.
    """
    for name, layer_sizes in new_sizes.items():
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
    values = {}
    for name in NAMES[type(module)]:
        value = getattr(module, name)
        if isinstance(value, Sequence):
            (value,) = value  # a LayerNorm over the last axis alone
        values[name] = int(value)
    return values


def _empty(old: nn.Parameter, shape: Sequence[int]) -> nn.Parameter:
    """Return an uninitialized parameter like `old` in device, dtype, memory format and requires_grad."""
    new = old.new_empty(tuple(shape))
    # compare strides, as kernels do: with one channel a tensor is contiguous in either format
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
