"""Everything that scoring the samples of one data set needs: its training images, reference and networks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.catalog.limits import DatasetFacts, scorer_faults
from slimdiff.errors import UserError, refuse
from slimdiff.io import files
from slimdiff.metrics import reference
from slimdiff.metrics.networks import classifier, extractors, inception
from slimdiff.metrics.networks.classifier import Classifier
from slimdiff.metrics.networks.extractors import Extractor
from slimdiff.metrics.networks.inception import InceptionReference
from slimdiff.metrics.reference import Reference

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Foreign:
    """Extractors that another data set made, and the statistics of this one's training images under them."""

    reference: Reference  # without test images
    extractors: Sequence[Extractor]


@dataclass(frozen=True)
class Evaluator:
    """Everything that scoring the samples of one data set needs."""

    reference: Reference
    extractors: Sequence[Extractor]  # that made the reference
    classifier: Classifier
    classifier_sha256: str  # of its file
    train_images: torch.Tensor  # uint8 (N, C, H, W)
    class_shares: torch.Tensor  # float64 (classes,), of the training images
    inception: Sequence[InceptionReference]  # at most one of each kind
    foreign: Foreign | None = None

    @property
    def digests(self) -> dict[str, Any]:
        """SHA-256 of every network, for the score's record."""
        return {
            "extractors_sha256": self.reference.extractors_sha256,
            "foreign_extractors_sha256": self.foreign.reference.extractors_sha256 if self.foreign else None,
            "classifier_sha256": self.classifier_sha256,
            "inception_sha256": {item.kind: item.weights_sha256 for item in self.inception},
        }


def read(
    reference_path: StrPath,
    extractors_path: StrPath,
    classifier_path: StrPath,
    inception_paths: Sequence[StrPath],
    training: tuple[torch.Tensor, torch.Tensor],
    images_sha256: str,
    foreign_paths: tuple[StrPath, StrPath] | None = None,
) -> Evaluator:
    """Return the evaluator that these files define.

    Args:
        training: the data set's training images, uint8 (N, C, H, W), and labels, int64 (N,).
        images_sha256: of the tensors in the file of these images.
        foreign_paths: the reference in the features of another data set's extractors, and these extractors.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    real = _read_reference(reference_path, extractors_path, images_sha256)
    inception_headers = [inception.read_header(path) for path in inception_paths]
    network, images, labels = classifier.read(classifier_path), *training
    class_shares = classifier.shares(labels, network.n_classes)
    _, channels, height, width = images.shape
    facts = DatasetFacts(len(class_shares), shape=(channels, height, width))
    header = classifier.read_header(classifier_path)
    refuse(scorer_faults("classifier", os.fspath(classifier_path), header, real.dataset, facts))
    for path, header in zip(inception_paths, inception_headers, strict=True):
        if header["dataset"] != real.dataset:
            raise UserError(
                f"{path} is for data set {header['dataset']!r}, the reference for {real.dataset!r}: delete the file "
                "and run again"
            )
    kinds = [header["inception"] for header in inception_headers]
    if len(set(kinds)) < len(kinds):  # both would go into one column
        raise UserError(f"--inception names {len(kinds)} files of kinds {', '.join(kinds)}; allowed: one of each kind")
    return Evaluator(
        reference=real,
        extractors=extractors.read(extractors_path),
        classifier=network,
        classifier_sha256=files.digest(classifier_path),
        train_images=images,
        class_shares=class_shares,
        inception=[inception.read(path) for path in inception_paths],
        foreign=foreign_paths
        and Foreign(_read_reference(*foreign_paths, images_sha256), extractors.read(foreign_paths[1])),
    )


def _read_reference(path: StrPath, extractors_path: StrPath, images_sha256: str) -> Reference:
    """Return the reference in `path`, after checking that these extractors and images made it."""
    real, digest = reference.read(path), files.digest(extractors_path)
    if digest != real.extractors_sha256:
        raise UserError(
            f"{path} was made with other extractors (SHA-256 {real.extractors_sha256}) than {extractors_path} "
            f"({digest}): delete the reference and run again"
        )
    if images_sha256 != real.images_sha256:
        raise UserError(
            f"{path} was made from other images (SHA-256 {real.images_sha256}) than the data set's ({images_sha256}): "
            "delete the reference and run again"
        )
    return real
