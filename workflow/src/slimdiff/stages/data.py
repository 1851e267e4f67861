"""Stage `data`: fetch a data set once and write it as verified uint8 images."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff.data import image_set as store
from slimdiff.data import sources
from slimdiff.io.settings import build
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Fetch a data set and write its images as uint8.")
    stage.add_argument("--data-dir", required=True, type=Path, help="where the user may have placed files")
    stage.add_argument("--out", required=True, type=Path)
    arguments = stage.parse_args(argv)

    settings = build(sources.DataSettings, arguments.settings, "--settings of stage data")
    image_set = sources.load(settings, arguments.data_dir)
    store.write(arguments.out, image_set)
    channels, height, width = image_set.image_shape
    print(
        f"{settings.name}: {len(image_set.train_images):,} training and {len(image_set.test_images):,} test images "
        f"of {channels}×{height}×{width}, {len(image_set.classes)} classes, from {image_set.source}",
        flush=True,
    )


if __name__ == "__main__":
    command.run(main)
