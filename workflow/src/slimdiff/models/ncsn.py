"""The score network of Song's tutorial on score-based models: a small U-Net without padding, told the noise level.

Y. Song, "A tutorial on score-based generative modelling" (2021); the report's NCSN. The raw output is returned: to
divide it by the marginal standard deviation is the business of the preconditioning (slimdiff.diffusion.denoiser).
Told classes, which the report's is not, it adds a vector for each to the noise level's features, as the U-Net does.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.errors import UserError
from slimdiff.models.groups import split

STRIDES = (1, 2, 2, 2)


@dataclass(frozen=True)
class NCSNSettings:
    """The network's free choices."""

    channels: tuple[int, ...] = (32, 64, 128, 256)  # of the four levels
    embed_dim: int = 256  # width of the noise level's embedding
    fourier_scale: float = 30.0  # standard deviation of the fixed frequencies
    norm_groups: tuple[int, ...] = (
        4,
        32,
        32,
        32,
    )  # groups of each level's GroupNorm; the second is also the last norm's
    sigma: float = 25.0  # base of the VE SDE
    classes: int = 0  # that it can be told; 0: it is told none


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

    `groups` splits the inner convolutions: a number must divide both channel counts of each of them; `max` takes
    each layer's greatest common divisor. The first and the last layer, which touch the image's channels, take the
    same count where it divides both and stay whole where it does not.
    """

    def __init__(self, settings: NCSNSettings, image_channels: int, image_size: int, groups: int | str = 1) -> None:
        super().__init__()
        c1, c2, c3, c4 = settings.channels
        n1, n2, n3, n4 = settings.norm_groups
        _check_norms(((n1, c1), (n2, c2), (n3, c3), (n4, c4), (n2, c1)))
        embed_dim, self.image_size, self.classes = settings.embed_dim, image_size, settings.classes
        sizes = _level_sizes(image_size)

        def conv(name: str, c_in: int, c_out: int, level: int) -> nn.Conv2d:
            split = _split(name, c_in, c_out, groups, image_channels)
            return nn.Conv2d(c_in, c_out, 3, stride=STRIDES[level], bias=False, groups=split)

        def tconv(name: str, c_in: int, c_out: int, level: int, bias: bool = False) -> nn.ConvTranspose2d:
            split = _split(name, c_in, c_out, groups, image_channels)
            extra = sizes[level] - ((sizes[level + 1] - 1) * STRIDES[level] + 3)
            return nn.ConvTranspose2d(
                c_in, c_out, 3, stride=STRIDES[level], bias=bias, groups=split, output_padding=extra
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

        h1 = level(self.conv1(x), self.dense1, self.norm1)
        h2 = level(self.conv2(h1), self.dense2, self.norm2)
        h3 = level(self.conv3(h2), self.dense3, self.norm3)
        h4 = level(self.conv4(h3), self.dense4, self.norm4)
        h = level(self.tconv4(h4), self.dense5, self.tnorm4)
        h = level(self.tconv3(torch.cat([h, h3], dim=1)), self.dense6, self.tnorm3)
        h = level(self.tconv2(torch.cat([h, h2], dim=1)), self.dense7, self.tnorm2)
        return self.tconv1(torch.cat([h, h1], dim=1))

    def _features(self, noise_level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """(N, embed_dim): sines and cosines of the noise level, and the class's vector where there is a class."""
        features: torch.Tensor = self.fourier(noise_level)
        if labels is None or not self.classes:
            return features
        return features + self.label(labels.clamp_min(0)) * (labels >= 0)[:, None]

    def prune_scopes(self) -> dict[str, tuple[str, ...]]:
        """Module names that each pruning scope covers: the report's split (its list in §4.2.2).

        All their weights and biases count; the embedding's layers and the norms are in none.
        """
        middle = ("conv3", "dense3", "conv4", "dense4", "tconv4", "dense5", "tconv3")
        extremes = ("conv1", "dense1", "conv2", "dense2", "dense6", "tconv2", "dense7", "tconv1")
        return {"global": middle + extremes, "middle": middle, "extremes": extremes}

    def channel_plan(self) -> dict[str, Any]:
        """What a tool that removes channels must know: `inputs` to trace the network with, the layers that `keep` all
        their outputs, and the `heads` of every attention by the name of its module."""
        x = torch.zeros(1, self.conv1.in_channels, self.image_size, self.image_size)
        return {"inputs": (x, torch.zeros(1)), "keep": ("tconv1",), "heads": {}}


def _level_sizes(image_size: int) -> list[int]:
    """Height of the image and of each level's activations."""
    sizes = [image_size]
    for stride in STRIDES:
        sizes.append((sizes[-1] - 3) // stride + 1)
    if sizes[-1] < 1:
        raise UserError(f"models.*.image_size is {image_size}: four unpadded 3×3 convolutions need at least 17")
    return sizes


def _check_norms(pairs: tuple[tuple[int, int], ...]) -> None:
    for groups, channels in pairs:
        if channels % groups:
            raise UserError(
                f"models.*.network.norm_groups holds {groups}: it must divide {channels} channels (the second entry "
                "also normalizes the last level, which has the first level's channels)"
            )


def _split(name: str, c_in: int, c_out: int, groups: int | str, image_channels: int) -> int:
    """Groups of the layer; the first and the last stay whole where the count does not divide the image's channels."""
    outer = name in ("conv1", "tconv1") and groups != "max" and image_channels % int(groups) != 0
    return 1 if outer else split(c_in, c_out, groups)
