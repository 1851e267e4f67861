"""DeepCache: reuse the deep features of a U-Net in the next evaluations (Ma, Fang and Wang 2024, section 3).

Deep features change little from one noise level to the next. One evaluation computes the whole network; the following
ones compute the outermost level alone, from the new image, the new noise level and the cached features below (branch 1
of the skips). With classifier-free guidance both passes of an image are rows of one batch, so each keeps its own.

`cache_interval: N` computes the first evaluation whole and every N-th after it, for one evaluation a step.
Heun evaluates every noise level but the first twice: for Euler's image and for the corrected one. There the first two
evaluations are whole, and every N-th after them: with N = 2 each level is computed whole once, and
its second evaluation reuses the features of the same level. Counted from the first evaluation, features would cross
from level to level, and FID rises fourfold (docs/decisions).
"""

from typing import Any

import torch
from torch import nn

from slimdiff.catalog.samplers import SAMPLER_FACTS
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.errors import UserError


class CachedUNet(nn.Module):
    """A U-Net that caches its deep features during the sampling of one batch.

    Args:
        network: with `outer_level` and `shallow_pass`, as in slimdiff.models.unet.
        interval: evaluations that share one set of features; 1 computes all of them whole.
        method: name of the sampler.
    """

    def __init__(self, network: nn.Module, interval: int, method: str) -> None:
        super().__init__()
        self.network = network
        self.interval = interval
        self.first = 1 if SAMPLER_FACTS[method].corrects else 0  # evaluation at which the count starts
        self.calls = self.shallow_calls = 0
        self._features: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Evaluate like the network: (N, C, S, S) → (N, C, S, S)."""
        whole = self.calls == 0 or (self.calls - self.first) % self.interval == 0
        self.calls += 1
        if whole or self._features is None:
            return self._whole(x, noise_level, labels)
        self.shallow_calls += 1
        out: torch.Tensor = self.network.shallow_pass(x, noise_level, labels, self._features)  # type: ignore[operator]
        return out

    def _whole(self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self._features = arguments[0]

        handle = self.network.outer_level().register_forward_pre_hook(keep)  # type: ignore[operator]
        try:
            out: torch.Tensor = self.network(x, noise_level, labels)
        finally:
            handle.remove()
        return out


def cache_features(denoiser: Denoiser, sampler: SamplerSettings) -> tuple[Denoiser, CachedUNet | None]:
    """Return a denoiser for one batch that caches features, and its network; for interval 1 `denoiser` and None.

    Raises:
        UserError: the network is not a U-Net, another engine than torch runs it, or only some noise levels are guided.
    """
    interval = sampler.cache_interval
    if interval == 1:
        return denoiser, None
    if not hasattr(denoiser.network, "shallow_pass"):
        raise UserError(
            f"sampler.cache_interval is {interval}; allowed for {type(denoiser.network).__name__}: 1, since only "
            "a U-Net run by engine torch can cache features"
        )
    if sampler.guidance_interval is not None:
        raise UserError(
            f"sampler.cache_interval is {interval}; allowed with guidance_interval {list(sampler.guidance_interval)}: 1"
        )
    network = CachedUNet(denoiser.network, interval, sampler.method)
    return Denoiser(network, denoiser.settings), network
