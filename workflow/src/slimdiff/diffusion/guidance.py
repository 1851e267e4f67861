"""Classifier-free guidance (Ho and Salimans 2022): the denoiser that samplers are given.

D = lerp(D(x, no label), D(x, label), scale): 0 is the unconditional denoiser, 1 the conditional one, more than 1
exaggerates what the label changes. D and the network's output differ by an affine map that both passes share, so this
is the same as mixing noise predictions. Both passes are one batch of twice the size.
"""

from collections.abc import Callable, Sequence

import torch

from slimdiff.diffusion.denoiser import NO_LABEL, WHITE, Denoiser
from slimdiff.diffusion.ve import VESDE
from slimdiff.diffusion.vp import VP


class Guided:
    """A denoiser with the labels of the images that are being drawn.

    Args:
        labels: int64 (N,) for the N images of a call; None: no network pass is told a label.
        scale: of guidance, where there are labels.
        clip: keep estimates of x_0 within black and white. With few steps noise predictions diverge otherwise.
        watch: called after each call.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        labels: torch.Tensor | None = None,
        scale: float = 1.0,
        clip: bool = False,
        watch: Callable[[], None] | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.labels = labels
        self.scale = scale
        self.clip = clip
        self.watch = watch

    @property
    def passes(self) -> int:
        """Network evaluations per image of one call."""
        return 1 if self.labels is None or self.scale in (0.0, 1.0) else 2

    @property
    def sde(self) -> VESDE:
        """Of the denoiser."""
        return self.denoiser.sde

    @property
    def vp(self) -> VP:
        """Of the denoiser."""
        return self.denoiser.vp

    def sigma_range(self) -> tuple[float, float]:
        """Of the denoiser."""
        return self.denoiser.sigma_range()

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x (N, C, S, S) and sigma (N,) → the estimate of x_0."""
        x_0 = self._estimate(x, sigma)
        if self.watch is not None:
            self.watch()
        return x_0.clamp(self.denoiser.settings.black, WHITE) if self.clip else x_0

    def _estimate(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if self.labels is None or self.scale == 0.0:
            return self.denoiser(x, sigma)
        if self.scale == 1.0:
            return self.denoiser(x, sigma, self.labels)
        both = torch.cat([self.labels, torch.full_like(self.labels, NO_LABEL)])
        conditional, unconditional = self.denoiser(x.repeat(2, 1, 1, 1), sigma.repeat(2), both).chunk(2)
        return unconditional.lerp(conditional, self.scale)


def labels_in_turn(n: int, classes: int | Sequence[int]) -> torch.Tensor:
    """Labels (n,) that go through the classes, all of them or those listed, again and again."""
    order = torch.tensor(list(range(classes)) if isinstance(classes, int) else list(classes))
    return order[torch.arange(n) % len(order)]
