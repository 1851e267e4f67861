"""Training hooks: changes of the loss and the weights during training.

Hooks are stateless: they depend on the weights and the step alone, so an interrupted training resumes bit for bit.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from slimdiff.diffusion.denoiser import Denoiser, NoisyBatch


class TrainingHooks:
    """Plain training; the base class of all hooks."""

    def training_sigmas(self, denoiser: Denoiser, n: int, generator: torch.Generator) -> torch.Tensor:
        """Return the noise levels (n,) of a step's images, on the CPU."""
        return denoiser.training_sigmas(n, generator)

    def loss(self, denoiser: Denoiser, batch: NoisyBatch, progress: float) -> torch.Tensor:
        """Return the loss per image (N,).

        Args:
            progress: fraction of the training's steps that are done, below 1.
        """
        return denoiser.loss(*batch)

    @contextlib.contextmanager
    def around_backward(self, network: nn.Module) -> Iterator[None]:
        """Wrap the loss and its gradients."""
        yield

    @contextlib.contextmanager
    def around_step(
        self, network: nn.Module, average: Mapping[str, torch.Tensor], step: int, steps: int
    ) -> Iterator[None]:
        """Wrap the optimizer's step and the update of the average.

        Args:
            average: the averaged state dict, updated within.
            step: its index, from 0.
            steps: number of steps of the whole training.
        """
        yield
