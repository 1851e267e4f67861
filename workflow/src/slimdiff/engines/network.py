"""A network run by an engine: it is called like the original, and embeds noise level and label in float32."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from slimdiff.catalog.engines import Runtime
from slimdiff.compression.linear_quant import dense_weight, is_quantized
from slimdiff.runtime.memory import is_oom


@dataclass(frozen=True)
class Placement:
    """Where an engine runs."""

    device: torch.device
    cache: Path | None = None  # the compilers' cache folder, shared between processes; None: their default

    @property
    def threads(self) -> int:
        """Number of CPU threads, torch's setting."""
        return torch.get_num_threads()


class Backend(ABC):
    """Run the body of a network; with `fixed_batch`, only at prepared batch sizes."""

    fixed_batch: bool

    @abstractmethod
    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> None:
        """Prepare for the batch size of these inputs."""

    @abstractmethod
    def __call__(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """x (N, C, S, S) and embedding (N, embed_dim), float32 on the placement's device → F (N, C, S, S), float32."""


class EngineNetwork(nn.Module):
    """x (N, C, S, S), noise_level (N,) and labels (N,) or None → F (N, C, S, S) in float32, as in the network.

    With fixed batch sizes, batches are padded with copies of the last image to the next prepared size; a batch larger
    than all of them prepares its own size. Images do not interact, so a batch affects an image only by the rounding of
    kernels for different sizes.

    Args:
        shape: (C, S, S) of an image.
        source_params: parameters, and non-zero ones, of the network before it was lowered.
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
        self.sizes: list[int] = []  # prepared batch sizes, ascending
        self.anchor: torch.Tensor
        self.register_buffer("anchor", torch.zeros(0, device=placement.device), persistent=False)  # records the device

    def forward(self, x: torch.Tensor, noise_level: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Evaluate like the original network."""
        with torch.autocast(x.device.type, enabled=False):
            n, padding = len(x), 0
            if self.backend.fixed_batch:
                if not self.sizes or n > self.sizes[-1]:
                    self.prepare(n)
                padding = next(size for size in self.sizes if size >= n) - n
            batch_labels = None if labels is None else _padded(labels, padding)
            embedding = self.embedder(_padded(noise_level.float(), padding), batch_labels)
            try:
                return self.backend(_padded(x.float(), padding), embedding)[:n]
            except Exception as error:
                if is_oom(error):  # smaller batches must not be padded to this size again
                    self.sizes = [size for size in self.sizes if size < n + padding]
                raise

    def prepare(self, batch_size: int) -> float:
        """Compile for batches of `batch_size` images and run once; return the seconds, 0 if already prepared."""
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


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Return the numbers of parameters and of non-zero parameters.

    Quantized weights count as the floats that they encode. Scales, code books and fixed frequencies do not count.
    """
    if isinstance(network, EngineNetwork):  # its graph has no parameters
        return network.source_params
    params = nonzero = 0
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            quantized = is_quantized(module) and name == "weight"
            values = dense_weight(module) if quantized else parameter
            params += values.numel()
            nonzero += int(torch.count_nonzero(values))
    return params, nonzero


def _padded(tensor: torch.Tensor, padding: int) -> torch.Tensor:
    """Append `padding` copies of the last row."""
    return torch.cat([tensor, tensor[-1:].expand(padding, *tensor.shape[1:])]) if padding else tensor
