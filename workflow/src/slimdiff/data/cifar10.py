"""CIFAR-10 in its binary version. The Python version is a pickle, which slimdiff refuses to load."""

import hashlib
import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from slimdiff.data.download import Place, Unavailable, fetch, first_available, url_exists
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError

ARCHIVE = "cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
MAX_BYTES = 200 << 20
RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes
BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def places(data_dir: Path) -> list[Place[bytes]]:
    """Return the places of the archive in the order to try: the user's file, then the authors' site."""
    archive = data_dir / ARCHIVE
    return [
        Place(f"{ARCHIVE} in {data_dir}", partial(_placed, archive), archive.is_file),
        Place("its authors' site", lambda: _verified(fetch(URL, MAX_BYTES)), partial(url_exists, URL)),
    ]


def fix(data_dir: Path) -> str:
    """Return what to do if no place has the archive."""
    return f"Put {ARCHIVE} into {data_dir} (config key data_dir)"


def load(dataset: str, data_dir: Path) -> ImageSet:
    """Load CIFAR-10, 50,000 training and 10,000 test images (3, 32, 32), from the first of `places`."""
    content, source = first_available(dataset, places(data_dir), fix(data_dir))
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in BATCHES]
        records = np.frombuffer(b"".join(file.read() for file in files if file), np.uint8).reshape(-1, RECORD_BYTES)
    labels = torch.from_numpy(records[:, 0].astype(np.int64))
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    n = len(images) * 5 // 6  # the last of the six equal files holds the test images
    return ImageSet(images[:n], labels[:n], images[n:], labels[n:], dataset, CLASSES, source)


def _placed(path: Path) -> bytes:
    if not path.is_file():
        raise Unavailable("no such file")
    content = path.read_bytes()
    try:
        return _verified(content)
    except Unavailable as reason:
        raise UserError(f"{path}: {reason}; replace or delete it") from None


def _verified(content: bytes) -> bytes:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != MD5:
        raise Unavailable(f"MD5 is {md5}, expected {MD5}")
    return content
