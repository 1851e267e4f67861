"""Guidance: the denoiser that samplers call. Classifier-free guidance (Ho and Salimans 2022), and autoguidance.

D = lerp(D(x, no label), D(x, label), scale). Scale 0 is unconditional, 1 conditional; above 1 the label's effect is
exaggerated. D is an affine map of the network's output that both passes share, so this equals mixing noise predictions.
Both passes run as one batch of twice the size. Outside an interval of noise levels, D is conditional: guidance at high
levels costs diversity, and at low ones does nothing (Kynkäänniemi et al. 2024).

Autoguidance (Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself") replaces D(x, no label) by a
worse denoiser of the same images and labels, D = lerp(D_worse(x), D(x), scale), and needs no labels.
"""

from collections.abc import Callable, Sequence

import torch

from slimdiff.diffusion.denoiser import NO_LABEL, WHITE, Denoiser
from slimdiff.diffusion.processes import VESDE, VP


class Guided:
    """A denoiser with the labels of a batch.

    Args:
        labels: int64 (N,) for the N images of a call; None: unconditional.
        scale: of guidance; unused without labels and guide.
        guide: the worse denoiser of autoguidance; None: classifier-free guidance.
        interval: smallest and largest noise level that are guided; None: all.
        clip: clamp estimates of x_0 to [black, white]. With few steps noise predictions diverge otherwise.
        watch: called after each call.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        labels: torch.Tensor | None = None,
        scale: float = 1.0,
        *,
        guide: Denoiser | None = None,
        interval: Sequence[float] | None = None,
        clip: bool = False,
        watch: Callable[[], None] | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.labels = labels
        self.scale = scale
        self.guide = guide
        self.interval = interval
        self.clip = clip
        self.watch = watch
        self.evaluations = 0  # of both networks, for all images and calls
        self.guide_evaluations = 0  # of the guide's

    @property
    def passes(self) -> tuple[int, ...]:
        """Evaluations of the denoiser's network per image that a call can need."""
        if self.guide is not None or self.labels is None or self.scale in (0.0, 1.0):
            return (1,)
        return (2,) if self.interval is None else (1, 2)

    @property
    def sde(self) -> VESDE:
        """The denoiser's VE SDE."""
        return self.denoiser.sde

    @property
    def vp(self) -> VP:
        """The denoiser's VP process."""
        return self.denoiser.vp

    def sigma_range(self) -> tuple[float, float]:
        """Return the denoiser's smallest and largest noise level."""
        return self.denoiser.sigma_range()

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the estimate of x_0 for x (N, C, S, S) and sigma (N,)."""
        x_0 = self.unclipped(x, sigma)
        return x_0.clamp(self.denoiser.settings.black, WHITE) if self.clip else x_0

    def unclipped(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return the estimate for a scheduler that clips by itself."""
        x_0 = self._estimate(x, sigma)
        if self.watch is not None:
            self.watch()
        return x_0

    def _estimate(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        self.evaluations += len(x)
        if self.guide is None and (self.labels is None or self.scale == 0.0):
            return self.denoiser(x, sigma)
        if self.scale == 1.0:
            return self.denoiser(x, sigma, self.labels)
        if self.interval is None:
            guided = torch.arange(len(x), device=x.device)
        else:  # which images these are, the CPU has to wait for
            low, high = self.interval
            guided = ((low <= sigma) & (sigma <= high)).nonzero().squeeze(1)
        self.evaluations += len(guided)
        images, sigmas = x[guided], sigma[guided]
        if self.guide is not None:
            self.guide_evaluations += len(guided)
            better, labels = self.denoiser(x, sigma, self.labels), None if self.labels is None else self.labels[guided]
            worse = self.guide(images, sigmas, labels) if len(guided) else images
        else:
            assert self.labels is not None
            both = torch.cat([self.labels, torch.full_like(self.labels[guided], NO_LABEL)])
            x_0 = self.denoiser(torch.cat([x, images]), torch.cat([sigma, sigmas]), both)
            better, worse = x_0.tensor_split([len(x)])
        return better.index_copy(0, guided, worse.lerp(better[guided], self.scale))


def labels_in_turn(n: int, classes: int | Sequence[int]) -> torch.Tensor:
    """Return labels (n,) that cycle through the classes: all of a number, or those listed."""
    order = torch.tensor(list(range(classes)) if isinstance(classes, int) else list(classes))
    return order[torch.arange(n) % len(order)]
