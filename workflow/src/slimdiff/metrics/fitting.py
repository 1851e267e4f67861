"""Train a small network to classify images, and count how often it is right: what extractors and the judge share."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

MIN_STEPS = 600  # a small data set is gone through more often, until its classifier had this many updates

Logits = Callable[[torch.Tensor], torch.Tensor]  # uint8 (N, C, H, W) → (N, classes)


def fit(
    network: nn.Module,
    logits: Logits,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epochs: int,
    min_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    name: str,
) -> None:
    """Train `network` in place with cross-entropy and Adam, and freeze it.

    Args:
        network: on the device of the images.
        logits: the part of `network` that gives them.
        images, labels: uint8 (N, C, H, W) and int64 (N,).
        epochs: at least; there are more until `min_steps` updates are reached.
        learning_rate: at the start; it falls linearly to nothing.
        seed: of the order of the images.
        name: of the network in what is printed after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    steps_per_epoch = math.ceil(len(images) / batch_size)
    epochs = max(epochs, math.ceil(min_steps / steps_per_epoch))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * steps_per_epoch)

    network.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).to(images.device).split(batch_size):
            loss = F.cross_entropy(logits(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"{name}: epoch {epoch + 1}/{epochs}, loss {total / len(images):.4f}", flush=True)
    network.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(logits: Logits, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> float:
    """The fraction of `images` whose most likely class is `labels`, in [0, 1]; the logits are taken on `device`."""
    right = [
        (logits(batch.to(device)).argmax(1).cpu() == expected).sum().item()
        for batch, expected in zip(images.split(500), labels.split(500), strict=True)
    ]
    return sum(right) / len(images)
