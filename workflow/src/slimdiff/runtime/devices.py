"""Where a job runs, and how it uses that device."""

import ctypes
import functools
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from slimdiff.errors import UserError
from slimdiff.runtime.gpus import claim

PRECISIONS = ("float32", "bfloat16", "auto")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def pick_device(gpu: int, threads: int) -> torch.device:
    """CUDA where there is one and `gpu` is not 0, else the CPU with `threads` threads.

    Of several GPUs that this process can see it takes one that no other job has, and keeps it until it ends.
    Denormals are flushed to zero: they cost the small networks a quarter of their speed (docs/decisions).
    """
    torch.set_num_threads(max(1, threads))
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    if gpu and torch.cuda.is_available():
        seen = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        torch.cuda.set_device(claim(tuple(str(each.uuid) for each in seen)))
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        return torch.device("cuda")
    return torch.device("cpu")


def _keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed: by default every large activation is given back to the kernel and faulted
    in again page by page, which costs up to half of the time on virtual machines (docs/decisions)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # not there with musl
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which networks compute in `precision`: float32, bfloat16, or auto.

    Weights stay float32, and so does what bfloat16 is too coarse for. `auto` is bfloat16 where the device has
    instructions for it: AVX-512 bf16 or AMX on a CPU, compute capability 8 or more on CUDA.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve_precision(device, precision) == "bfloat16")


def resolve_precision(device: torch.device, precision: str) -> str:
    """`precision` with `auto` resolved for this device."""
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = bool({"avx512_bf16", "amx_bf16"} & cpu_flags())
    return "bfloat16" if has_bfloat16 else "float32"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_device(device: torch.device, threads: int) -> dict[str, Any]:
    """What a measurement ran on, for its record."""
    return {
        "device": device.type,
        "cpu_model": _cpu_model(),
        "gpu_model": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": threads,
        "torch_version": torch.__version__,
    }


@functools.cache
def has_amx() -> bool:
    """Whether the processor multiplies bfloat16 matrices in tiles."""
    return "amx_bf16" in cpu_flags()


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the processor, by Linux' names; none where there is no Linux."""
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    """The first processor's value of `key` in /proc/cpuinfo, or nothing."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return ""
