"""CIFAR-10 in its binary version: the Python version is a pickle, and no pickle is loaded."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import torch

from slimdiff.data.download import Unavailable, fetch, first_available
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError

ARCHIVE = "cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
MAX_BYTES = 200 << 20
RECORD_BYTES = 1 + 3 * 32 * 32  # a label, then the red, green and blue planes
BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load(dataset: str, data_dir: Path) -> ImageSet:
    """CIFAR-10, 50,000 and 10,000 images (3, 32, 32), from `data_dir` or its authors' site."""
    sources = [
        (f"{ARCHIVE} in {data_dir}", lambda: _placed(data_dir / ARCHIVE)),
        ("its authors' site", lambda: _verified(fetch(URL, MAX_BYTES))),
    ]
    content, found = first_available(dataset, sources, f"Put {ARCHIVE} into {data_dir} (config key data_dir)")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in BATCHES]
        records = np.frombuffer(b"".join(file.read() for file in files if file), np.uint8).reshape(-1, RECORD_BYTES)
    labels = torch.from_numpy(records[:, 0].astype(np.int64))
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    n = len(images) * 5 // 6  # the last of six equal files holds the test images
    return ImageSet(images[:n], labels[:n], images[n:], labels[n:], dataset, CLASSES, found)


def _placed(path: Path) -> bytes:
    if not path.is_file():
        raise Unavailable("no such file")
    content = path.read_bytes()
    try:
        return _verified(content)
    except Unavailable as reason:
        raise UserError(f"{path}: {reason}; replace or delete it") from None


def _verified(content: bytes) -> bytes:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != MD5:
        raise Unavailable(f"MD5 is {found}, expected {MD5}")
    return content
