"""From a denoiser to images: batches, noise per image, the data set's own size, and whether they can be scored."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from slimdiff.data.image_set import saturated_share
from slimdiff.data.transforms import to_dataset
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, expected_calls, sample
from slimdiff.inference.deepcache import cache_features
from slimdiff.runtime.devices import autocast
from slimdiff.runtime.memory import HalvingBatch, OutOfMemory
from slimdiff.runtime.memory import reason as memory_reason

DEGENERATE_STD = 1.0 / 255.0  # of pixels in [-1, 1]: about half a gray level
Progress = Callable[[float, int], None]  # images done so far, of how many
SATURATED_SHARE = 0.999  # of pixels that are fully black or white, where the data set has clearly fewer


@dataclass(frozen=True)
class Sampled:
    """Images and what they cost."""

    images: torch.Tensor  # uint8 (N, C, H, W)
    network_evaluations: float  # mean per image, those that use features again included
    reason: str  # why they are no result; empty when they are one
    labels: torch.Tensor | None = None  # int64 (N,): the class that each was asked for
    shallow_evaluations: float = 0.0  # of the evaluations, those that computed the outermost level alone
    batch_size: int | None = None  # images at once, in the end: half of what was asked for where memory ran out; 0: no
    # room for those either


@torch.inference_mode()
def sample_images(
    denoiser: Denoiser,
    settings: SamplerSettings,
    model: Mapping[str, Any],
    dataset: Mapping[str, Any],
    n: int,
    batch_size: int,
    seed: int,
    labels: torch.Tensor | None = None,
    progress: Progress | None = None,
) -> Sampled:
    """n images in the data set's size and channels.

    Where memory runs out the batch is halved, once; the images are the same. Where it runs out again there are none,
    and the reason says so.

    Args:
        model: `channels`, `image_size`, `fit` of the model.
        dataset: `height`, `width`, `channels` of the data set, and the share of its pixels that are `saturated`.
        seed: with its index, all that an image's noise depends on.
        labels: int64 (n,), the classes to ask for; None for a network that knows none.
        progress: called with the images done and n after each call of the denoiser and each batch.
    """
    device = next(itertools.chain(denoiser.network.parameters(), denoiser.network.buffers())).device
    shape = (model["channels"], model["image_size"], model["image_size"])
    images, evaluations, shallow_calls, finite = [], 0.0, 0.0, True
    batches, start = HalvingBatch(min(batch_size, n)), 0

    def draw(size: int) -> tuple[torch.Tensor, bool, float, int]:
        indices = range(start, min(start + size, n))
        batch_labels = None if labels is None else labels[indices.start : indices.stop].to(device)
        watch = _watch(progress, settings, start, len(indices), n)
        backend, reuser = cache_features(denoiser, settings.cache_interval, settings.method)
        guided = Guided(backend, batch_labels, settings.guidance, settings.clip, watch)
        with autocast(device, settings.precision):
            end = sample(guided, ImageNoise(seed, indices, device), shape, settings)
        x = denoiser.to_images(end.x)
        batch = to_dataset(torch.nan_to_num(x), dataset["height"], dataset["width"], dataset["channels"], model["fit"])
        again = len(indices) * guided.passes * (reuser.shallow_calls if reuser else 0)
        return batch.cpu(), bool(torch.isfinite(x).all()), float(end.evaluations.sum()) * guided.passes, again

    while start < n:
        try:
            batch, whole, evaluated, again = batches.run(draw)
        except FloatingPointError as error:
            return Sampled(_no_images(dataset), 0.0, str(error), labels, batch_size=batches.size)
        except OutOfMemory as error:
            why = memory_reason("sampling.batch_size", batch_size, error)
            return Sampled(_no_images(dataset), 0.0, why, labels, batch_size=0)
        images.append(batch)
        finite = finite and whole
        evaluations += evaluated
        shallow_calls += again
        start += len(batch)
        if progress is not None:
            progress(float(start), n)
    everything = torch.cat(images)
    reason = _degenerate(everything, finite, dataset["saturated"])
    return Sampled(everything, evaluations / n, reason, labels, shallow_calls / n, batches.size)


def _watch(
    progress: Progress | None, settings: SamplerSettings, done: int, batch: int, n: int
) -> Callable[[], None] | None:
    """What a batch calls after each call of its denoiser; nothing where nobody asks or nobody knows how many come."""
    expected = expected_calls(settings)
    if progress is None or expected is None:
        return None
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        progress(done + batch * min(calls / expected, 1.0), n)

    return call


def _degenerate(images: torch.Tensor, finite: bool, saturated: float) -> str:
    """Why these images cannot be scored, or nothing; `saturated` is the data set's own share of such pixels."""
    if not finite:
        return "samples hold NaN or infinity"
    values = images.float() / 127.5 - 1.0
    if float(values.std()) < DEGENERATE_STD:
        return f"samples are constant (all pixels at {float(values.mean()):+.2f} of [-1, 1])"
    if len(values) > 1 and bool((values.std(dim=0) < DEGENERATE_STD).all()):
        return "all samples are the same image"
    if bool((values.flatten(1).std(dim=1) < DEGENERATE_STD).all()):
        return "every sample is one flat tone"
    share = saturated_share(images)
    if share > SATURATED_SHARE and 1.0 - share < (1.0 - saturated) / 10.0:
        theirs = f"{100 * saturated:.2f} % in the data set"
        return f"samples are saturated: {100 * share:.2f} % of their pixels are black or white, against {theirs}"
    return ""


def _no_images(dataset: Mapping[str, Any]) -> torch.Tensor:
    return torch.zeros(0, dataset["channels"], dataset["height"], dataset["width"], dtype=torch.uint8)


def grid(images: torch.Tensor, columns: int = 10, border: int = 2) -> torch.Tensor:
    """uint8 (N, C, H, W) → one uint8 image (C, rows·(H + border) + border, …), row by row, on mid-gray."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.full(
        (channels, rows * (height + border) + border, columns * (width + border) + border), 128, dtype=torch.uint8
    )
    for index in range(n):
        top = border + (index // columns) * (height + border)
        left = border + (index % columns) * (width + border)
        sheet[:, top : top + height, left : left + width] = images[index]
    return sheet
