"""Train the small image classifiers: extractors and classifiers of data sets that ship none."""

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F

from slimdiff.metrics.networks.base import ImageClassifier

MIN_STEPS = 600  # small data sets get more epochs, until this many updates

Labelled = tuple[torch.Tensor, torch.Tensor]  # images uint8 (N, C, H, W) and labels int64 (N,)
Network = TypeVar("Network", bound=ImageClassifier)


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How to train an image classifier."""

    dataset: str
    epochs: int  # at least; see MIN_STEPS
    batch_size: int
    learning_rate: float  # Adam's initial rate; it decays linearly to 0


@dataclass(frozen=True, kw_only=True)
class ExtractorSettings(FitSettings):
    """How to train the extractors of one data set."""

    seeds: tuple[int, ...]  # one extractor each


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(FitSettings):
    """How to train the classifier of one data set."""

    seed: int


@dataclass(frozen=True)
class Trained(Generic[Network]):
    """A frozen network on the CPU and its accuracy on the test images."""

    network: Network
    accuracy: float  # in [0, 1]


def train_network(
    network_class: type[Network],
    train: Labelled,
    test: Labelled,
    n_classes: int,
    settings: FitSettings,
    *,
    seed: int,
    name: str,
    device: torch.device,
) -> Trained[Network]:
    """Train a network with cross-entropy; the same seed gives the same weights on the same machine.

    Args:
        seed: of the weights and the order of the images.
        name: of the network, in the lines printed after each epoch.
    """
    images, labels = (tensor.to(device) for tensor in train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = network_class(tuple(images.shape[1:]), n_classes).to(device)
    _fit(network, images, labels, settings, seed=seed, name=name)
    result = accuracy(network, *test, device=device)
    return Trained(network.cpu(), result)


@torch.inference_mode()
def accuracy(network: ImageClassifier, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> float:
    """Return the fraction of `images` that `network`, on `device`, classifies as `labels`, in [0, 1]."""
    network.to(device)
    correct = [
        (network.logits(batch.to(device)).argmax(1).cpu() == expected).sum().item()
        for batch, expected in zip(images.split(500), labels.split(500), strict=True)
    ]
    return sum(correct) / len(images)


def _fit(
    network: ImageClassifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: FitSettings,
    *,
    seed: int,
    name: str,
) -> None:
    """Train `network` in place with Adam, and freeze it."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    steps_per_epoch = len(_batches(torch.arange(len(images)), settings.batch_size))
    epochs = max(settings.epochs, math.ceil(MIN_STEPS / steps_per_epoch))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * steps_per_epoch)

    network.train()
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(images), generator=generator).to(images.device)
        for indices in _batches(order, settings.batch_size):
            loss = F.cross_entropy(network.logits(images[indices]), labels[indices])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(indices)
        print(f"{name}: epoch {epoch + 1}/{epochs}, loss {total / len(images):.4f}", flush=True)
    network.eval().requires_grad_(False)


def _batches(order: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Split `order` into batches; a last image alone joins the batch before, as batch norm needs two of 4×4 pixels."""
    batches = list(order.split(size))
    return [*batches[:-2], torch.cat(batches[-2:])] if len(order) > size and len(batches[-1]) == 1 else batches
