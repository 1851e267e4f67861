"""The paper's U-Net at 64×64: ours against the same network as published, a forward pass and a training step.

Published: explicit attention weights, float32, contiguous, torch's default AdamW. Ours:
scaled_dot_product_attention, channels_last, fused AdamW, and bfloat16 if the CPU has instructions for it. Both have
the same weights; `relative_difference` compares their outputs. Times are seconds per batch of 8.
"""

import time
from dataclasses import asdict

import torch
from _published import PublishedUNet
from _record import interleaved, record
from torch import nn

from slimdiff.models.registry import build_network
from slimdiff.models.unet import UNetSettings
from slimdiff.runtime.devices import autocast, pick_device, resolve_precision

BATCH, SIZE, THREADS, ROUNDS = 8, 64, 2, 5
CPU = torch.device("cpu")
MODEL = {"family": "ddpm", "image_size": SIZE, "channels": 3, "network": asdict(UNetSettings())}  # the paper's


def networks() -> tuple[nn.Module, nn.Module]:
    """Return the published network and ours, with the same weights."""
    published, ours = PublishedUNet(), build_network(MODEL)
    with torch.no_grad():
        for theirs, own in zip(published.parameters(), ours.parameters(), strict=True):
            own.copy_(theirs)
    return published, ours


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images, steps and labels, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    return images, torch.arange(BATCH) * 120.0, torch.arange(BATCH)


def forward_s(network: nn.Module, precision: str) -> float:
    """Return the seconds of one forward pass."""
    inputs = batch()
    with torch.inference_mode(), autocast(CPU, precision):
        start = time.perf_counter()
        network(*inputs)
        return time.perf_counter() - start


def step_s(network: nn.Module, optimizer: torch.optim.Optimizer, precision: str) -> float:
    """Return the seconds of one training step."""
    inputs = batch()
    start = time.perf_counter()
    with autocast(CPU, precision):
        loss = (network(*inputs).float() - inputs[0]).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def difference(published: nn.Module, ours: nn.Module, precision: str) -> float:
    """Return the RMS difference of the outputs, relative to the RMS of the published output."""
    with torch.inference_mode():
        expected = published(*batch())
        with autocast(CPU, precision):
            actual = ours(*batch()).float()
    return float((actual - expected).norm() / expected.norm())


if __name__ == "__main__":
    pick_device(0, THREADS)
    precision = resolve_precision(CPU, "auto")
    published, ours = networks()
    differences = {name: difference(published, ours, name) for name in dict.fromkeys(("float32", precision))}
    facts = {"precision": precision, "relative_difference": differences}
    forward_s(ours, precision)  # oneDNN selects its kernels at the first call
    measured = interleaved(lambda: forward_s(ours, precision), lambda: forward_s(published, "float32"), ROUNDS)
    record("U-Net 64×64, forward: as published / ours (s per batch of 8)", {**measured, **facts}, THREADS)

    theirs = torch.optim.AdamW(published.parameters(), lr=3e-4)
    own = torch.optim.AdamW(ours.parameters(), lr=3e-4, fused=True)
    step_s(ours, own, precision)
    step_s(published, theirs, "float32")
    measured = interleaved(lambda: step_s(ours, own, precision), lambda: step_s(published, theirs, "float32"), ROUNDS)
    record("U-Net 64×64, training step: as published / ours (s per batch of 8)", {**measured, **facts}, THREADS)
