"""Image sets survive a round trip, and damaged files are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from slimdiff.data.image_set import ImageSet, read, write
from slimdiff.errors import UserError
from slimdiff.io.tensors import save_tensors


@pytest.fixture
def image_set() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        train_images=torch.randint(0, 256, (12, 3, 5, 7), dtype=torch.uint8, generator=generator),
        train_labels=torch.arange(12) % 2,
        test_images=torch.randint(0, 256, (4, 3, 5, 7), dtype=torch.uint8, generator=generator),
        test_labels=torch.tensor([0, 0, 1, 1]),
        dataset="boxes",
        classes=("open", "shut"),
        source="made up",
    )


def test_round_trip(tmp_path: Path, image_set: ImageSet) -> None:
    write(tmp_path / "images.safetensors", image_set)
    found = read(tmp_path / "images.safetensors")
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(found, name), getattr(image_set, name))
    assert (found.dataset, found.classes, found.source) == ("boxes", ("open", "shut"), "made up")
    assert found.image_shape == (3, 5, 7)


def test_equal_sets_give_equal_bytes(tmp_path: Path, image_set: ImageSet) -> None:
    write(tmp_path / "a.safetensors", image_set)
    write(tmp_path / "b.safetensors", replace(image_set, train_images=image_set.train_images.clone()))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_named(tmp_path: Path, image_set: ImageSet, keep: int) -> None:
    path = tmp_path / "images.safetensors"
    write(path, image_set)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"images\.safetensors .*run again"):
        read(path)


def test_a_changed_pixel_is_detected(tmp_path: Path, image_set: ImageSet) -> None:
    path = tmp_path / "images.safetensors"
    write(path, image_set)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="digest"):
        read(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "weights.safetensors", "weights", {"w": torch.zeros(3)}, {})
    with pytest.raises(UserError, match="'weights', expected 'images'"):
        read(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"train_images": torch.zeros(12, 3, 5, 7)},
        {"train_images": torch.zeros(12, 5, 7, dtype=torch.uint8)},
        {"train_labels": torch.zeros(11, dtype=torch.int64)},
        {"test_labels": torch.zeros(4, dtype=torch.int32)},
        {"test_images": torch.zeros(4, 1, 5, 7, dtype=torch.uint8)},
    ],
)
def test_an_invalid_image_set_cannot_be_built(image_set: ImageSet, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|differ"):
        replace(image_set, **change)
