"""Noise per image, not per batch: image 17 gets the same draws at any batch size, on any device."""

import hashlib
from collections.abc import Iterable

import torch


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from `parts`, hashed so that neighbouring numbers give unrelated streams."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class ImageNoise:
    """One CPU generator per image, seeded by (seed, index of the image)."""

    def __init__(self, seed: int, indices: Iterable[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(derive_seed(seed, "image", index)) for index in indices]
        self.device = torch.device(device)

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return standard normal noise (images, *shape), the next draw of every image's generator."""
        draws = torch.stack([torch.randn(shape, generator=generator) for generator in self.generators])
        if self.device.type == "cuda":  # pinned, the copy does not wait for the GPU: it computes while the CPU draws
            return draws.pin_memory().to(self.device, non_blocking=True)
        return draws.to(self.device)
