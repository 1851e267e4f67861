"""The paper's U-Net computed as published: nn.MultiheadAttention, contiguous, float32.

The layers and their order are those of slimdiff.models.unet, so that weights carry over by shape and order. What
differs is how they are computed: nn.MultiheadAttention computes its weights, which for 64×64 images are matrices of
4,096 × 4,096 per head, and the embedding is repeated over the pixels before it is added. Outputs in eval mode are those
of dome272's Diffusion-Models-pytorch at be35220, bit for bit (docs/decisions).
"""

import torch
import torch.nn.functional as F
from torch import nn

EMBED_DIM, HEADS = 256, 4


def double_conv(c_in: int, c_out: int, c_mid: int) -> nn.Sequential:
    """Convolution, norm, GELU, convolution, norm."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_mid, 3, padding=1, bias=False),
        nn.GroupNorm(1, c_mid),
        nn.GELU(),
        nn.Conv2d(c_mid, c_out, 3, padding=1, bias=False),
        nn.GroupNorm(1, c_out),
    )


class Level(nn.Module):
    """A residual double convolution, a plain one, and the embedding."""

    def __init__(self, c_in: int, c_out: int, c_mid: int) -> None:
        super().__init__()
        self.first = double_conv(c_in, c_in, c_in)
        self.second = double_conv(c_in, c_out, c_mid)
        self.embed = nn.Sequential(nn.SiLU(), nn.Linear(EMBED_DIM, c_out))

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        x = self.second(F.gelu(x + self.first(x)))
        return x + self.embed(embedding)[:, :, None, None].repeat(1, 1, x.shape[-2], x.shape[-1])


class Attention(nn.Module):
    """Multi-head attention and two linear layers, with residuals."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.norm = nn.LayerNorm([channels])
        self.ff = nn.Sequential(
            nn.LayerNorm([channels]), nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = x.shape
        tokens = x.view(n, channels, height * width).swapaxes(1, 2)
        normed = self.norm(tokens)
        mixed, _ = self.mha(normed, normed, normed)
        mixed = mixed + tokens
        mixed = self.ff(mixed) + mixed
        return mixed.swapaxes(2, 1).view(n, channels, height, width)


class PublishedUNet(nn.Module):
    """23,335,299 parameters for 3 channels and 10 classes."""

    def __init__(self, channels: int = 3, classes: int = 10, c: int = 64) -> None:
        super().__init__()
        self.inc = double_conv(channels, c, c)
        self.down1, self.attend1 = Level(c, 2 * c, 2 * c), Attention(2 * c)
        self.down2, self.attend2 = Level(2 * c, 4 * c, 4 * c), Attention(4 * c)
        self.down3, self.attend3 = Level(4 * c, 4 * c, 4 * c), Attention(4 * c)
        self.bottom = nn.Sequential(
            double_conv(4 * c, 8 * c, 8 * c), double_conv(8 * c, 8 * c, 8 * c), double_conv(8 * c, 4 * c, 4 * c)
        )
        self.up1, self.attend4 = Level(8 * c, 2 * c, 4 * c), Attention(2 * c)
        self.up2, self.attend5 = Level(4 * c, c, 2 * c), Attention(c)
        self.up3, self.attend6 = Level(2 * c, c, c), Attention(c)
        self.outc = nn.Conv2d(c, channels, 1)
        self.label = nn.Embedding(classes, EMBED_DIM)

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """x (N, C, S, S), t (N,), labels (N,) → (N, C, S, S)."""
        frequency = 1.0 / 10_000 ** (torch.arange(0, EMBED_DIM, 2, device=t.device).float() / EMBED_DIM)
        angle = t[:, None].repeat(1, EMBED_DIM // 2) * frequency
        embedding = torch.cat([angle.sin(), angle.cos()], dim=-1) + self.label(labels)

        def up(h: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
            return torch.cat([skip, F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)], dim=1)

        x1 = self.inc(x)
        x2 = self.attend1(self.down1(F.max_pool2d(x1, 2), embedding))
        x3 = self.attend2(self.down2(F.max_pool2d(x2, 2), embedding))
        h = self.attend3(self.down3(F.max_pool2d(x3, 2), embedding))
        h = self.bottom(h)
        h = self.attend4(self.up1(up(h, x3), embedding))
        h = self.attend5(self.up2(up(h, x2), embedding))
        h = self.attend6(self.up3(up(h, x1), embedding))
        return self.outc(h)
