"""Split a network into an embedder of noise level and class, and a body that maps image and embedding to an image.

The embedder computes sines of large angles and looks up classes, a few thousand operations in all. It stays in torch
and float32 for every engine: in bf16 or int8 it would ruin the output (docs/decisions). Both parts consist of the
network's own layers, so their composition is exactly the network.

Networks of other families can define a method `split()` that returns the two parts.
"""

import copy
from typing import cast

import torch
from torch import nn

from slimdiff.compression.linear_quant import computes_in_bits
from slimdiff.errors import UserError
from slimdiff.models.ncsn import ScoreNetwork
from slimdiff.models.unet import UNet


class ScoreEmbedder(nn.Module):
    """Noise level (N,), labels (N,) or None → features (N, embed_dim); the following linear layer is the body's."""

    def __init__(self, network: ScoreNetwork) -> None:
        super().__init__()
        self.fourier, self.classes = network.fourier, network.classes
        if network.classes:
            self.label = network.label

    def forward(self, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Embed like the score network; label -1 means unlabelled."""
        return ScoreNetwork._features(cast(ScoreNetwork, self), noise_level, labels)


class UNetEmbedder(nn.Module):
    """Noise level (N,) and labels (N,) or None → the U-Net's embedding (N, embed_dim)."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.embed_dim, self.classes = network.embed_dim, network.classes
        if network.classes:
            self.label = network.label

    def forward(self, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Embed like the U-Net; label -1 means unlabelled."""
        return UNet._embed(cast(UNet, self), noise_level, labels)


class UNetBody(UNet):
    """A U-Net that takes its embedding instead of the noise level."""

    def _embed(self, noise_level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return noise_level


def split_network(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return (embedder, body): body(x, embedder(noise_level, labels)) is network(x, noise_level, labels), bit for bit.

    Both are copies in evaluation mode and share no parameter; the embedder is float32.

    Raises:
        UserError: the network has layers that only torch can run, or no known split.
    """
    quantized = [name for name, module in network.named_modules() if computes_in_bits(module)]
    if quantized:
        raise UserError(
            f"engine: layer {quantized[0]} multiplies in 8 or 4 bits, which only engine torch in fp32 does: remove the "
            "recipe's engine and precision, or its quantized linears"
        )
    body = copy.deepcopy(network).eval().requires_grad_(False)
    embedder: nn.Module
    split = getattr(body, "split", None)
    if split is not None:
        embedder, body = split()
    elif isinstance(body, ScoreNetwork):
        embedder = ScoreEmbedder(body)
        body.fourier = nn.Identity()  # type: ignore[assignment]
        if body.classes:
            del body.label
            body.classes = 0
    elif isinstance(body, UNet):
        embedder = UNetEmbedder(body)
        body.__class__ = UNetBody
        if body.classes:
            del body.label
            body.classes = 0
    else:
        raise UserError(
            f"engine: {type(network).__name__} has no method split(), which separates what an engine runs from what "
            "stays in float32: write one (docs/engines.md), or remove the recipe's engine and precision"
        )
    return embedder.eval().requires_grad_(False), body
