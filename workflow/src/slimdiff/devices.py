"""Where a job runs, and how it uses that device."""

import ctypes
import platform
import sys
from pathlib import Path
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def pick_device(gpu: int, threads: int) -> torch.device:
    """CUDA where there is one and `gpu` is not 0, else the CPU with `threads` threads.

    Denormals are flushed to zero: they cost the small networks a quarter of their speed (docs/decisions.md).
    """
    torch.set_num_threads(max(1, threads))
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    if gpu and torch.cuda.is_available():
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        return torch.device("cuda")
    return torch.device("cpu")


def _keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed: by default every large activation is given back to the kernel and faulted
    in again page by page, which costs up to half of the time on virtual machines (docs/decisions.md)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # not there with musl
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


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


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
