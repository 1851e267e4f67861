"""Stage data: a data set → images.safetensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.data import checks, image_set, sources
from slimdiff.io.settings import build
from slimdiff.runtime.devices import keep_freed_memory
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.SettingsArguments):
    """Fetch a data set, check it, and write its images as uint8 with a report on them."""

    data_dir: Annotated[Path, "folder in which the user may have placed files"]
    out: Annotated[Path, "images.safetensors"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = build(sources.DataSettings, args.settings, "--settings of stage data")
    keep_freed_memory()  # a decoded file is as large as an activation
    images, report = checks.examine(sources.load(settings, args.data_dir), settings.duplicates)
    image_set.write(args.out, images, report)
    channels, height, width = images.image_shape
    print(
        f"{settings.name}: {len(images.train_images):,} training and {len(images.test_images):,} test images "
        f"of {channels}×{height}×{width}, {len(images.classes)} classes, from {images.source}",
    )
    print(*checks.describe(report), sep="\n", flush=True)


if __name__ == "__main__":
    command.run(main)
