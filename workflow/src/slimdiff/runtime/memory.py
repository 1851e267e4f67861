"""What a run does where memory runs out: half the batch, once; after that the cell fails and says so.

The kernel's own way, which is to kill the process, cannot be met from inside it: that is a failed job.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

# What allocators say that raise no error of their own kind: torch's on the CPU, cuBLAS' and cuDNN's, ONNX Runtime's.
SAYINGS = ("DefaultCPUAllocator: ", "_STATUS_ALLOC_FAILED", "Failed to allocate memory", "std::bad_alloc")


class OutOfMemory(Exception):
    """There is no room for what was asked; `tried` are the batch sizes, the largest first."""

    def __init__(self, tried: tuple[int, ...]) -> None:
        super().__init__(f"tried {' and '.join(map(str, tried))}")
        self.tried = tried


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (OutOfMemory, MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)


class HalvedOnce:
    """A batch size that is halved the first time memory runs out, for the rest of the run.

    Args:
        size: images at once, 1 or more.
    """

    def __init__(self, size: int) -> None:
        self.tried: tuple[int, ...] = (size,)

    @property
    def size(self) -> int:
        """Images at once from here on."""
        return self.tried[-1]

    def run(self, work: Callable[[int], T]) -> T:
        """`work(size)`; where memory runs out and nothing was halved yet, once more with half the size.

        Raises:
            OutOfMemory: it ran out again, or one image at once was asked for.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not ran_out(error):
                    raise
            # Outside the block above, whose error holds on to everything that the failed call had in memory.
            if len(self.tried) > 1 or self.size == 1:
                raise OutOfMemory(self.tried)
            self.tried = (self.size, self.size // 2)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def reason(where: str, asked: int, error: OutOfMemory) -> str:
    """Why a cell failed, and the way out; `where` is the config key that asked for so many images at once."""
    way_out = "lower it" if error.tried[0] > 1 else "use a device with more memory"
    return f"out of memory: {where} is {asked} ({error}); {way_out}"
