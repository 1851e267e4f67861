"""Train the judge of a data set that ships none, and make the shipped ones anew."""

from dataclasses import dataclass

import torch

from slimdiff.metrics import fitting
from slimdiff.metrics.classifier import Classifier
from slimdiff.metrics.fitting import MIN_STEPS, fit


@dataclass(frozen=True)
class ClassifierSettings:
    """How the classifier of one data set is trained."""

    dataset: str
    seed: int
    epochs: int  # at least; see MIN_STEPS
    batch_size: int
    learning_rate: float  # Adam's at the start; falls linearly to nothing


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier and how often it is right on the test images."""

    classifier: Classifier
    accuracy: float  # in [0, 1]


def train_classifier(
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    n_classes: int,
    settings: ClassifierSettings,
    device: torch.device,
) -> TrainedClassifier:
    """The judge of a data set, trained with cross-entropy; the same seed gives the same weights on the same machine.

    Args:
        train, test: images uint8 (N, C, H, W) and labels int64 (N,).
    """
    images, labels = (tensor.to(device) for tensor in train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        classifier = Classifier(tuple(images.shape[1:]), n_classes).to(device)
    fit(
        classifier,
        classifier,
        images,
        labels,
        epochs=settings.epochs,
        min_steps=MIN_STEPS,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        name="classifier",
    )
    right = fitting.accuracy(classifier, *test, device=device)
    return TrainedClassifier(classifier.cpu(), right)
