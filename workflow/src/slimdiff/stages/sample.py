"""Stage sample: a cell's images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from slimdiff.catalog.compositions import UNIFORM
from slimdiff.checkpoints.identity import check_identity
from slimdiff.inference import model
from slimdiff.inference.images import class_sheet, contact_sheet, write_png
from slimdiff.io.samples import Samples, write_samples
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command

GRID_IMAGES, GRID_COLUMNS = 100, 10  # a class-conditional model gets one column per class, with its first images


@dataclass(frozen=True, kw_only=True)
class Arguments(command.DeviceArguments):
    """Sample images from a cell's model with the sampler of its recipe."""

    model: Annotated[Path, "model.safetensors of the cell"]
    identity: command.Identity = None
    guide: command.GuidePath = None
    guide_identity: command.Identity = None
    cache: command.CacheFolder = None
    out: Annotated[Path, "samples.npz"]
    out_grid: Annotated[Path, "PNG of a hundred of them"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = args.settings
    loaded = model.load(args.model, pick_device(args.gpu, args.threads), args.cache, args.guide)
    header = loaded.settings
    check_identity(args.model, header.get("identity"), args.identity)
    if args.guide and loaded.guide:
        check_identity(args.guide, loaded.guide.settings.get("identity"), args.guide_identity)
    sampled = loaded.sample(
        settings["n_samples"],
        settings["seed"],
        batch_size=settings["batch_size"],
        class_index=range(loaded.classes) if settings.get("labels") == UNIFORM else None,
        fill_memory=settings.get("fill_memory", False),
    )
    reason = header["reason"] or sampled.reason
    samples = Samples(
        images=sampled.images.numpy(),
        labels=np.zeros(0, np.int64) if sampled.labels is None else sampled.labels.numpy(),
        classes=tuple(header["dataset"]["classes"]),
        sampler=header["sampler"],
        network_evaluations=sampled.network_evaluations,
        status="failed" if reason else "ok",
        reason=reason,
        batch_size=sampled.batch_size,
        identity=header.get("identity"),
    )
    write_samples(args.out, samples)
    if sampled.labels is None or not len(sampled.images):
        grid = contact_sheet(sampled.images[:GRID_IMAGES], GRID_COLUMNS)
    else:
        rows = max(1, GRID_IMAGES // loaded.classes)
        grid = class_sheet(sampled.images, sampled.labels, range(loaded.classes), rows)
    write_png(args.out_grid, grid)
    print(f"{len(sampled.images)} images, {sampled.network_evaluations:.1f} evaluations each. {reason}", flush=True)
    if sampled.batch_size is not None and sampled.batch_size < min(settings["batch_size"], settings["n_samples"]):
        print(f"note: memory ran out; {sampled.batch_size} images at once in the end, the same images", flush=True)


if __name__ == "__main__":
    command.run(main)
