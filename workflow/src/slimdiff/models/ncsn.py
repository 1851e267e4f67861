"""The paper's NCSN: the score network of Song's tutorial, a small U-Net without padding.

Y. Song, "A tutorial on score-based generative modelling" (2021). The raw output is returned; the preconditioning
(slimdiff.diffusion.denoiser) divides it by the marginal standard deviation. With classes, which the paper's NCSN does
not have, the label's embedding is added to that of the noise level, as in the U-Net.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.catalog.limits import STRIDES, ncsn_sizes, network_faults
from slimdiff.errors import refuse
from slimdiff.models.groups import conv_groups
from slimdiff.models.patches import from_patches, to_patches


@dataclass(frozen=True)
class NCSNSettings:
    """Settings of the network."""

    channels: tuple[int, ...] = (32, 64, 128, 256)  # of the four levels
    embed_dim: int = 256  # width of the noise level's embedding
    fourier_scale: float = 30.0  # standard deviation of the fixed frequencies
    norm_groups: tuple[int, ...] = (4, 32, 32, 32)  # of each level's GroupNorm; the last norm has the second, too
    sigma: float = 25.0  # base of the VE SDE
    classes: int = 0  # 0: unconditional


class GaussianFourierEmbedding(nn.Module):
    """Sines and cosines of the noise level at fixed Gaussian frequencies (Tancik et al. 2020)."""

    def __init__(self, embed_dim: int, scale: float) -> None:
        super().__init__()
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", torch.randn(embed_dim // 2) * scale)

    def forward(self, noise_level: torch.Tensor) -> torch.Tensor:
        """(N,) → (N, embed_dim)."""
        angle = noise_level[:, None] * self.frequencies[None, :] * (2.0 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ScoreNetwork(nn.Module):
    """Four levels down, four up, skips by concatenation, one linear layer of the embedding per level.

    `groups` divides the inner convolutions: a number must divide both channel counts of each; `max` is each layer's
    greatest common divisor. The first and the last layer have 1 group if a number does not divide the image's channels.
    """

    def __init__(
        self, settings: NCSNSettings, image_channels: int, image_size: int, groups: int | str = 1, patch: int = 1
    ) -> None:
        super().__init__()
        refuse(network_faults("ncsn", image_size, asdict(settings), patch), "models", "*")
        c1, c2, c3, c4 = settings.channels
        n1, n2, n3, n4 = settings.norm_groups
        embed_dim, self.classes, self.patch = settings.embed_dim, settings.classes, patch
        self.image_shape = (image_channels, image_size, image_size)
        sizes, image_channels = ncsn_sizes(image_size // patch), image_channels * patch**2

        def conv(name: str, c_in: int, c_out: int, level: int) -> nn.Conv2d:
            count = _conv_groups(name, c_in, c_out, groups, image_channels)
            return nn.Conv2d(c_in, c_out, 3, stride=STRIDES[level], bias=False, groups=count)

        def tconv(name: str, c_in: int, c_out: int, level: int, bias: bool = False) -> nn.ConvTranspose2d:
            count = _conv_groups(name, c_in, c_out, groups, image_channels)
            extra = sizes[level] - ((sizes[level + 1] - 1) * STRIDES[level] + 3)
            return nn.ConvTranspose2d(
                c_in, c_out, 3, stride=STRIDES[level], bias=bias, groups=count, output_padding=extra
            )

        self.fourier = GaussianFourierEmbedding(embed_dim, settings.fourier_scale)
        self.embed = nn.Linear(embed_dim, embed_dim)
        self.conv1 = conv("conv1", image_channels, c1, 0)
        self.dense1 = nn.Linear(embed_dim, c1)
        self.norm1 = nn.GroupNorm(n1, c1)
        self.conv2 = conv("conv2", c1, c2, 1)
        self.dense2 = nn.Linear(embed_dim, c2)
        self.norm2 = nn.GroupNorm(n2, c2)
        self.conv3 = conv("conv3", c2, c3, 2)
        self.dense3 = nn.Linear(embed_dim, c3)
        self.norm3 = nn.GroupNorm(n3, c3)
        self.conv4 = conv("conv4", c3, c4, 3)
        self.dense4 = nn.Linear(embed_dim, c4)
        self.norm4 = nn.GroupNorm(n4, c4)
        self.tconv4 = tconv("tconv4", c4, c3, 3)
        self.dense5 = nn.Linear(embed_dim, c3)
        self.tnorm4 = nn.GroupNorm(n3, c3)
        self.tconv3 = tconv("tconv3", 2 * c3, c2, 2)
        self.dense6 = nn.Linear(embed_dim, c2)
        self.tnorm3 = nn.GroupNorm(n2, c2)
        self.tconv2 = tconv("tconv2", 2 * c2, c1, 1)
        self.dense7 = nn.Linear(embed_dim, c1)
        self.tnorm2 = nn.GroupNorm(n2, c1)  # 32 groups of one channel in the tutorial
        self.tconv1 = tconv("tconv1", 2 * c1, image_channels, 0, bias=True)
        if settings.classes:
            self.label = nn.Embedding(settings.classes, embed_dim)

    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """x (N, C, S, S), noise_level (N,), labels int64 (N,) with -1 for no class → (N, C, S, S)."""
        embedding = F.silu(self.embed(self._features(noise_level, labels)))

        def level(h: torch.Tensor, dense: nn.Module, norm: nn.Module) -> torch.Tensor:
            return F.silu(norm(h + dense(embedding)[:, :, None, None]))

        h1 = level(self.conv1(to_patches(x, self.patch)), self.dense1, self.norm1)
        h2 = level(self.conv2(h1), self.dense2, self.norm2)
        h3 = level(self.conv3(h2), self.dense3, self.norm3)
        h4 = level(self.conv4(h3), self.dense4, self.norm4)
        h = level(self.tconv4(h4), self.dense5, self.tnorm4)
        h = level(self.tconv3(torch.cat([h, h3], dim=1)), self.dense6, self.tnorm3)
        h = level(self.tconv2(torch.cat([h, h2], dim=1)), self.dense7, self.tnorm2)
        return from_patches(self.tconv1(torch.cat([h, h1], dim=1)), self.patch)

    def _features(self, noise_level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Return (N, embed_dim): the noise level's Fourier features, plus the label's embedding if there is a label."""
        features: torch.Tensor = self.fourier(noise_level)
        if labels is None or not self.classes:
            return features
        return features + self.label(labels.clamp_min(0)) * (labels >= 0)[:, None]

    def prune_scopes(self) -> dict[str, tuple[str, ...]]:
        """Return the module names of each pruning scope, as the paper lists them (§4.2.2).

        Scopes hold weights and biases; no scope holds the embedding or the norms.
        """
        middle = ("conv3", "dense3", "conv4", "dense4", "tconv4", "dense5", "tconv3")
        extremes = ("conv1", "dense1", "conv2", "dense2", "dense6", "tconv2", "dense7", "tconv1")
        return {"global": middle + extremes, "middle": middle, "extremes": extremes}

    def channel_plan(self) -> dict[str, Any]:
        """Return what channel pruning needs: `inputs` for tracing, layers that `keep` all outputs, and the `heads` of
        each attention module."""
        return {"inputs": (torch.zeros(1, *self.image_shape), torch.zeros(1)), "keep": ("tconv1",), "heads": {}}

    def feature_modules(self) -> tuple[str, ...]:
        """Return the names of the modules whose outputs distillation compares: the norm of each level."""
        return ("norm1", "norm2", "norm3", "norm4", "tnorm4", "tnorm3", "tnorm2")


def _conv_groups(name: str, c_in: int, c_out: int, groups: int | str, image_channels: int) -> int:
    """Return the groups of a layer: 1 for the first and the last if `groups` does not divide the image's channels."""
    outer = name in ("conv1", "tconv1") and groups != "max" and image_channels % int(groups) != 0
    return 1 if outer else conv_groups(c_in, c_out, groups)
