"""Convert between a data set's images (uint8, original size) and a model's (float in [-1, 1], the model's size)."""

import torch
import torch.nn.functional as F


def to_model(images: torch.Tensor, size: int, channels: int, fit: str = "resize") -> torch.Tensor:
    """Convert images to a model's input.

    Args:
        images: uint8 (N, C, H, W), C = 1 or 3.
        size: height and width of the model's images.
        channels: 1 (luma, ITU-R BT.601) or 3 (gray repeated).
        fit: `resize` scales (bilinear, antialiased); `pad` adds a black border, half on each side.

    Returns:
        float32 (N, channels, size, size) in [-1, 1].

    Raises:
        ValueError: `pad` would have to shrink the images.
    """
    x = _with_channels(images.float() / 127.5 - 1.0, channels)
    height, width = x.shape[-2:]
    if (height, width) == (size, size):
        return x
    if fit == "pad":
        top, left = (size - height) // 2, (size - width) // 2
        if top < 0 or left < 0:
            raise ValueError(f"fit 'pad' cannot shrink {height}×{width} images to {size}×{size}")
        return F.pad(x, (left, size - width - left, top, size - height - top), value=-1.0)
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def to_dataset(x: torch.Tensor, height: int, width: int, channels: int, fit: str = "resize") -> torch.Tensor:
    """Convert a model's images to the data set's size and channels: the inverse of `to_model`.

    Args:
        x: float (N, C, S, S); values outside [-1, 1] are clipped.

    Returns:
        uint8 (N, channels, height, width).
    """
    x = _with_channels(x.float().clamp(-1.0, 1.0), channels)
    size = x.shape[-1]
    if (height, width) != (size, size):
        if fit == "pad":
            top, left = (size - height) // 2, (size - width) // 2
            x = x[..., top : top + height, left : left + width]
        else:
            x = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return ((x.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)


def _with_channels(x: torch.Tensor, channels: int) -> torch.Tensor:
    if x.shape[1] == channels:
        return x
    if channels == 3:
        return x.expand(-1, 3, -1, -1)
    red, green, blue = x.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
