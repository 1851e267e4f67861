"""Train the extractors of a data set."""

from collections.abc import Sequence
from pathlib import Path

import torch

from slimdiff.data import image_set
from slimdiff.io.settings import build
from slimdiff.metrics import extractors
from slimdiff.metrics.extractor_training import ExtractorSettings, train_extractor
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Train the small classifiers whose features a data set's images are compared in.")
    command.add_device(stage)
    stage.add_argument("--images", required=True, type=Path, help="images.safetensors of the data set")
    stage.add_argument("--out", required=True, type=Path, help="extractors.safetensors")
    arguments = stage.parse_args(argv)

    settings = build(ExtractorSettings, arguments.settings, "--settings of stage extractors")
    device = pick_device(arguments.gpu, arguments.threads)
    data = image_set.read(arguments.images)
    train, test = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    trained = [train_extractor(train, test, len(data.classes), settings, seed, device) for seed in settings.seeds]
    header = {
        "dataset": settings.dataset,
        "classes": list(data.classes),
        "seeds": list(settings.seeds),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "accuracies": [one.accuracy for one in trained],
        "torch_version": str(torch.__version__),
    }
    extractors.write(arguments.out, [one.extractor for one in trained], header)
    accuracies = ", ".join(f"{100 * one.accuracy:.2f} %" for one in trained)
    print(f"{settings.dataset}: test accuracies {accuracies}", flush=True)


if __name__ == "__main__":
    command.run(main)
