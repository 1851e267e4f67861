"""What the samples of a data set's models are held against: its images, their reference, every network that scores."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.metrics import classifier, extractors, inception, reference
from slimdiff.metrics.classifier import Classifier
from slimdiff.metrics.extractors import Extractor
from slimdiff.metrics.inception import InceptionReference
from slimdiff.metrics.reference import Reference

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Evaluator:
    """Everything of one data set that a score needs."""

    reference: Reference
    extractors: Sequence[Extractor]  # those of the reference
    classifier: Classifier
    classifier_sha256: str  # of the judge's file
    train_images: torch.Tensor  # uint8 (N, C, H, W)
    class_shares: torch.Tensor  # float64 (classes,), of the training images
    inception: Sequence[InceptionReference]  # none, or one of each kind

    @property
    def digests(self) -> dict[str, Any]:
        """SHA-256 of every network, for the record of a score."""
        return {
            "extractors_sha256": self.reference.extractors_sha256,
            "classifier_sha256": self.classifier_sha256,
            "inception_sha256": {one.kind: one.weights_sha256 for one in self.inception},
        }


def read(
    reference_path: Path,
    extractors_path: Path,
    classifier_path: Path,
    inception_paths: Sequence[Path],
    training: tuple[torch.Tensor, torch.Tensor],
    images_sha256: str,
) -> Evaluator:
    """The yardstick in these files.

    Args:
        training: the images uint8 (N, C, H, W) and labels int64 (N,) of the data set's training part.
        images_sha256: of the tensors in the file that they came from.

    Raises:
        UserError: a file is missing or damaged, or they do not belong together.
    """
    known = reference.read(reference_path)
    digest = files.digest(extractors_path)
    if digest != known.extractors_sha256:
        raise UserError(
            f"{reference_path} was made with other extractors (SHA-256 {known.extractors_sha256}) than "
            f"{extractors_path} ({digest}): delete the reference and run again"
        )
    if images_sha256 != known.images_sha256:
        raise UserError(
            f"{reference_path} was made from other images (SHA-256 {known.images_sha256}) than the data set's "
            f"({images_sha256}): delete the reference and run again"
        )
    inception_headers = [inception.read_header(path) for path in inception_paths]
    headers = [classifier.read_header(classifier_path), *inception_headers]
    for path, header in zip([classifier_path, *inception_paths], headers, strict=True):
        if header["dataset"] != known.dataset:
            raise UserError(
                f"{path} is for data set {header['dataset']!r}, the reference for {known.dataset!r}: correct "
                f"config key datasets.{known.dataset}.classifier, or delete the file and run again"
            )
    kinds = [header["inception"] for header in inception_headers]
    if len(set(kinds)) < len(kinds):  # two of a kind would be written into one column
        raise UserError(f"--inception names {len(kinds)} files of kinds {', '.join(kinds)}; allowed: one of each kind")
    network, images, labels = classifier.read(classifier_path), *training
    return Evaluator(
        reference=known,
        extractors=extractors.read(extractors_path),
        classifier=network,
        classifier_sha256=files.digest(classifier_path),
        train_images=images,
        class_shares=classifier.shares(labels, network.n_classes),
        inception=[inception.read(path) for path in inception_paths],
    )
