"""The resumable state of a training: one atomically replaced file, a lock on its folder, and a handler of SIGTERM.

A kill -9 loses the steps since the last save and nothing else: the resumed run equals an undisturbed one, bit for bit.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linear_quant import is_frozen_part
from slimdiff.errors import TransientError, UserError
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.runtime.locks import lock
from slimdiff.training.optimizers import pack_state, unpack_state


@dataclass
class Progress:
    """The history of a training, for its record."""

    step: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    loss_curve: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0  # sum over the current epoch, per image
    epoch_s: float = 0.0  # spent in the current epoch
    interruptions: int = 0
    started_at: str = ""  # ISO 8601, when the first process began


class StateStore:
    """The resumable state of one training, a single file that is replaced atomically."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.path = folder / "state.safetensors"
        self.key = key

    def save(
        self,
        network: nn.Module,
        average: Mapping[str, torch.Tensor],
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        tensors, values = pack_state(optimizer)
        state = {
            **{f"raw.{name}": tensor for name, tensor in network.state_dict().items()},
            **{f"ema.{name}": tensor for name, tensor in average.items()},
            **{f"optimizer.{name}": tensor for name, tensor in tensors.items()},
        }
        header = {"key": self.key, "optimizer": values, "progress": vars(progress)}
        save_tensors(self.path, "state", state, header)

    def resume(
        self, network: nn.Module, average: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
    ) -> Progress:
        """Load the saved state; if it is missing, damaged or of another training, start afresh and print why."""
        if not self.path.exists():
            return Progress()
        try:
            tensors, header = load_tensors(self.path, "state")
        except UserError as error:
            print(f"starting afresh: {error}", flush=True)
            return Progress()
        if header["key"] != self.key:
            print("starting afresh: the saved state is of other settings, code or data", flush=True)
            return Progress()
        parts: dict[str, dict[str, torch.Tensor]] = {"raw": {}, "ema": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            kind, rest = name.split(".", 1)
            parts[kind][rest] = tensor
        # quantized weights cannot be loaded; they are frozen, and the seed gave the same ones
        trained = {name: tensor for name, tensor in parts["raw"].items() if not is_frozen_part(network, name)}
        network.load_state_dict(trained, strict=False)
        for name, tensor in parts["ema"].items():
            average[name].copy_(tensor)
        unpack_state(optimizer, parts["optimizer"], header["optimizer"])
        progress = Progress(**header["progress"])
        progress.interruptions += 1
        return progress


def clear_state(state_dir: Path) -> None:
    """Remove the state of a training whose outputs are written, and what a kill -9 left of one that was being saved."""
    names = ("state.safetensors", "start.safetensors", "status.json", "lock")
    for path in (*(state_dir / name for name in names), *state_dir.glob(".*")):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        state_dir.rmdir()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder against a second trainer while an orphan of a killed run still trains here.

    Raises:
        TransientError: another process holds the lock; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    with path.open("a+") as file:
        if lock(file, note=True) is False:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise TransientError(
                f"{folder} is in use by process {holder}, which still trains; wait for it or stop it: kill {holder}"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def terminable() -> Iterator[Callable[[], bool]]:
    """Inside the block, SIGTERM only sets a flag, which the yielded function reads."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)
