"""The published weights of the two Inception networks: their addresses and digests."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from slimdiff.errors import UserError
from slimdiff.io import files


@dataclass(frozen=True)
class Weights:
    """A published file of weights; its name contains the first digits of its SHA-256."""

    url: str
    names: tuple[str, ...]  # common file names, the one in the URL first
    sha256: str
    max_bytes: int  # slightly more than its size


WEIGHTS = {
    "standard": Weights(
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        names=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        max_bytes=96_000_000,
    ),
    "paper": Weights(
        url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        names=("inception_v3_google-0cc3c7bd.pth",),
        sha256="0cc3c7bd75056d25e46cba549dc184522069b81e9787eff6df84f397bd52a5ef",
        max_bytes=110_000_000,
    ),
}


def read_weights(path: str | os.PathLike[str], kind: str) -> dict[str, torch.Tensor]:
    """Return the tensors in a published file of weights, after checking its digest.

    Raises:
        UserError: the file is missing, or is not the published one.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: correct config key inception.{kind}, or set it to download or to null")
    verify(files.digest(path), kind, str(path))
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def verify(sha256: str, kind: str, where: str) -> None:
    """Raise UserError unless `sha256`, of the file at `where`, is the digest of the published weights of `kind`."""
    published = WEIGHTS[kind]
    if sha256 != published.sha256:
        raise UserError(
            f"{where} has SHA-256 {sha256}; config key inception.{kind} needs {published.sha256}, from "
            f"{published.url}: put that file there, or set the key to null"
        )
