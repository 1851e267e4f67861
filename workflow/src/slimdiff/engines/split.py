"""A network in two parts: what makes a vector of noise level and class, and what turns an image and it into an image.

The first part holds sines of large angles and a table of classes, a few thousand operations in all. It stays in torch
and float32 whatever runs the rest: in bf16 or int8 it is what ruins the output (docs/decisions). Both parts are made
of the network's own layers, so that their composition is the network, exactly.

A network of another family takes part by a method `split()` that returns the two parts.
"""

import copy
from typing import cast

import torch
from torch import nn

from slimdiff.compression.linear_quant import is_quantized
from slimdiff.errors import UserError
from slimdiff.models.ncsn import ScoreNetwork
from slimdiff.models.unet import UNet


class ScoreEmbedder(nn.Module):
    """Noise level (N,), labels (N,) or None → features (N, embed_dim); the linear layer after belongs to the body."""

    def __init__(self, network: ScoreNetwork) -> None:
        super().__init__()
        self.fourier, self.classes = network.fourier, network.classes
        if network.classes:
            self.label = network.label

    def forward(self, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """As the score network does it: -1 in `labels` is no class."""
        return ScoreNetwork._features(cast(ScoreNetwork, self), noise_level, labels)


class UNetEmbedder(nn.Module):
    """Noise level (N,) and labels (N,) or None → the U-Net's embedding (N, embed_dim)."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.embed_dim, self.classes = network.embed_dim, network.classes
        if network.classes:
            self.label = network.label

    def forward(self, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """As the U-Net does it: -1 in `labels` is no class."""
        return UNet._embed(cast(UNet, self), noise_level, labels)


class UNetBody(UNet):
    """A U-Net that is handed its embedding in the place of the noise level."""

    def _embed(self, noise_level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return noise_level


def split_network(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(embedder, body): body(x, embedder(noise_level, labels)) is network(x, noise_level, labels), bit for bit.

    The parts are copies in evaluation mode; the embedder is float32, the body has no part of it.

    Raises:
        UserError: the network has layers that only torch can run, or nobody knows how to split it.
    """
    quantized = [name for name, module in network.named_modules() if is_quantized(module)]
    if quantized:
        raise UserError(
            f"engine: layer {quantized[0]} is quantized by bitsandbytes, which only engine torch in fp32 runs; leave "
            "the recipe's engine and precision out, or its quantized linears"
        )
    whole = copy.deepcopy(network).eval().requires_grad_(False)
    own = getattr(whole, "split", None)
    if own is not None:
        embedder, body = own()
    elif isinstance(whole, ScoreNetwork):
        embedder, body = ScoreEmbedder(whole), whole
        whole.fourier = nn.Identity()  # type: ignore[assignment]
        if whole.classes:
            del whole.label
            whole.classes = 0
    elif isinstance(whole, UNet):
        embedder, body = UNetEmbedder(whole), whole
        whole.__class__ = UNetBody
        if whole.classes:
            del whole.label
            whole.classes = 0
    else:
        raise UserError(
            f"engine: {type(network).__name__} has no method split(), which says what an engine runs and what stays in "
            "float32; write one (docs/engines.md), or leave the recipe's engine and precision out"
        )
    return embedder.eval().requires_grad_(False), body
