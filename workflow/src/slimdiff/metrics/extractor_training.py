"""Train the extractors of a data set that ships none, and make the shipped ones anew."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from slimdiff.metrics.extractors import Extractor

MIN_STEPS = 600  # a small data set is gone through more often, until its classifier had this many updates


@dataclass(frozen=True)
class ExtractorSettings:
    """How the extractors of one data set are trained."""

    dataset: str
    seeds: tuple[int, ...]  # one extractor each
    epochs: int  # at least; see MIN_STEPS
    batch_size: int
    learning_rate: float  # Adam's at the start; falls linearly to nothing


@dataclass(frozen=True)
class TrainedExtractor:
    """An extractor and how often it is right on the test images."""

    extractor: Extractor
    accuracy: float  # in [0, 1]


def train_extractor(
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    n_classes: int,
    settings: ExtractorSettings,
    seed: int,
    device: torch.device,
) -> TrainedExtractor:
    """One classifier, trained with cross-entropy; the same seed gives the same weights on the same machine.

    Args:
        train, test: images uint8 (N, C, H, W) and labels int64 (N,).
    """
    images, labels = (tensor.to(device) for tensor in train)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        extractor = Extractor(tuple(images.shape[1:]), n_classes).to(device)
    optimizer = torch.optim.Adam(extractor.parameters(), lr=settings.learning_rate)
    steps_per_epoch = math.ceil(len(images) / settings.batch_size)
    epochs = max(settings.epochs, math.ceil(MIN_STEPS / steps_per_epoch))

    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * steps_per_epoch)

    extractor.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).to(device).split(settings.batch_size):
            loss = F.cross_entropy(extractor.logits(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"extractor of seed {seed}: epoch {epoch + 1}/{epochs}, loss {total / len(images):.4f}", flush=True)
    extractor.eval().requires_grad_(False)
    return TrainedExtractor(extractor.cpu(), accuracy(extractor, *test, device=device))


@torch.inference_mode()
def accuracy(extractor: Extractor, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> float:
    """The fraction of `images` whose most likely class is `labels`."""
    extractor.to(device)
    right = [
        (extractor.logits(batch.to(device)).argmax(1).cpu() == expected).sum().item()
        for batch, expected in zip(images.split(500), labels.split(500), strict=True)
    ]
    return sum(right) / len(images)
