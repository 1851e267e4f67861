"""The published weights of the two Inception networks: where they are, and how they are known to be the right ones."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from slimdiff.errors import UserError
from slimdiff.io import files


@dataclass(frozen=True)
class Weights:
    """A published file of weights, whose name holds the first digits of its SHA-256."""

    url: str
    names: tuple[str, ...]  # under which it is known, the address's first
    sha256: str
    max_bytes: int  # a little more than it has


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
    """The tensors in a published file of weights, whose digest is checked before anything in it is unpacked.

    Raises:
        UserError: no such file, or other bytes than the published ones.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: correct config key inception.{kind}, or set it to download or to null")
    verify(files.digest(path), kind, str(path))
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def verify(sha256: str, kind: str, where: str) -> None:
    """Raise UserError unless the file at `where`, whose digest is `sha256`, is the published one of `kind`."""
    known = WEIGHTS[kind]
    if sha256 != known.sha256:
        raise UserError(
            f"{where} has SHA-256 {sha256}; allowed for config key inception.{kind}: {known.sha256}, that of "
            f"{known.url}; put that file there, or set the key to null"
        )
