"""Sample images from a denoiser in batches, at the data set's size, and detect degenerate samples."""

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
from slimdiff.errors import UserError
from slimdiff.inference.deepcache import cache_features
from slimdiff.runtime.devices import autocast
from slimdiff.runtime.memory import HalvingBatch, OutOfMemory, images_that_fit
from slimdiff.runtime.memory import reason as memory_reason

DEGENERATE_STD = 1.0 / 255.0  # standard deviation of pixels in [-1, 1]: about half a gray level
SATURATED_SHARE = 0.999  # fraction of fully black or white pixels, if the data set has clearly fewer
Progress = Callable[[float, int], None]  # number of finished images, and their total


@dataclass(frozen=True)
class Sampled:
    """Images and their cost."""

    images: torch.Tensor  # uint8 (N, C, H, W)
    network_evaluations: float  # mean per image, shallow ones and those of a guide included
    reason: str  # why the images cannot be scored; empty if they can
    labels: torch.Tensor | None = None  # int64 (N,), the requested classes
    shallow_evaluations: float = 0.0  # mean per image: evaluations of only the outermost level (DeepCache)
    batch_size: int | None = None  # images per batch; halved if memory ran out, 0 if it ran out again
    guide_evaluations: float = 0.0  # mean per image: evaluations of the guide's network


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
    fill_memory: bool = False,
    guide: Denoiser | None = None,
) -> Sampled:
    """Sample n images in the data set's size and channels.

    If memory runs out, the batch is halved once, for the same images. If it runs out again, there are no images, and
    `reason` says why.

    Args:
        model: `channels`, `image_size`, `fit` of the model.
        dataset: `height`, `width` and `channels` of the data set, and its share of `saturated` pixels.
        seed: an image's noise depends on it and on the image's index alone.
        labels: int64 (n,), the classes to sample; None for an unconditional network.
        progress: called with the number of images done and n after each denoiser call and each batch.
        fill_memory: after the first batch, sample as many images at once as fit into a GPU's memory.
        guide: the worse denoiser of `settings.guide`.

    Raises:
        UserError: the sampler has a guide, and its denoiser is not given.
    """
    if (guide is None) != (settings.guide is None):
        named = "null" if settings.guide is None else settings.guide["optimization"]
        raise UserError(
            f"sampler.guide is {named}: give the model file of that recipe as guide (--guide), and no other"
        )
    device = next(itertools.chain(denoiser.network.parameters(), denoiser.network.buffers())).device
    shape = (model["channels"], model["image_size"], model["image_size"])
    images, evaluations, shallow, by_guide, finite = [], 0, 0, 0, True
    scale = settings.guidance if settings.guide is None else settings.guide["scale"]
    batches, start, before_filling = HalvingBatch(min(batch_size, n)), 0, 0

    def draw(size: int) -> tuple[torch.Tensor, bool, Guided, int]:
        indices = range(start, min(start + size, n))
        batch_labels = None if labels is None else labels[indices.start : indices.stop].to(device)
        watch = _watch(progress, settings, start, len(indices), n)
        caching, network = cache_features(denoiser, settings)
        guided = Guided(
            caching,
            batch_labels,
            scale,
            guide=guide,
            interval=settings.guidance_interval,
            clip=settings.clip,
            watch=watch,
        )
        with autocast(device, settings.precision):
            end = sample(guided, ImageNoise(seed, indices, device), shape, settings)
        x = denoiser.to_images(end.x)
        batch = to_dataset(torch.nan_to_num(x), dataset["height"], dataset["width"], dataset["channels"], model["fit"])
        cached = len(indices) * max(guided.passes) * (network.shallow_calls if network else 0)
        return batch.cpu(), bool(torch.isfinite(x).all()), guided, cached

    while start < n:
        try:
            batch, batch_finite, guided, cached = batches.run(draw)
        except FloatingPointError as error:
            return Sampled(_no_images(dataset), 0.0, str(error), labels, batch_size=batches.size)
        except OutOfMemory as error:
            if before_filling:  # the images that fitted
                batches, before_filling = HalvingBatch(before_filling), 0
                continue
            why = memory_reason("sampling.batch_size", batch_size, error)
            return Sampled(_no_images(dataset), 0.0, why, labels, batch_size=0)
        images.append(batch)
        finite = finite and batch_finite
        evaluations += guided.evaluations
        by_guide += guided.guide_evaluations
        shallow += cached
        start += len(batch)
        if fill_memory and start == len(batch) < n:
            before_filling = len(batch)
            batches = HalvingBatch(min(images_that_fit(device, before_filling), n))
        if progress is not None:
            progress(float(start), n)
    samples = torch.cat(images)
    reason = _degenerate(samples, finite, dataset["saturated"])
    return Sampled(samples, evaluations / n, reason, labels, shallow / n, batches.size, by_guide / n)


def _watch(
    progress: Progress | None, settings: SamplerSettings, done: int, batch: int, n: int
) -> Callable[[], None] | None:
    """Return the callback after each denoiser call of a batch; None without progress or a known number of calls."""
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
    """Return why the images cannot be scored, or ""; `saturated` is the data set's share of such pixels."""
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
        return (
            f"samples are saturated: {100 * share:.2f} % of their pixels are black or white, {100 * saturated:.2f} % "
            "in the data set"
        )
    return ""


def _no_images(dataset: Mapping[str, Any]) -> torch.Tensor:
    return torch.zeros(0, dataset["channels"], dataset["height"], dataset["width"], dtype=torch.uint8)
