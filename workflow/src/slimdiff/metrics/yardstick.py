"""What the samples of a data set's models are held against: its images, their reference, every network that scores."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff import files
from slimdiff.errors import UserError
from slimdiff.metrics import classifier, extractors, inception, reference
from slimdiff.metrics.classifier import Classifier
from slimdiff.metrics.extractors import Extractor
from slimdiff.metrics.inception import InceptionReference
from slimdiff.metrics.reference import Reference

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Yardstick:
    """Everything of one data set that a score needs."""

    reference: Reference
    extractors: Sequence[Extractor]  # those of the reference
    judge: Classifier
    judge_sha256: str  # of the judge's file
    train_images: torch.Tensor  # uint8 (N, C, H, W)
    class_shares: torch.Tensor  # float64 (classes,), of the training images
    inception: Sequence[InceptionReference]  # none, or one of each kind

    @property
    def digests(self) -> dict[str, Any]:
        """SHA-256 of every network, for the record of a score."""
        return {
            "extractors_sha256": self.reference.extractors_sha256,
            "classifier_sha256": self.judge_sha256,
            "inception_sha256": {one.kind: one.weights_sha256 for one in self.inception},
        }


def read(
    reference_path: Path,
    extractors_path: Path,
    classifier_path: Path,
    inception_paths: Sequence[Path],
    training: tuple[torch.Tensor, torch.Tensor],
    images_sha256: str,
) -> Yardstick:
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
    headers = {classifier_path: classifier.read_header(classifier_path)}
    headers |= {path: inception.read_header(path) for path in inception_paths}
    for path, header in headers.items():
        if header["dataset"] != known.dataset:
            raise UserError(
                f"{path} is for data set {header['dataset']!r}, the reference for {known.dataset!r}: correct "
                f"config key datasets.{known.dataset}.classifier, or delete the file and run again"
            )
    judge, images, labels = classifier.read(classifier_path), *training
    return Yardstick(
        reference=known,
        extractors=extractors.read(extractors_path),
        judge=judge,
        judge_sha256=files.digest(classifier_path),
        train_images=images,
        class_shares=classifier.shares(labels, judge.n_classes),
        inception=_one_of_each_kind(inception_paths),
    )


def _one_of_each_kind(paths: Sequence[Path]) -> list[InceptionReference]:
    """The references in `paths`; two of a kind would be written into one column."""
    kinds = [inception.read_header(path)["inception"] for path in paths]
    if len(set(kinds)) < len(kinds):
        raise UserError(f"--inception names {len(kinds)} files of kinds {', '.join(kinds)}; allowed: one of each kind")
    return [inception.read(path) for path in paths]
