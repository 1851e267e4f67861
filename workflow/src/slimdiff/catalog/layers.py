"""Layers as a config names them: the prunable ones of each family, without building a network, and a kind of linear.

A test compares the names with the networks.
"""

from collections.abc import Mapping
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


def layers_of(family: str, network: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the layers of a network, in its order; None for a plugin's family.

    Args:
        network: the `network` of an entry of `models:`.
    """
    if family == "ncsn":
        return _NCSN.split()
    if family != "ddpm":
        return None
    return [
        f"{block}.{layer}".rstrip(".")
        for block, (inner, level) in _UNET.items()
        for layer in inner
        if level is None or level in network["attention_levels"]
    ]


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
    return [name for name in modules(layers)[:-1] if not name.startswith("dense")]
