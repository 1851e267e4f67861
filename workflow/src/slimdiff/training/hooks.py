"""What a training does while it goes on, beside gradient descent on its loss: nothing, unless a regime says otherwise.

A regime has no memory of its own: what it does follows from the weights and the step, so that a training that was
interrupted goes on bit for bit.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from slimdiff.diffusion.denoiser import Denoiser


class TrainingHooks:
    """Plain training; the base of all others."""

    def training_sigmas(self, denoiser: Denoiser, n: int, generator: torch.Generator) -> torch.Tensor:
        """The noise levels (n,) of a step's images, on the CPU."""
        return denoiser.training_sigmas(n, generator)

    def loss(
        self,
        denoiser: Denoiser,
        x_0: torch.Tensor,
        sigma: torch.Tensor,
        noise: torch.Tensor,
        labels: torch.Tensor | None,
    ) -> torch.Tensor:
        """What the step descends on, per image (N,); arguments are those of the denoiser's loss."""
        return denoiser.loss(x_0, sigma, noise, labels)

    @contextlib.contextmanager
    def around_backward(self, network: nn.Module) -> Iterator[None]:
        """Around the loss and its gradients."""
        yield

    @contextlib.contextmanager
    def around_step(
        self, network: nn.Module, average: Mapping[str, torch.Tensor], step: int, steps: int
    ) -> Iterator[None]:
        """Around the optimizer's step and the update of the average.

        Args:
            average: the averaged state dict, updated within.
            step: which one it is, from 0.
            steps: of the whole training.
        """
        yield
