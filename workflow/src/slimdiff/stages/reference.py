"""Stage reference: statistics of a data set's training images in the features of its extractors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.catalog.limits import SCORERS, DatasetFacts, scorer_faults
from slimdiff.data import image_set
from slimdiff.errors import UserError, refuse
from slimdiff.io import files
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.settings import build
from slimdiff.metrics import reference
from slimdiff.metrics.composition import compose
from slimdiff.metrics.networks import extractors
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.DeviceArguments):
    """Compute the statistics of a data set's training images under its extractors."""

    images: command.ImagesPath
    extractors: Annotated[Path, "extractors.safetensors of the data set"]
    out: Annotated[Path, "reference.safetensors"]


@dataclass(frozen=True)
class ReferenceSettings:
    """Data set and extractors."""

    dataset: str
    extractors_sha256: str | None  # pinned for shipped extractors
    foreign: bool = False  # extractors of another data set: without test images


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = build(ReferenceSettings, args.settings, "--settings of stage reference")
    network, digest = "foreign_extractors" if settings.foreign else "extractors", files.digest(args.extractors)
    if settings.extractors_sha256 not in (None, digest):
        raise UserError(
            f"{args.extractors} has SHA-256 {digest}, expected {settings.extractors_sha256}: restore the file, "
            f"or take out datasets.{settings.dataset}.{network} {SCORERS[network]}"
        )
    images, header = image_set.read(args.images), extractors.read_header(args.extractors)
    facts = DatasetFacts(len(images.classes), images.classes, images.image_shape)
    refuse(scorer_faults(network, str(args.extractors), header, settings.dataset, facts))
    networks = extractors.read(args.extractors)
    images_digest = read_header(args.images, image_set.KIND)["sha256"]
    device = pick_device(args.gpu, args.threads)
    train, test = (images.train_images, images.train_labels), (images.test_images, images.test_labels)
    if settings.foreign:
        fitted = extractors.fitted(images.train_images, networks[0].image_shape)
        train, test = (fitted, images.train_labels), (fitted[:0], images.test_labels[:0])
    statistics = reference.measure(train, test, networks, settings.dataset, digest, images_digest, device)
    reference.write(args.out, statistics)
    unconditional = compose(statistics, images.test_labels[:0])
    floor = reference.floor(unconditional, len(unconditional.test_labels), random_counts=True)
    text = (
        f"fid_indomain_floor {floor.fid_indomain:.3f} ({floor.fid_indomain_pct:.3f} %) of {floor.n:,} test images"
        if floor
        else "too few test images for a floor"
    )
    print(f"{settings.dataset}: {statistics.n:,} training images; {text}", flush=True)


if __name__ == "__main__":
    command.run(main)
