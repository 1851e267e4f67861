"""Train the judge of a data set."""

from collections.abc import Sequence
from pathlib import Path

import torch

from slimdiff.data import image_set
from slimdiff.io.settings import build
from slimdiff.metrics import classifier
from slimdiff.metrics.classifier_training import ClassifierSettings, train_classifier
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Train the classifier that says which classes the samples of a data set's models show.")
    command.add_device(stage)
    stage.add_argument("--images", required=True, type=Path, help="images.safetensors of the data set")
    stage.add_argument("--out", required=True, type=Path, help="classifier.safetensors")
    arguments = stage.parse_args(argv)

    settings = build(ClassifierSettings, arguments.settings, "--settings of stage classifier")
    device = pick_device(arguments.gpu, arguments.threads)
    data = image_set.read(arguments.images)
    train, test = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    trained = train_classifier(train, test, len(data.classes), settings, device)
    header = {
        "dataset": settings.dataset,
        "classes": list(data.classes),
        "seed": settings.seed,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "accuracy": trained.accuracy,
        "torch_version": str(torch.__version__),
    }
    classifier.write(arguments.out, trained.classifier, header)
    print(f"{settings.dataset}: test accuracy {100 * trained.accuracy:.2f} %", flush=True)


if __name__ == "__main__":
    command.run(main)
