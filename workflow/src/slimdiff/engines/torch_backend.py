"""Bodies run by torch: layer by layer in bf16, or compiled by TorchInductor in fp32 or bf16."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from slimdiff.engines.network import Backend, Placement
from slimdiff.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Eager(Backend):
    """torch's own kernels, one layer after the other, weights and arithmetic in the precision."""

    fixed_batch = False

    def __init__(self, body: nn.Module, precision: str, placement: Placement) -> None:
        self.dtype = DTYPES[precision]
        self.body = body.to(placement.device, self.dtype)

    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> None:
        """Nothing to be done."""

    def __call__(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(x.to(self.dtype), embedding.to(self.dtype))
        return result.float()


class Compiled(Backend):
    """torch.compile of the graph that torch.export makes of the body, one for each batch size (dynamic=False).

    Exported first, because the graph then holds no Python that the compiler would have to break it at. Its cache lies
    in the site's folder, where a later process finds what this one compiled.
    """

    fixed_batch = True

    def __init__(self, body: nn.Module, precision: str, placement: Placement) -> None:
        compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
        if placement.device.type == "cpu" and not any(map(shutil.which, compilers)):
            raise UserError(
                "engine torch-compile needs a C++ compiler on the CPU, and there is neither g++ nor clang++: install "
                "one, or choose another engine"
            )
        self.dtype = DTYPES[precision]
        self.body = body.to(placement.device, self.dtype)
        self.placement = placement
        self.compiled: dict[int, Callable[..., torch.Tensor]] = {}

    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> None:
        """Export and compile for this batch size; the first call does the work."""
        if self.placement.cache is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.placement.cache.absolute() / "inductor")
        with torch.inference_mode(False), torch.no_grad():
            inputs = (self._cast(x), self._cast(embedding))
            exported = torch.export.export(self.body, inputs).module()
            self.compiled[len(x)] = _compile(exported, inputs)

    def __call__(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False), torch.no_grad():
            result: torch.Tensor = self.compiled[len(x)](self._cast(x), self._cast(embedding))
            return result.float()

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in the precision that was not made in inference mode, for which other code would be compiled."""
        return torch.empty(tensor.shape, dtype=self.dtype, device=tensor.device).copy_(tensor)


def _compile(exported: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Callable[..., torch.Tensor]:
    """The module compiled and called once; libraries in the cache that cannot be read any more are made anew.

    The C++ compiler writes them in place, so that a process killed while it ran leaves a part of one behind.
    """
    while True:
        compiled: Callable[..., torch.Tensor] = torch.compile(exported, dynamic=False, fullgraph=True)
        try:
            compiled(*inputs)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            damaged = _unreadable_library(error)
            if damaged is None:
                raise
            print(f"{damaged} cannot be read (was its compiler interrupted?): compiling it again", file=sys.stderr)
            damaged.unlink()
            torch.compiler.reset()
        else:
            return compiled


def _unreadable_library(error: BaseException) -> Path | None:
    """The file in the compiler's cache that could not be imported, where that is what `error` came from."""
    cause = error.__cause__ or error.__context__
    if not isinstance(cause, ImportError) or cause.path is None:
        return None
    path = Path(cause.path)
    ours = path.is_file() and path.is_relative_to(torch._inductor.runtime.cache_dir_utils.cache_dir())
    return path if ours else None
