"""Stage classifier: a classifier that recognizes a data set's classes in samples."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch

from slimdiff.data import image_set
from slimdiff.io.settings import build
from slimdiff.metrics import classifier
from slimdiff.metrics.classifier_training import ClassifierSettings, train_classifier
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
    trained = train_classifier(train, test, len(images.classes), settings, pick_device(args.gpu, args.threads))
    header = {
        **asdict(settings),
        "classes": list(images.classes),
        "accuracy": trained.accuracy,
        "torch_version": str(torch.__version__),
    }
    classifier.write(args.out, trained.classifier, header)
    print(f"{settings.dataset}: test accuracy {100 * trained.accuracy:.2f} %", flush=True)


if __name__ == "__main__":
    command.run(main)
