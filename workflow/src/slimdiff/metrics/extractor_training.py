"""Train the extractors of a data set that ships none, and make the shipped ones anew."""

from dataclasses import dataclass

import torch

from slimdiff.metrics import fit
from slimdiff.metrics.extractors import Extractor
from slimdiff.metrics.fit import MIN_STEPS, FitSettings, Labelled


@dataclass(frozen=True)
class ExtractorSettings(FitSettings):
    """How the extractors of one data set are trained."""

    dataset: str
    seeds: tuple[int, ...]  # one extractor each


@dataclass(frozen=True)
class TrainedExtractor:
    """An extractor and how often it is right on the test images."""

    extractor: Extractor
    accuracy: float  # in [0, 1]


def train_extractor(
    train: Labelled,
    test: Labelled,
    n_classes: int,
    settings: ExtractorSettings,
    seed: int,
    device: torch.device,
) -> TrainedExtractor:
    """One classifier, trained with cross-entropy; the same seed gives the same weights on the same machine.

    Args:
        train, test: images uint8 (N, C, H, W) and labels int64 (N,).
    """
    extractor, right = fit.train_network(
        lambda shape: Extractor(shape, n_classes),
        lambda network: network.logits,
        train,
        test,
        settings,
        min_steps=MIN_STEPS,
        seed=seed,
        name=f"extractor of seed {seed}",
        device=device,
    )
    return TrainedExtractor(extractor, right)


def accuracy(extractor: Extractor, images: torch.Tensor, labels: torch.Tensor, device: torch.device) -> float:
    """The fraction of `images` whose most likely class is `labels`."""
    return fit.accuracy(extractor.to(device).logits, images, labels, device)
