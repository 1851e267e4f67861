"""Stage extractors: small classifiers whose features define a data set's in-domain FID."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch

from slimdiff.data import image_set
from slimdiff.io.settings import build
from slimdiff.metrics.networks import extractors
from slimdiff.metrics.networks.extractors import Extractor
from slimdiff.metrics.networks.fit import ExtractorSettings, train_network
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.DeviceArguments):
    """Train the small classifiers whose features compare samples with a data set's images."""

    images: command.ImagesPath
    out: Annotated[Path, "extractors.safetensors"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = build(ExtractorSettings, args.settings, "--settings of stage extractors")
    device = pick_device(args.gpu, args.threads)
    images = image_set.read(args.images)
    train, test = (images.train_images, images.train_labels), (images.test_images, images.test_labels)
    trained = [
        train_network(
            Extractor,
            train,
            test,
            len(images.classes),
            settings,
            seed=seed,
            name=f"extractor of seed {seed}",
            device=device,
        )
        for seed in settings.seeds
    ]
    header = {
        **asdict(settings),
        "classes": list(images.classes),
        "accuracies": [result.accuracy for result in trained],
        "torch_version": str(torch.__version__),
    }
    extractors.write(args.out, [result.network for result in trained], header)
    accuracies = ", ".join(f"{100 * result.accuracy:.2f} %" for result in trained)
    print(f"{settings.dataset}: test accuracies {accuracies}", flush=True)


if __name__ == "__main__":
    command.run(main)
