"""A network that an engine runs: the same call as the network's own, and the embedding in float32 before it."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from slimdiff.catalog.engines import Runtime
from slimdiff.runtime.memory import is_oom


@dataclass(frozen=True)
class Placement:
    """Where an engine works."""

    device: torch.device
    cache: Path | None = None  # folder for what compilers make, shared between processes; None: their own default

    @property
    def threads(self) -> int:
        """CPU threads, as torch has them."""
        return torch.get_num_threads()


class Backend(ABC):
    """Runs a body. One with `fixed_batch` is made for the batch sizes that it was prepared for."""

    fixed_batch: bool

    @abstractmethod
    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> None:
        """Get ready for batches of the size of these inputs."""

    @abstractmethod
    def __call__(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x (N, C, S, S) and embedding (N, embed_dim), float32 on the site's device → F (N, C, S, S), float32."""


class EngineNetwork(nn.Module):
    """The network's own call, x (N, C, S, S), noise_level (N,) and labels (N,) or None → F (N, C, S, S) in float32.

    An engine of fixed batch sizes gets smaller batches filled up with copies of the last image, to the next size that
    it was prepared for; a batch larger than any of them prepares it for its own size. No image sees another one's
    pixels, so an image depends on the batch no more than by the rounding of kernels for different sizes.

    Args:
        shape: (C, S, S) of an image.
        stands_for: parameters, and those that are not zero, of the network before it was lowered.
    """

    def __init__(
        self,
        embedder: nn.Module,
        backend: Backend,
        runtime: Runtime,
        placement: Placement,
        shape: tuple[int, int, int],
        source_params: tuple[int, int],
    ) -> None:
        super().__init__()
        self.embedder = embedder.to(placement.device)
        self.backend, self.runtime, self.placement, self.shape, self.source_params = (
            backend,
            runtime,
            placement,
            shape,
            source_params,
        )
        self.sizes: list[int] = []  # batch sizes that it is ready for, ascending
        self.anchor: torch.Tensor
        self.register_buffer("anchor", torch.zeros(0, device=placement.device), persistent=False)  # says the device

    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """As the network that this stands for."""
        with torch.autocast(x.device.type, enabled=False):
            n, room = len(x), 0
            if self.backend.fixed_batch:
                if not self.sizes or n > self.sizes[-1]:
                    self.prepare(n)
                room = next(size for size in self.sizes if size >= n) - n
            batch_labels = None if labels is None else _padded(labels, room)
            embedding = self.embedder(_padded(noise_level.float(), room), batch_labels)
            try:
                return self.backend(_padded(x.float(), room), embedding)[:n]
            except Exception as error:
                if is_oom(error):  # smaller batches must not be filled up to this size again
                    self.sizes = [size for size in self.sizes if size < n + room]
                raise

    def prepare(self, batch_size: int) -> float:
        """Compile for batches of `batch_size` images, and run once; seconds that it took, 0 where it was ready."""
        if batch_size in self.sizes:
            return 0.0
        start = time.perf_counter()
        device = self.placement.device
        x = torch.zeros(batch_size, *self.shape, device=device)
        embedding = self.embedder(torch.zeros(batch_size, device=device), None)
        self.backend.prepare(x, embedding)
        self.backend(x, embedding)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.sizes = sorted([*self.sizes, batch_size])
        return time.perf_counter() - start


def _padded(tensor: torch.Tensor, room: int) -> torch.Tensor:
    """With `room` copies of its last row after it."""
    return torch.cat([tensor, tensor[-1:].expand(room, *tensor.shape[1:])]) if room else tensor
