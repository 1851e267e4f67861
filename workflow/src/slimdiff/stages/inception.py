"""Sum up a data set's training images under an Inception network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.data import image_set
from slimdiff.io.settings import build
from slimdiff.metrics import inception, inception_weights
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


@dataclass(frozen=True)
class InceptionSettings:
    """Which data set, and which network."""

    dataset: str
    kind: str  # standard or report


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Sum up a data set's training images under an Inception network: 12 images/s on a CPU.")
    command.add_device(stage)
    stage.add_argument("--images", required=True, type=Path, help="images.safetensors of the data set")
    stage.add_argument("--weights", required=True, type=Path, help="the published file of weights")
    stage.add_argument("--out", required=True, type=Path, help="the reference: statistics and network")
    arguments = stage.parse_args(argv)

    settings = build(InceptionSettings, arguments.settings, "--settings of stage inception")
    device = pick_device(arguments.gpu, arguments.threads)
    network = inception.build(settings.kind, inception_weights.read_weights(arguments.weights, settings.kind))
    images, digest = image_set.read(arguments.images).train_images, inception_weights.WEIGHTS[settings.kind].sha256
    found = inception.measure(images, settings.kind, network, settings.dataset, digest, device)
    inception.write(arguments.out, found)
    print(f"{settings.dataset}: {found.n:,} training images under the {settings.kind} Inception network", flush=True)


if __name__ == "__main__":
    command.run(main)
