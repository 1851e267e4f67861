"""The paper's DDPM: a class-conditional U-Net with attention.

The architecture of dome272's Diffusion-Models-pytorch (`UNet_conditional`) with the paper's 23,335,299 parameters. Its
attention materializes a matrix of all pairs of pixels; scaled_dot_product_attention gives the same result without one.
Queries, keys and values are one linear layer, and a head's width follows from the tensor's shape, so that channel
pruning can trace them.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.catalog.limits import LEVELS_DOWN, network_faults
from slimdiff.errors import UserError, refuse
from slimdiff.models.attention import attention
from slimdiff.models.groups import conv_groups
from slimdiff.models.patches import from_patches, to_patches

WAVELENGTHS = 10_000.0  # of the embedding, from 2π to this many times 2π
GROUPED = ("bottleneck", "all")


@dataclass(frozen=True)
class UNetSettings:
    """Settings of the network."""

    base: int = 64  # channels at the image's own size; a multiple of `heads`
    embed_dim: int = 256  # width of the embedding of noise level and label
    heads: int = 4  # of every attention
    attention_levels: tuple[int, ...] = (0, 1, 2, 3)  # with attention; images of level l have 1/2^l the size
    classes: int = 10  # 0: unconditional
    grouped: str = (
        "bottleneck"  # convolutions that the training's `groups` divides: bottleneck (as in the paper) or all
    )


class DoubleConv(nn.Module):
    """Two 3×3 convolutions, each with a norm over all channels; `residual` adds the input and applies a GELU."""

    def __init__(self, c_in: int, c_out: int, c_mid: int | None = None, residual: bool = False, groups: int | str = 1):
        super().__init__()
        c_mid = c_mid or c_out
        self.residual = residual
        self.conv1 = nn.Conv2d(c_in, c_mid, 3, padding=1, bias=False, groups=conv_groups(c_in, c_mid, groups))
        self.norm1 = nn.GroupNorm(1, c_mid)
        self.conv2 = nn.Conv2d(c_mid, c_out, 3, padding=1, bias=False, groups=conv_groups(c_mid, c_out, groups))
        self.norm2 = nn.GroupNorm(1, c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x)))))
        return F.gelu(x + h) if self.residual else h


class Down(nn.Module):
    """Halve the image, two double convolutions, add the embedding."""

    def __init__(self, c_in: int, c_out: int, embed_dim: int, groups: int | str) -> None:
        super().__init__()
        self.conv1 = DoubleConv(c_in, c_in, residual=True, groups=groups)
        self.conv2 = DoubleConv(c_in, c_out, groups=groups)
        self.embed = nn.Linear(embed_dim, c_out)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(F.max_pool2d(x, 2))) + self.embed(F.silu(embedding))[:, :, None, None]


class Up(nn.Module):
    """Double the image, join the skip, two double convolutions, add the embedding."""

    def __init__(self, c_in: int, c_out: int, embed_dim: int, groups: int | str) -> None:
        super().__init__()
        self.conv1 = DoubleConv(c_in, c_in, residual=True, groups=groups)
        self.conv2 = DoubleConv(c_in, c_out, c_in // 2, groups=groups)
        self.embed = nn.Linear(embed_dim, c_out)

    def forward(self, x: torch.Tensor, skip: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = self.conv2(self.conv1(torch.cat([skip, x], dim=1)))
        return x + self.embed(F.silu(embedding))[:, :, None, None]


class SelfAttention(nn.Module):
    """Attention between all pixels, then two linear layers, each block with a norm before and a residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.ff_norm = nn.LayerNorm(channels)
        self.ff1 = nn.Linear(channels, channels)
        self.ff2 = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.qkv.weight)  # as torch's MultiheadAttention starts
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)  # (N, H·W, C)
        q, k, v = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v)  # (N, heads, H·W, C / heads)
        tokens = tokens + self.proj(mixed.transpose(1, 2).flatten(2))
        tokens = tokens + self.ff2(F.gelu(self.ff1(self.ff_norm(tokens))))
        return tokens.transpose(1, 2).unflatten(2, size)


class UNet(nn.Module):
    """Three levels down, three double convolutions at the bottom, three levels up.

    `groups` divides the convolutions that `settings.grouped` names.
    """

    def __init__(
        self, settings: UNetSettings, image_channels: int, image_size: int, groups: int | str = 1, patch: int = 1
    ) -> None:
        super().__init__()
        _check(settings, image_size, patch)
        c, dim = settings.base, settings.embed_dim
        self.embed_dim, self.classes, self.patch = dim, settings.classes, patch
        self.image_shape = (image_channels, image_size, image_size)
        outer = groups if settings.grouped == "all" else 1

        def attend(level: int, channels: int) -> nn.Module:
            return SelfAttention(channels, settings.heads) if level in settings.attention_levels else nn.Identity()

        self.inc = DoubleConv(image_channels * patch**2, c)
        self.down1 = Down(c, 2 * c, dim, outer)
        self.attend1 = attend(1, 2 * c)
        self.down2 = Down(2 * c, 4 * c, dim, outer)
        self.attend2 = attend(2, 4 * c)
        self.down3 = Down(4 * c, 4 * c, dim, outer)
        self.attend3 = attend(3, 4 * c)
        self.bottom1 = DoubleConv(4 * c, 8 * c, groups=groups)
        self.bottom2 = DoubleConv(8 * c, 8 * c, groups=groups)
        self.bottom3 = DoubleConv(8 * c, 4 * c, groups=groups)
        self.up1 = Up(8 * c, 2 * c, dim, outer)
        self.attend4 = attend(2, 2 * c)
        self.up2 = Up(4 * c, c, dim, outer)
        self.attend5 = attend(1, c)
        self.up3 = Up(2 * c, c, dim, outer)
        self.attend6 = attend(0, c)
        self.outc = nn.Conv2d(c, image_channels * patch**2, 1)
        if settings.classes:
            self.label = nn.Embedding(settings.classes, dim)

    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """x (N, C, S, S), noise_level (N,), labels int64 (N,) with -1 for none → (N, C, S, S)."""
        embedding = self._embed(noise_level, labels)
        x1 = self.inc(to_patches(x, self.patch))
        x2 = self.attend1(self.down1(x1, embedding))
        x3 = self.attend2(self.down2(x2, embedding))
        x4 = self.attend3(self.down3(x3, embedding))
        x4 = self.bottom3(self.bottom2(self.bottom1(x4)))
        h = self.attend4(self.up1(x4, x3, embedding))
        h = self.attend5(self.up2(h, x2, embedding))
        return self._outermost(h, x1, embedding)

    def outer_level(self) -> nn.Module:
        """Return the module whose first argument is the deep features that DeepCache reuses."""
        return self.up3

    def shallow_pass(
        self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None, features: torch.Tensor
    ) -> torch.Tensor:
        """Evaluate only the outermost level, with the cached argument of `outer_level` as deep features."""
        embedding = self._embed(noise_level, labels)
        return self._outermost(features, self.inc(to_patches(x, self.patch)), embedding)

    def prune_scopes(self) -> dict[str, tuple[str, ...]]:
        """Return the module names of each pruning scope: convolutions and linear layers, with their biases.

        `middle` works on images of a quarter of the size or less, `extremes` is the rest. No scope holds the norms or
        the label's embedding.
        """
        middle: list[str] = []
        extremes: list[str] = []
        for name, module in self.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                inner = name.startswith(("down2.", "attend2.", "down3.", "attend3.", "bottom", "up1.", "attend4."))
                (middle if inner else extremes).append(name)
        return {"global": (*middle, *extremes), "middle": tuple(middle), "extremes": tuple(extremes)}

    def channel_plan(self) -> dict[str, Any]:
        """Return what channel pruning needs: `inputs` for tracing, layers that `keep` all outputs, and the `heads` of
        each attention module.

        The embedding keeps its width, that of its sines and cosines, so labels need not be traced.
        """
        x = torch.zeros(1, *self.image_shape)
        heads = {name: module.heads for name, module in self.named_modules() if isinstance(module, SelfAttention)}
        return {"inputs": (x, torch.zeros(1)), "keep": ("outc",), "heads": heads}

    def block_plan(self) -> dict[str, dict[str, int | None]]:
        """Return the blocks that can be left out, by name: modules whose output has their input's shape.

        None, as the value of each module, means that all channels of its input are passed on. `bottom` is the whole of
        bottom1 to bottom3.
        """
        plan: dict[str, dict[str, int | None]] = {}
        for name, module in self.named_children():
            if isinstance(module, SelfAttention):
                plan[name] = {name: None}
            elif isinstance(module, Down | Up) and isinstance(module.conv1, DoubleConv):
                plan[f"{name}.conv1"] = {f"{name}.conv1": None}
        first, last = self.bottom1, self.bottom3
        if isinstance(first, DoubleConv) and isinstance(last, DoubleConv):
            if isinstance(self.bottom2, DoubleConv):
                plan["bottom2"] = {"bottom2": None}
            if first.conv1.in_channels == last.conv2.out_channels:
                plan["bottom"] = dict.fromkeys(("bottom1", "bottom2", "bottom3"))
        return plan

    def feature_modules(self) -> tuple[str, ...]:
        """Return the names of the modules whose outputs distillation compares: the end of each level."""
        return ("attend1", "attend2", "attend3", "bottom3", "attend4", "attend5", "attend6")

    def _outermost(self, h: torch.Tensor, skip: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        out = self.outc(self.attend6(self.up3(h, skip, embedding)))
        return from_patches(out, self.patch)

    def _embed(self, noise_level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Return (N, embed_dim): sines and cosines of the noise level, plus the label's embedding if there is one."""
        exponent = torch.arange(0, self.embed_dim, 2, device=noise_level.device) / self.embed_dim
        angle = noise_level[:, None] * WAVELENGTHS**-exponent
        embedding = torch.cat([angle.sin(), angle.cos()], dim=-1)
        if labels is None or not self.classes:
            return embedding
        return embedding + self.label(labels.clamp_min(0)) * (labels >= 0)[:, None]


def _check(settings: UNetSettings, image_size: int, patch: int) -> None:
    refuse(network_faults("ddpm", image_size, asdict(settings), patch), "models", "*")
    if settings.grouped not in GROUPED:
        raise UserError(f"models.*.network.grouped is {settings.grouped!r}; allowed: {', '.join(GROUPED)}")
    wrong = set(settings.attention_levels) - set(range(LEVELS_DOWN + 1))
    if wrong:
        raise UserError(f"models.*.network.attention_levels holds {min(wrong)}; allowed: 0 to {LEVELS_DOWN}")
