"""Sum up a data set's training images as the reference that samples are scored against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.data import image_set
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.settings import build
from slimdiff.metrics import extractors, reference
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


@dataclass(frozen=True)
class ReferenceSettings:
    """Which data set, and which extractors it must be."""

    dataset: str
    extractors_sha256: str | None  # pinned where they are shipped


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Sum up a data set's training images under its extractors.")
    command.add_device(stage)
    stage.add_argument("--images", required=True, type=Path, help="images.safetensors of the data set")
    stage.add_argument("--extractors", required=True, type=Path, help="extractors.safetensors of the data set")
    stage.add_argument("--out", required=True, type=Path, help="reference.safetensors")
    arguments = stage.parse_args(argv)

    settings = build(ReferenceSettings, arguments.settings, "--settings of stage reference")
    key, digest = f"datasets.{settings.dataset}.extractors", files.digest(arguments.extractors)
    if settings.extractors_sha256 not in (None, digest):
        raise UserError(
            f"{arguments.extractors} has SHA-256 {digest}, pinned is {settings.extractors_sha256}: restore the file, "
            f"or leave {key} out to train new ones"
        )
    made_for = extractors.read_header(arguments.extractors)["dataset"]
    if made_for != settings.dataset:
        raise UserError(f"{arguments.extractors} is for data set {made_for!r}, not {settings.dataset!r}: correct {key}")
    networks, data = (
        extractors.read(arguments.extractors),
        image_set.read(arguments.images),
    )
    images_digest = read_header(arguments.images, image_set.KIND)["sha256"]
    device = pick_device(arguments.gpu, arguments.threads)
    found = reference.measure(
        data.train_images, data.test_images, networks, settings.dataset, digest, images_digest, device
    )
    reference.write(arguments.out, found)
    least = reference.floor(found, len(data.test_images))
    figures = (
        f"fid {least.fid:.3f}, fid_indomain_pct {least.fid_indomain_pct:.3f} %"
        if least
        else "unknown, there are too few"
    )
    print(f"{settings.dataset}: {found.n:,} training images; floor of the test images: {figures}", flush=True)


if __name__ == "__main__":
    command.run(main)
