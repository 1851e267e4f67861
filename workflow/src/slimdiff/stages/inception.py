"""Stage inception: statistics of a data set's training images in Inception features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.data import image_set
from slimdiff.io.settings import build
from slimdiff.metrics.networks import inception, inception_weights
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.DeviceArguments):
    """Compute the statistics of a data set's training images under an Inception network: 12 images/s on a CPU."""

    images: command.ImagesPath
    weights: Annotated[Path, "published weights"]
    out: Annotated[Path, "reference: statistics and network"]


@dataclass(frozen=True)
class InceptionSettings:
    """Data set and network."""

    dataset: str
    kind: str  # standard or paper


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = build(InceptionSettings, args.settings, "--settings of stage inception")
    device = pick_device(args.gpu, args.threads)
    network = inception.build(settings.kind, inception_weights.read_weights(args.weights, settings.kind))
    images, digest = image_set.read(args.images), inception_weights.WEIGHTS[settings.kind].sha256
    train = (images.train_images, images.train_labels)
    reference = inception.measure(train, settings.kind, network, settings.dataset, digest, device)
    inception.write(args.out, reference)
    print(f"{settings.dataset}: {reference.n:,} training images, {settings.kind} Inception network", flush=True)


if __name__ == "__main__":
    command.run(main)
