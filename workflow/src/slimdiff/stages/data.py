"""Stage data: a data set → images.safetensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.data import image_set, sources
from slimdiff.io.settings import build
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.SettingsArguments):
    """Fetch a data set, verify it, and write its images as uint8."""

    data_dir: Annotated[Path, "folder in which the user may have placed files"]
    out: Annotated[Path, "images.safetensors"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = build(sources.DataSettings, args.settings, "--settings of stage data")
    images = sources.load(settings, args.data_dir)
    image_set.write(args.out, images)
    channels, height, width = images.image_shape
    print(
        f"{settings.name}: {len(images.train_images):,} training and {len(images.test_images):,} test images "
        f"of {channels}×{height}×{width}, {len(images.classes)} classes, from {images.source}",
        flush=True,
    )


if __name__ == "__main__":
    command.run(main)
