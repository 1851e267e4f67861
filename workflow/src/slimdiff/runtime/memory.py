"""Out of memory: halve the batch once; if memory runs out again, the cell fails with a reason.

`images_that_fit` chooses a batch by a GPU's free memory. Where the kernel kills the process instead, the job fails.
"""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
FILL = 0.7  # of a GPU's free memory, by an estimate; where it is too high, half of it fits

# Messages of allocators without an error class of their own: torch on the CPU, cuBLAS, cuDNN, ONNX Runtime.
OOM_MESSAGES = ("DefaultCPUAllocator: ", "_STATUS_ALLOC_FAILED", "Failed to allocate memory", "std::bad_alloc")


class OutOfMemory(Exception):
    """Memory ran out at every batch size of `tried`, largest first."""

    def __init__(self, tried: tuple[int, ...]) -> None:
        super().__init__(f"tried {' and '.join(map(str, tried))}")
        self.tried = tried


def is_oom(error: BaseException) -> bool:
    """Return whether `error` means that memory ran out, on a GPU or the CPU."""
    if isinstance(error, (OutOfMemory, MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in OOM_MESSAGES)


class HalvingBatch:
    """A batch size that is halved the first time memory runs out, for the rest of the run.

    Args:
        size: batch size, 1 or more.
    """

    def __init__(self, size: int) -> None:
        self.tried: tuple[int, ...] = (size,)

    @property
    def size(self) -> int:
        """Current batch size."""
        return self.tried[-1]

    def run(self, work: Callable[[int], T]) -> T:
        """Return `work(size)`; on the first out-of-memory error halve the size and try again.

        Raises:
            OutOfMemory: memory ran out again, or at batch size 1.
        """
        while True:
            try:
                return work(self.size)
            except Exception as error:
                if not is_oom(error):
                    raise
            # Outside the except block: its error keeps the failed call's tensors alive.
            if len(self.tried) > 1 or self.size == 1:
                raise OutOfMemory(self.tried)
            self.tried = (self.size, self.size // 2)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def images_that_fit(device: torch.device, at_once: int) -> int:
    """Return how many images a GPU can sample at once, at least as many as before; on a CPU, as many as before.

    Args:
        at_once: images of the largest batch so far, by whose peak of memory an image is measured. Weights count with
            them, so the estimate is a low one.
    """
    if device.type != "cuda":
        return at_once
    held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + held_back
    return max(at_once, int(FILL * free * at_once / torch.cuda.max_memory_allocated(device)))


def reason(where: str, requested: int, error: OutOfMemory) -> str:
    """Return the reason of a failed cell and the fix; `where` is the config key of the batch size `requested`."""
    fix = "lower it" if error.tried[0] > 1 else "use a device with more memory"
    return f"out of memory: {where} is {requested} ({error}); {fix}"
