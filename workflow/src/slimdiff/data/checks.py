"""What a data set holds, and what makes it useless: checked once, before anything is trained on it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slimdiff.data.image_losses import FAINT, FLAT
from slimdiff.data.image_set import ImageSet, Values
from slimdiff.errors import UserError
from slimdiff.io.text import one_line

BLOCK = 64  # images at once
MAX_NAMED = 20  # classes in the log
MAX_FLAT = 0.5  # of the images of a class; a few blank images are normal
Report = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """Training or test images, and the gray levels of each."""

    images: torch.Tensor  # uint8 (N, C, H, W)
    labels: torch.Tensor  # int64 (N,)
    files: Sequence[Path] | None  # of each image
    low: torch.Tensor  # uint8 (N,)
    high: torch.Tensor  # uint8 (N,)
    flat: torch.Tensor  # bool (N,), one tone per channel


def examine(image_set: ImageSet, duplicates: str) -> tuple[ImageSet, Report]:
    """Return the data set, and the report that its file and the log keep.

    The report has, as JSON values: `modes`, the images, value range and values found by mode of the files; `classes`,
    the training and test images by class; `flat`, the images of one tone by side; `unapplied_profiles`, for files
    only, the images in a colour space other than sRGB, which are stored unconverted; `duplicates`, the exact copies of
    another image of the same side (`train`, `test`), test images that are copies of training images (`across`), and
    those that were removed (`dropped`).

    Args:
        duplicates: of a training image in the test set: `keep`, or `drop`, which removes them from the test set.

    Raises:
        UserError: the whole set uses fewer than 16 gray levels; more than half of the images of a class are of one
            tone; a class holds only one image, or files of more than 8 bits that use fewer than 16 gray levels; `drop`
            leaves a class without test images.
    """
    files = image_set.files
    sides = {
        "train": _side(image_set.train_images, image_set.train_labels, files.train if files else None),
        "test": _side(image_set.test_images, image_set.test_labels, files.test if files else None),
    }
    _refuse_useless(image_set, list(sides.values()))
    flat = {name: side.flat for name, side in sides.items()}
    modes = _modes(image_set)
    train, test = _digests(image_set.train_images), _digests(image_set.test_images)
    known = set(train)
    copies = torch.tensor([digest in known for digest in test], dtype=torch.bool)
    dropped = int(copies.sum()) if duplicates == "drop" else 0
    if dropped:
        image_set = _without(image_set, copies)
        flat["test"] = flat["test"][~copies]
        test = [digest for digest in test if digest not in known]
    report: Report = {
        "modes": modes,
        "classes": _counts(image_set),
        "flat": {side: int(images.sum()) for side, images in flat.items()},
        "duplicates": {
            "train": len(train) - len(known),
            "test": len(test) - len(set(test)),
            "across": int(copies.sum()) - dropped,
            "dropped": dropped,
        },
    }
    if files:
        report["unapplied_profiles"] = files.unapplied_profiles
    return image_set, report


def describe(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the report as lines for people."""
    for mode, values in report["modes"].items():
        low, high = values["found"]
        clipped = "; values outside are clipped" if low < values["range"][0] or high > values["range"][1] else ""
        yield (
            f"{mode}: {values['images']:,} images, values {low:g} to {high:g}, {100 * values['used']:.0f} % of the "
            f"range {values['range'][0]:g} to {values['range'][1]:g}{clipped}"
        )
    counts = {name: count["train"] + count["test"] for name, count in report["classes"].items()}
    named = [f"{name} {count:,}" for name, count in list(counts.items())[:MAX_NAMED]]
    more = f", {len(counts) - MAX_NAMED} more" if len(counts) > MAX_NAMED else ""
    yield f"images by class: {', '.join(named)}{more}"
    flat, copies = report["flat"], report["duplicates"]
    yield f"images of one tone: {flat['train']:,} to train, {flat['test']:,} to test"
    if n := report.get("unapplied_profiles"):
        yield f"images of another colour space than sRGB, stored unconverted: {n:,}"
    yield (
        f"exact duplicates: {copies['train']:,} in the training set, {copies['test']:,} in the test set, "
        f"{copies['across']:,} test images that are training images ({copies['dropped']:,} dropped)"
    )


def _side(images: torch.Tensor, labels: torch.Tensor, files: Sequence[Path] | None) -> Side:
    low, high = images.flatten(2).amin(2), images.flatten(2).amax(2)
    return Side(images, labels, files, low.amin(1), high.amax(1), (high - low <= FLAT).all(1))


def _refuse_useless(image_set: ImageSet, sides: Sequence[Side]) -> None:
    """Refuse a set or a class without contrast."""
    dataset, files = image_set.dataset, image_set.files
    values = files.values if files else {}
    lowest, highest = min(int(side.low.min()) for side in sides), max(int(side.high.max()) for side in sides)
    deep = any(mode.limits != (0, 255) for mode in values.values())
    for label, name in enumerate(image_set.classes):
        own = [(side, torch.nonzero(side.labels == label).flatten()) for side in sides]
        parts = [(side, indices) for side, indices in own if len(indices)]
        if not len(own[0][1]):
            raise UserError(
                f"class {one_line(repr(name))} of data set {dataset!r} has no training image: add some, or take the "
                f"class out (config key datasets.{dataset})"
            )
        n = sum(len(indices) for _, indices in parts)
        flat = [(side, index) for side, indices in parts for index in indices[side.flat[indices]].tolist()]
        low = min(int(side.low[indices].min()) for side, indices in parts)
        high = max(int(side.high[indices].max()) for side, indices in parts)
        first, index = parts[0][0], int(parts[0][1][0])
        of_class = f"images of class {one_line(repr(name))} of data set {dataset!r}"
        levels = f"{high - low + 1} of 256 gray levels, {low} to {high}"
        if highest - lowest < FAINT:
            found = [f"{mode.found[0]:g} to {mode.found[1]:g} in files of mode {key}" for key, mode in values.items()]
            what = f"the images of data set {dataset!r} use {levels} in class {one_line(repr(name))}"
            what += f" ({', '.join(found)})" if found else ""
        elif len(flat) > MAX_FLAT * n:
            what = f"{len(flat)} of {n} {of_class} are flat tones, in gray levels {low} to {high}"
            first, index = flat[0]
        elif n > 1 and all(_same(side.images, indices, first.images[index]) for side, indices in parts):
            what = f"all {n} {of_class} are the same image"
        elif deep and high - low < FAINT:
            what = f"the {of_class} use {levels}"
        else:
            continue
        example = f", such as {one_line(first.files[index])}" if first.files else ""
        keys = dict.fromkeys([f"datasets.{dataset}.value_range", *files.keys] if files else [f"datasets.{dataset}"])
        raise UserError(f"{what}{example}: correct the images, or how they are read (config key {' or '.join(keys)})")


def _same(images: torch.Tensor, indices: torch.Tensor, image: torch.Tensor) -> bool:
    """Return whether the images at `indices` differ from `image` by at most FLAT gray levels in every pixel."""
    blocks = (images[block] for block in indices.split(BLOCK))
    return all(int((torch.maximum(block, image) - torch.minimum(block, image)).max()) <= FLAT for block in blocks)


def _digests(images: torch.Tensor) -> list[bytes]:
    return [hashlib.sha256(image).digest() for image in images.contiguous().numpy()]


def _without(image_set: ImageSet, dropped: torch.Tensor) -> ImageSet:
    """Return the set without some of its test images, bool (M,)."""
    labels = image_set.test_labels[~dropped]
    empty = set(image_set.test_labels.tolist()) - set(labels.tolist())
    if empty:
        name = image_set.classes[min(empty)]
        raise UserError(
            f"datasets.{image_set.dataset}.duplicates is drop, and every test image of class {one_line(repr(name))} is "
            "a copy of a training image: set it to keep, or add images"
        )
    return replace(image_set, test_images=image_set.test_images[~dropped], test_labels=labels, files=None)


def _modes(image_set: ImageSet) -> dict[str, Any]:
    """Return number of images, range and values found by mode of the files; by `uint8` for arrays."""
    if image_set.files:
        values: Mapping[str, Values] = image_set.files.values
    else:
        parts: Sequence[torch.Tensor] = (image_set.train_images, image_set.test_images)
        found = min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)
        values = {"uint8": Values(sum(map(len, parts)), (0, 255), found)}
    return {
        mode: {
            "images": one.images,
            "range": list(one.limits),
            "found": list(one.found),
            "used": max(0, min(one.found[1], one.limits[1]) - max(one.found[0], one.limits[0]))
            / (one.limits[1] - one.limits[0]),
        }
        for mode, one in values.items()
    }


def _counts(image_set: ImageSet) -> dict[str, dict[str, int]]:
    n = len(image_set.classes)
    train, test = (side.bincount(minlength=n).tolist() for side in (image_set.train_labels, image_set.test_labels))
    return {name: {"train": a, "test": b} for name, a, b in zip(image_set.classes, train, test, strict=True)}
