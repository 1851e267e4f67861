"""How image files become pixels, as an entry of `datasets:` says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimdiff.io.text import one_line

BACKGROUNDS: dict[str, int | None] = {"auto": None, "white": 255, "black": 0}

Range = tuple[float, float]


@dataclass(frozen=True)
class Reading:
    """How image files become pixels; None leaves it to the file and refuses where the file does not tell."""

    key: str  # of the data set in the config, such as datasets.photos
    image_size: int  # height and width after a centre crop to a square, at least 4
    channels: int  # 1 (gray) or 3 (RGB)
    value_range: Range | None = None  # the file's own values that become black and white; those outside are clipped
    background: int | None = None  # gray level of the result behind transparency, 0 to 255; None: white
    frames: str | None = None  # of a file with several images: first, or all

    @classmethod
    def of(cls, dataset: str, options: Mapping[str, Any]) -> "Reading":
        """Return how the files of a data set with source `folder` are read.

        Args:
            options: its entry in the config; the three last keys are optional.
        """
        limits, background = options.get("value_range", "auto"), options.get("background", "auto")
        return cls(
            f"datasets.{dataset}",
            options["image_size"],
            options["channels"],
            None if isinstance(limits, str) else (limits[0], limits[1]),
            BACKGROUNDS[background] if isinstance(background, str) else background,
            options.get("frames"),
        )


def name(path: Path) -> str:
    """Return a file and its class for a message."""
    return f"{one_line(path)} of class {one_line(repr(path.parent.name))}"
