"""Stage classifier: a classifier that recognizes a data set's classes in samples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch

from slimdiff.data import image_set
from slimdiff.io.settings import build
from slimdiff.metrics.networks import classifier
from slimdiff.metrics.networks.classifier import Classifier
from slimdiff.metrics.networks.fit import ClassifierSettings, train_network
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.DeviceArguments):
    """Train the classifier that recognizes the classes of a data set in samples."""

    images: command.ImagesPath
    out: Annotated[Path, "classifier.safetensors"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = build(ClassifierSettings, args.settings, "--settings of stage classifier")
    images = image_set.read(args.images)
    train, test = (images.train_images, images.train_labels), (images.test_images, images.test_labels)
    device = pick_device(args.gpu, args.threads)
    trained = train_network(
        Classifier, train, test, len(images.classes), settings, seed=settings.seed, name="classifier", device=device
    )
    header = {
        **asdict(settings),
        "classes": list(images.classes),
        "accuracy": trained.accuracy,
        "torch_version": str(torch.__version__),
    }
    classifier.write(args.out, trained.network, header)
    print(f"{settings.dataset}: test accuracy {100 * trained.accuracy:.2f} %", flush=True)


if __name__ == "__main__":
    command.run(main)
