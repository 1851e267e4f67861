"""Train the extractors of a data set that ships none, and make the shipped ones anew."""

from dataclasses import dataclass

import torch

from slimdiff.metrics import fitting
from slimdiff.metrics.extractors import Extractor
from slimdiff.metrics.fitting import MIN_STEPS, fit


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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        extractor = Extractor(tuple(images.shape[1:]), n_classes).to(device)
    fit(
        extractor,
        extractor.logits,
        images,
        labels,
        epochs=settings.epochs,
        min_steps=MIN_STEPS,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=seed,
        name=f"extractor of seed {seed}",
    )
    right = accuracy(extractor, *test, device=device)
    return TrainedExtractor(extractor.cpu(), right)


def accuracy(extractor: Extractor, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> float:
    """The fraction of `images` whose most likely class is `labels`."""
    return fitting.accuracy(extractor.to(device).logits, images, labels, device)
