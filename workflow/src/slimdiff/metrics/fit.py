"""Train a small network to classify images, and count how often it is right: what extractors and the judge share."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

MIN_STEPS = 600  # a small data set is gone through more often, until its classifier had this many updates

Logits = Callable[[torch.Tensor], torch.Tensor]  # uint8 (N, C, H, W) → (N, classes)
Labelled = tuple[torch.Tensor, torch.Tensor]  # images uint8 (N, C, H, W) and labels int64 (N,)
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How such a network is trained."""

    epochs: int  # at least; see MIN_STEPS
    batch_size: int
    learning_rate: float  # Adam's at the start; falls linearly to nothing


def train_network(
    build: Callable[[tuple[int, ...]], Network],
    logits_of: Callable[[Network], Logits],
    train: Labelled,
    test: Labelled,
    settings: FitSettings,
    *,
    min_steps: int,
    seed: int,
    name: str,
    device: torch.device,
) -> tuple[Network, float]:
    """A frozen network on the CPU, and how often it is right on the test images, in [0, 1].

    The same seed gives the same weights on the same machine.

    Args:
        build: makes the network for images of shape (C, H, W).
        logits_of: the part of the network that gives them.
    """
    images, labels = (tensor.to(device) for tensor in train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(tuple(images.shape[1:])).to(device)
    fit(network, logits_of(network), images, labels, settings, min_steps=min_steps, seed=seed, name=name)
    right = accuracy(logits_of(network), *test, device=device)
    return network.cpu(), right


def fit(
    network: nn.Module,
    logits: Logits,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: FitSettings,
    *,
    min_steps: int,
    seed: int,
    name: str,
) -> None:
    """Train `network` in place with cross-entropy and Adam, and freeze it.

    Args:
        network: on the device of the images.
        logits: the part of `network` that gives them.
        images, labels: uint8 (N, C, H, W) and int64 (N,).
        min_steps: there are more epochs until so many updates are reached.
        seed: of the order of the images.
        name: of the network in what is printed after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    steps_per_epoch = math.ceil(len(images) / settings.batch_size)
    epochs = max(settings.epochs, math.ceil(min_steps / steps_per_epoch))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * steps_per_epoch)

    network.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).to(images.device).split(settings.batch_size):
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
