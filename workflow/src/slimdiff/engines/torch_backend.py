"""torch: run a body eagerly in bf16, or compiled by TorchInductor in fp32 or bf16."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from slimdiff.engines.network import Backend, Placement
from slimdiff.runtime.devices import check_compiler, compile_mode

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Eager(Backend):
    """torch's eager kernels, weights and arithmetic in the given precision."""

    fixed_batch = False

    def __init__(self, body: nn.Module, precision: str, placement: Placement) -> None:
        self.dtype = DTYPES[precision]
        self.body = body.to(placement.device, self.dtype)

    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> None:
        """Do nothing: eager kernels take any batch size."""

    def __call__(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(x.to(self.dtype), embedding.to(self.dtype))
        return result.float()


class Compiled(Backend):
    """torch.compile of the exported graph of the body, one per batch size (dynamic=False).

    torch.export removes the Python code at which the compiler would break the graph. The placement's cache folder
    shares compiled code with later processes. A GPU replays the kernels as a CUDA graph.
    """

    fixed_batch = True

    def __init__(self, body: nn.Module, precision: str, placement: Placement) -> None:
        check_compiler(placement.device, "engine torch-compile", "choose another engine")
        self.dtype = DTYPES[precision]
        self.body = body.to(placement.device, self.dtype)
        self.placement = placement
        self.compiled: dict[int, Callable[..., torch.Tensor]] = {}

    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> None:
        """Export and compile for this batch size with a first call."""
        if self.placement.cache is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.placement.cache.absolute() / "inductor")
        with torch.inference_mode(False), torch.no_grad():
            inputs = (self._cast(x), self._cast(embedding))
            exported = torch.export.export(self.body, inputs).module()
            self.compiled[len(x)] = _compile(exported, inputs, compile_mode(x.device))

    def __call__(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad():
            result: torch.Tensor = self.compiled[len(x)](self._cast(x), self._cast(embedding))
            return result.to(torch.float32, copy=x.is_cuda)  # the next replay of a CUDA graph overwrites its result

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy in the precision, created outside inference mode, whose tensors would compile to other code."""
        return torch.empty(tensor.shape, dtype=self.dtype, device=tensor.device).copy_(tensor)


def _compile(exported: nn.Module, inputs: tuple[torch.Tensor, ...], mode: str | None) -> Callable[..., torch.Tensor]:
    """Compile the module and call it once; delete and rebuild damaged libraries in the cache.

    The C++ compiler writes libraries in place, so a process killed during compilation leaves a truncated one behind.
    """
    while True:
        compiled: Callable[..., torch.Tensor] = torch.compile(exported, dynamic=False, fullgraph=True, mode=mode)
        try:
            compiled(*inputs)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            damaged = _unreadable_library(error)
            if damaged is None:
                raise
            print(f"{damaged} is damaged, probably by an interrupted compiler: compiling it again", file=sys.stderr)
            damaged.unlink()
            torch.compiler.reset()
        else:
            return compiled


def _unreadable_library(error: BaseException) -> Path | None:
    """Return the file in the compiler's cache whose failed import caused `error`, or None."""
    cause = error.__cause__ or error.__context__
    if not isinstance(cause, ImportError) or cause.path is None:
        return None
    path = Path(cause.path)
    ours = path.is_file() and path.is_relative_to(torch._inductor.runtime.cache_dir_utils.cache_dir())
    return path if ours else None
