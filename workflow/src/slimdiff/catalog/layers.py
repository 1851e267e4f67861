"""Layers as a config names them: the prunable ones of each family, without building a network, and a kind of linear.

A test compares the names with the networks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MIXED_LINEAR = "8bit-mixed"  # value of a training's `linear`: float weights that multiply in int8
MODULE = "module:"  # prefix of a scope that names a layer, or a block with all its layers
_NCSN = "conv1 dense1 conv2 dense2 conv3 dense3 conv4 dense4 tconv4 dense5 tconv3 dense6 tconv2 dense7 tconv1"
_DOUBLE = ("conv1", "conv2")
_SCALED = ("conv1.conv1", "conv1.conv2", "conv2.conv1", "conv2.conv2", "embed")
_ATTENTION = ("qkv", "proj", "ff1", "ff2")
_UNET = {  # block → its layers, and the level of its attention
    "inc": (_DOUBLE, None),
    "down1": (_SCALED, None),
    "attend1": (_ATTENTION, 1),
    "down2": (_SCALED, None),
    "attend2": (_ATTENTION, 2),
    "down3": (_SCALED, None),
    "attend3": (_ATTENTION, 3),
    "bottom1": (_DOUBLE, None),
    "bottom2": (_DOUBLE, None),
    "bottom3": (_DOUBLE, None),
    "up1": (_SCALED, None),
    "attend4": (_ATTENTION, 2),
    "up2": (_SCALED, None),
    "attend5": (_ATTENTION, 1),
    "up3": (_SCALED, None),
    "attend6": (_ATTENTION, 0),
    "outc": (("",), None),
}
_QKVO = ("to_q", "to_k", "to_v", "to_out.0")
Layer = tuple[str, int, int, int]  # name, channels in and out (0: those of the image), side of the kernel


def _unet2d(network: Mapping[str, Any]) -> Iterator[Layer]:
    """Yield the layers of a unet2d; all numbers of a linear layer are 0."""
    widths, n = network["block_out_channels"], network["layers_per_block"]

    def attention(block: str, index: int) -> Iterator[Layer]:
        for layer in _QKVO:
            yield f"{block}.attentions.{index}.{layer}", 0, 0, 0

    def resnet(block: str, index: int, c_in: int, width: int) -> Iterator[Layer]:
        name = f"{block}.resnets.{index}"
        yield f"{name}.conv1", c_in, width, 3
        yield f"{name}.time_emb_proj", 0, 0, 0
        yield f"{name}.conv2", width, width, 3
        if c_in != width:
            yield f"{name}.conv_shortcut", c_in, width, 1

    def level(block: str, kind: str, inputs: Sequence[int], width: int, sampler: str) -> Iterator[Layer]:
        for index in range(len(inputs) if kind.startswith("Attn") else 0):
            yield from attention(block, index)
        for index, c_in in enumerate(inputs):
            yield from resnet(block, index, c_in, width)
        if sampler:
            yield f"{block}.{sampler}.0.conv", width, width, 3

    last = len(widths) - 1
    yield "conv_in", 0, widths[0], 3
    for index, (kind, width) in enumerate(zip(network["down_block_types"], widths, strict=True)):
        inputs = [widths[max(index - 1, 0)], *[width] * (n - 1)]
        yield from level(f"down_blocks.{index}", kind, inputs, width, "downsamplers" if index < last else "")
    if network.get("add_attention", True):
        yield from attention("mid_block", 0)
    for index in range(2):
        yield from resnet("mid_block", index, widths[-1], widths[-1])
    below = widths[::-1]
    for index, (kind, width) in enumerate(zip(network["up_block_types"], below, strict=True)):
        # the skips of a level, whose last one comes from the level above
        skips = [*[width] * n, below[min(index + 1, last)]]
        inputs = [skip + (below[max(index - 1, 0)] if place == 0 else width) for place, skip in enumerate(skips)]
        yield from level(f"up_blocks.{index}", kind, inputs, width, "upsamplers" if index < last else "")
    yield "conv_out", widths[0], 0, 3


def unet2d_convolutions(network: Mapping[str, Any]) -> list[Layer]:
    """Return the convolutions of a unet2d."""
    return [layer for layer in _unet2d(network) if layer[3]]


def layers_of(family: str, network: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the layers of a network, in its order; None for a plugin's family.

    Args:
        network: the `network` of an entry of `models:`.
    """
    if family == "ncsn":
        return _NCSN.split()
    if family == "unet2d":
        return [name for name, *_ in _unet2d(network)]
    if family != "ddpm":
        return None
    return [
        f"{block}.{layer}".rstrip(".")
        for block, (inner, level) in _UNET.items()
        for layer in inner
        if level is None or level in network["attention_levels"]
    ]


def blocks_of(family: str, network: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the blocks that can be left out, in the order of `block_plan`; None as for `layers_of`."""
    if family == "ncsn":
        return []
    if family == "ddpm":
        attended = {block for block, (_, level) in _UNET.items() if level in network["attention_levels"]}
        blocks = [f"{block}.conv1" if inner is _SCALED else block for block, (inner, _) in _UNET.items()]
        return [name for name in blocks if name.endswith(".conv1") or name in attended] + ["bottom2", "bottom"]
    if family != "unet2d":
        return None
    found, width = [], 0  # channels of the last block's output
    for name, c_in, c_out, _ in _unet2d(network):
        block, _, layer = name.rpartition(".")
        if layer == "to_q":
            found.append(block)
        elif layer == "conv1":
            if c_out == c_in or (c_out == width and block.startswith("up_blocks.")):
                found.append(block)
            width = c_out
    return found


def within(layers: list[str], module: str) -> list[str]:
    """Return the layers that `module` names: itself, or all layers in it."""
    return [name for name in layers if name == module or name.startswith(f"{module}.")]


def modules(layers: list[str]) -> list[str]:
    """Return the top-level modules of a network, blocks and single layers, in order."""
    return list(dict.fromkeys(name.partition(".")[0] for name in layers))


def channel_modules(family: str, network: Mapping[str, Any]) -> list[str] | None:
    """Return the modules whose own channels can be removed (slimdiff.compression.channels); None as for `layers_of`.

    Leaves out the output layer, and the linear layers of the NCSN, whose outputs are added to a convolution's channels.
    """
    layers = layers_of(family, network)
    if layers is None:
        return None
    if family == "unet2d":  # the first convolution's channels are those of the residual stream
        return [name for name in modules(layers) if not name.startswith("conv_")]
    return [name for name in modules(layers)[:-1] if not name.startswith("dense")]
