"""The paper's U-Net at 64×64: ours against the same network as published, sampling and training.

Published: nn.MultiheadAttention, float32, contiguous, torch's default AdamW. Its sampler runs in eval mode without
gradients, where torch has a faster path for attention. Ours: scaled_dot_product_attention, channels_last, fused AdamW,
in float32 and in what `precision: auto` selects. Both have the same weights; `relative_difference` compares their
outputs. Times are processor seconds of one thread per batch of 8, so that other programs disturb them little.
"""

import functools
import time
from dataclasses import asdict

import torch
from _published import PublishedUNet
from _record import interleaved, record
from torch import nn

from slimdiff.models.registry import build_network
from slimdiff.models.unet import UNetSettings
from slimdiff.runtime.devices import autocast, pick_device, resolve_precision

BATCH, SIZE, THREADS, ROUNDS = 8, 64, 1, 7
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


def predict(network: nn.Module, precision: str) -> torch.Tensor:
    """Return the output of a forward pass as samplers run it."""
    with torch.no_grad(), autocast(CPU, precision):
        output: torch.Tensor = network.eval()(*batch())
    return output.float()


def forward_s(network: nn.Module, precision: str) -> float:
    """Return the processor seconds of one forward pass as samplers run it."""
    start = time.process_time()
    predict(network, precision)
    return time.process_time() - start


def step_s(network: nn.Module, optimizer: torch.optim.Optimizer, precision: str) -> float:
    """Return the processor seconds of one training step."""
    network.train()
    inputs = batch()
    start = time.process_time()
    with autocast(CPU, precision):
        loss = (network(*inputs).float() - inputs[0]).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.process_time() - start


def difference(published: nn.Module, ours: nn.Module, precision: str) -> float:
    """Return the RMS difference of the outputs, relative to the RMS of the published output."""
    expected = predict(published, "float32")
    return float((predict(ours, precision) - expected).norm() / expected.norm())


if __name__ == "__main__":
    pick_device(0, THREADS)
    published, ours = networks()
    precisions = dict.fromkeys(("float32", resolve_precision(CPU, "auto")))
    facts = {name: {"relative_difference": difference(published, ours, name)} for name in precisions}  # warms both up
    theirs = functools.partial(forward_s, published, "float32")
    for precision in precisions:
        measured = interleaved(functools.partial(forward_s, ours, precision), theirs, ROUNDS)
        name = f"U-Net 64×64, forward in {precision}: as published / ours (s per batch of 8)"
        record(name, {**measured, **facts[precision]}, THREADS)

    default = torch.optim.AdamW(published.parameters(), lr=3e-4)
    fused = torch.optim.AdamW(ours.parameters(), lr=3e-4, fused=True)
    theirs = functools.partial(step_s, published, default, "float32")
    theirs()
    for precision in precisions:
        step_s(ours, fused, precision)
        measured = interleaved(functools.partial(step_s, ours, fused, precision), theirs, ROUNDS)
        name = f"U-Net 64×64, training step in {precision}: as published / ours (s per batch of 8)"
        record(name, {**measured, **facts[precision]}, THREADS)
