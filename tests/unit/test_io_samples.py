"""samples.npz: the file round-trips, and other files are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimdiff.errors import UserError
from slimdiff.io.samples import Samples, read_samples, write_samples

SAMPLER = {"method": "heun", "steps": 8}
IMAGES = np.arange(3 * 16, dtype=np.uint8).reshape(3, 1, 4, 4)
PLAIN: dict[str, Any] = {
    "images": IMAGES,
    "labels": np.zeros(0, np.int64),
    "classes": np.array(["cat", "dog"]),
    "network_evaluations": 15.0,
    "sampler": '{"method":"heun","steps":8}',
    "status": "ok",
    "reason": "",
}


def made(labels: Any = (1, 0, 1), classes: tuple[str, ...] = ("cat", "dog"), **changes: Any) -> Samples:
    return Samples(IMAGES, np.array(labels, np.int64), classes, SAMPLER, 15.0, **changes)


@pytest.mark.parametrize(
    "samples",
    [
        made(batch_size=2, identity="abc"),
        made(labels=(), classes=(), batch_size=3),
        made(status="failed", reason="all samples are the same image", batch_size=0),
    ],
)
def test_samples_round_trip(tmp_path: Path, samples: Samples) -> None:
    write_samples(tmp_path / "samples.npz", samples)
    found = read_samples(tmp_path / "samples.npz")
    assert np.array_equal(found.images, samples.images) and found.images.dtype == np.uint8
    assert np.array_equal(found.labels, samples.labels) and found.labels.dtype == np.int64
    assert {**vars(found), "images": 0, "labels": 0} == {
        **vars(samples),
        "images": 0,
        "labels": 0,
        "identity": samples.identity or "",
    }


def test_a_failed_model_has_no_images_and_may_have_labels(tmp_path: Path) -> None:
    samples = Samples(IMAGES[:0], np.array([0, 1]), ("cat", "dog"), SAMPLER, 0.0, "failed", "loss is NaN")
    write_samples(tmp_path / "samples.npz", samples)
    assert len(read_samples(tmp_path / "samples.npz").labels) == 2


def test_files_of_older_versions_have_no_batch_size_and_no_identity(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", **PLAIN)
    samples = read_samples(tmp_path / "samples.npz")
    assert samples.batch_size is None and samples.identity is None
    assert samples.sampler == SAMPLER


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": np.array([{}], dtype=object)}, "allow_pickle"),
        ({"classes": np.array([{"pickled": 1}], dtype=object)}, "allow_pickle"),
        ({"images": None}, "images"),
        ({"colour": np.zeros(1)}, "colour"),
        ({"sampler": "{"}, "delimiter|double quotes"),
        ({"labels": np.array([0, 1])}, "2 labels for 3 images"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, **{key: value for key, value in {**PLAIN, **changes}.items() if value is not None})
    with pytest.raises(UserError, match=rf"samples\.npz .*({reason})"):
        read_samples(path)


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    with pytest.raises(UserError, match=r"samples\.npz does not exist"):
        read_samples(path)
    write_samples(path, made())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"samples\.npz is not a valid samples file"):
        read_samples(path)
