"""Train the judge of a data set that ships none, and make the shipped ones anew."""

from dataclasses import dataclass

import torch

from slimdiff.metrics import fit
from slimdiff.metrics.classifier import Classifier
from slimdiff.metrics.fit import MIN_STEPS, FitSettings, Labelled


@dataclass(frozen=True)
class ClassifierSettings(FitSettings):
    """How the classifier of one data set is trained."""

    dataset: str
    seed: int


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier and how often it is right on the test images."""

    classifier: Classifier
    accuracy: float  # in [0, 1]


def train_classifier(
    train: Labelled,
    test: Labelled,
    n_classes: int,
    settings: ClassifierSettings,
    device: torch.device,
) -> TrainedClassifier:
    """The judge of a data set, trained with cross-entropy; the same seed gives the same weights on the same machine.

    Args:
        train, test: images uint8 (N, C, H, W) and labels int64 (N,).
    """
    classifier, right = fit.train_network(
        lambda shape: Classifier(shape, n_classes),
        lambda network: network,
        train,
        test,
        settings,
        min_steps=MIN_STEPS,
        seed=settings.seed,
        name="classifier",
        device=device,
    )
    return TrainedClassifier(classifier, right)
