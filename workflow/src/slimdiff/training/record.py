"""Reports of a training: lines in the log, the checkpoint's header, and the record train.json."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from slimdiff.data.image_set import ImageSet, saturated_share
from slimdiff.io.files import write_json
from slimdiff.training.state import Progress

SECONDS_BETWEEN_LINES = 10.0


class TrainingFailed(Exception):
    """The training cannot continue; its message is the reason in header and record."""


class TrainingLog:
    """Count the steps of a training, and log its progress.

    Args:
        progress: updated in place.
        steps: of the whole training.
        images_per_step: the batch size, or all images if they are fewer.
        folder: of status.json, which other programs read.
    """

    def __init__(
        self,
        progress: Progress,
        steps: int,
        steps_per_epoch: int,
        images_per_step: int,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.progress, self.steps, self.steps_per_epoch = progress, steps, steps_per_epoch
        self.images_per_step = images_per_step
        self.status = folder / "status.json"
        self.loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
        self.line_at = self.epoch_at = time.monotonic()
        self.line_step, self.resumed_epoch_s = progress.step, progress.epoch_s
        progress.started_at = progress.started_at or _now()
        if progress.step:
            print(f"resuming at step {progress.step}/{steps}", flush=True)

    def end_step(self, loss: torch.Tensor) -> None:
        """Count a step.

        Args:
            loss: its mean loss per image.

        Raises:
            TrainingFailed: the mean loss of the epoch that ends here is NaN or infinite.
        """
        progress = self.progress
        self.loss_sum += loss.detach()
        progress.step += 1
        taken = (progress.step - 1) % self.steps_per_epoch + 1  # in this epoch; the last one may be shorter
        ends = taken == self.steps_per_epoch or progress.step == self.steps
        mean = float(self.loss_sum) / taken if ends else None
        now = time.monotonic()  # after the only line that waits for the GPU
        progress.epoch_s = self.resumed_epoch_s + now - self.epoch_at
        if mean is not None:
            self._end_epoch(mean, taken)
            self.epoch_at, self.resumed_epoch_s = now, 0.0
        if now - self.line_at >= SECONDS_BETWEEN_LINES or progress.step == self.steps:
            rate = (progress.step - self.line_step) * self.images_per_step / max(now - self.line_at, 1e-9)
            self._print(loss.item(), rate)
            self.line_at, self.line_step = now, progress.step

    def before_save(self) -> None:
        """Bring the progress up to date."""
        self.progress.loss_sum = float(self.loss_sum)

    def _end_epoch(self, loss: float, steps: int) -> None:
        progress, images = self.progress, steps * self.images_per_step
        epoch, ms = len(progress.epochs) + 1, progress.epoch_s * 1000.0
        rate, share = 1000.0 * images / max(ms, 1e-9), steps / self.steps_per_epoch
        progress.epochs.append({"epoch": epoch, "share": share, "loss": _finite(loss), "ms": ms, "images_per_s": rate})
        progress.loss_sum = progress.epoch_s = 0.0
        self.loss_sum.zero_()
        if not math.isfinite(loss):
            raise TrainingFailed(f"loss became {loss} in epoch {epoch}")

    def _print(self, loss: float, images_per_s: float) -> None:
        """Print one line, add a point to the loss curve, and write the status file."""
        step, steps = self.progress.step, self.steps
        eta_s = (steps - step) * self.images_per_step / max(images_per_s, 1e-9)
        self.progress.loss_curve.append({"step": step, "loss": _finite(loss)})
        print(
            f"step {step}/{steps}  loss {loss:.4g}  "
            f"{images_per_s:.0f} images/s  ETA {int(eta_s // 60)}:{int(eta_s % 60):02d}",
            flush=True,
        )
        status = {"step": step, "steps": steps, "loss": _finite(loss), "images_per_s": images_per_s, "eta_s": eta_s}
        write_json(self.status, {**status, "updated_at": _now()})


def describe_dataset(images: ImageSet, images_sha256: str) -> dict[str, Any]:
    """Return the data set's description for a checkpoint's header."""
    channels, height, width = images.image_shape
    return {
        "name": images.dataset,
        "channels": channels,
        "height": height,
        "width": width,
        "classes": list(images.classes),
        "class_counts": torch.bincount(images.train_labels, minlength=len(images.classes)).tolist(),
        "saturated": saturated_share(images.train_images),
        "sha256": images_sha256,
    }


def build_header(
    images: ImageSet,
    images_sha256: str,
    settings: Mapping[str, Any],
    code: str,
    reason: str,
    structure: Sequence[Mapping[str, Any]] = (),
    start: Mapping[str, Any] | None = None,
    pretrained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the header of a training's weights.

    Args:
        reason: why the training failed; empty if it did not.
        structure: structural changes to repeat on loading.
        start: identity of the starting weights; None: initialized from the seed.
        pretrained: source and digest of the first weights; None: initialized from the seed.
    """
    return {
        "model": dict(settings["model"]),
        "training": dict(settings["training"]),
        "structure": list(structure),
        "dataset": describe_dataset(images, images_sha256),
        "seed": settings["seed"],
        "code": code,
        **({} if start is None else {"start": start}),
        **({} if pretrained is None else {"pretrained": pretrained}),
        **({"plugins": settings["plugins"]} if "plugins" in settings else {}),
        "status": _status(reason),
        "reason": reason,
    }


def build_record(
    progress: Progress,
    settings: Mapping[str, Any],
    start: Mapping[str, Any] | None,
    code: str,
    precision: str,
    kernels: str | None,
    reason: str,
) -> dict[str, Any]:
    """Return the record of a finished training for train.json.

    Args:
        start: identity of the starting weights; None: initialized from the seed.
        precision: of the network's arithmetic, resolved.
        kernels: how CUDA's were chosen; None: trained on a CPU.
        reason: why it failed; empty if it did not.
    """
    train_ms = sum(epoch["ms"] for epoch in progress.epochs)
    return {
        "status": _status(reason),
        "reason": reason,
        "steps": progress.step,
        "train_s": train_ms / 1000.0,
        "train_ms_per_epoch": train_ms / (sum(epoch["share"] for epoch in progress.epochs) or 1.0),
        "epochs": progress.epochs,
        "loss_curve": progress.loss_curve,
        "interruptions": progress.interruptions,
        "precision": precision,
        "trained_kernels": kernels,
        "settings": dict(settings),
        "code": code,
        **({} if start is None else {"start": start}),
        "started_at": progress.started_at,
    }


def _status(reason: str) -> str:
    return "failed" if reason else "ok"


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
