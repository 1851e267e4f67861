"""The device of a job: choice, precision and description."""

import contextlib
import ctypes
import functools
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from slimdiff.errors import UserError
from slimdiff.runtime.gpus import claim

PRECISIONS = ("float32", "bfloat16", "auto")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
NOT_DETERMINISTIC = "does not have a deterministic implementation"  # in the errors of torch


def pick_device(gpu: int, threads: int) -> torch.device:
    """Return CUDA if available and `gpu` is not 0, else the CPU with `threads` threads.

    Of several visible GPUs the process claims one that no other job uses, until it ends.
    Denormals are flushed to zero, since they cost the small networks a quarter of their speed (docs/decisions).
    """
    torch.set_num_threads(max(1, threads))
    torch.set_flush_denormal(True)
    keep_freed_memory()
    if gpu and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        torch.cuda.set_device(claim(tuple(str(properties.uuid) for properties in gpus)))
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        return torch.device("cuda")
    return torch.device("cpu")


@contextlib.contextmanager
def autotuned_kernels() -> Iterator[None]:
    """Inside the block, cuDNN tries its kernels for each new shape and keeps the fastest, deterministic or not."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = True, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


@contextlib.contextmanager
def deterministic_operations(device: torch.device) -> Iterator[None]:
    """Inside the block, every operation on a GPU has the same result in every run.

    Gradients of many operations else add up in any order. Forward passes need cuDNN's choice alone (`pick_device`).
    It is no warning: attention's gradient stays undetermined where torch only warns.

    Raises:
        UserError: an operation has no such algorithm, as one of a plugin's family may have none.
    """
    if device.type != "cuda":
        yield  # the setting imports torch's compiler, which takes time
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads at its first product
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # costly, to find bugs
    try:
        yield
    except RuntimeError as error:
        if NOT_DETERMINISTIC not in str(error):
            raise
        operation = str(error).partition(NOT_DETERMINISTIC)[0].strip()
        raise UserError(
            f"a training on a GPU has to give the same weights in every run, and torch's {operation} cannot: let the "
            "network use another operation, or train on the CPU (--resources gpu=0)"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def kernels_of(device: torch.device) -> str | None:
    """Return how CUDA's kernels are chosen at the moment: autotuned or deterministic; None on a CPU."""
    if device.type != "cuda":
        return None
    return "autotuned" if torch.backends.cudnn.benchmark else "deterministic"


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on `device`, without waiting for a GPU to finish its queue."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def compile_mode(device: torch.device) -> str | None:
    """Return the mode of torch.compile: with CUDA graphs on a GPU, which start all kernels of a network at once."""
    return "reduce-overhead" if device.type == "cuda" else None


def check_compiler(device: torch.device, needed_by: str, otherwise: str) -> None:
    """Raise UserError if torch.compile lacks the compiler that it needs: of C++ on a CPU, of C for a GPU (Triton's).

    Args:
        needed_by: the setting, and `otherwise` what to do without a compiler, for the message.
    """
    if find_compiler(device) is None:
        place = "for the GPU" if device.type == "cuda" else "on the CPU"
        language, compilers = ("C", "gcc nor clang") if device.type == "cuda" else ("C++", "g++ nor clang++")
        raise UserError(
            f"{needed_by} needs a {language} compiler {place}, but neither {compilers} is installed: install one, or "
            f"{otherwise}"
        )


def find_compiler(device: torch.device) -> str | None:
    """Return the path of the compiler that torch.compile uses for `device`; None without one."""
    variable, *others = ("CC", "gcc", "clang") if device.type == "cuda" else ("CXX", "g++", "clang++")
    return next(filter(None, map(shutil.which, (os.environ.get(variable, others[0]), *others))), None)


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory.

    By default it returns every large activation to the kernel, which faults it in again page by page. On virtual
    machines this costs up to half of the time (docs/decisions)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # glibc's maximum
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which networks compute in `precision`: float32, bfloat16, or auto.

    Weights stay float32, and so do operations that bfloat16 is too coarse for. `auto` is bfloat16 on devices that are
    faster in it: CPUs with AMX, AMD's with AVX-512 bf16, and CUDA from compute capability 8. Intel's AVX-512 bf16
    without AMX takes 1.3 to 2.5 times as long as float32 (docs/decisions).
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=resolve_precision(device, precision) == "bfloat16")


def resolve_precision(device: torch.device, precision: str) -> str:
    """Return `precision`, with `auto` resolved for this device.

    Raises:
        UserError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision is {precision!r}; allowed: {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = has_amx() or ("avx512_bf16" in cpu_flags() and _cpuinfo("vendor_id") == "AuthenticAMD")
    return "bfloat16" if has_bfloat16 else "float32"


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_device(device: torch.device, threads: int) -> dict[str, Any]:
    """Return the hardware and the torch version, for the record of a measurement."""
    return {
        "device": device.type,
        "cpu_model": _cpu_model(),
        "gpu_model": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": threads,
        "torch_version": torch.__version__,
    }


def has_amx() -> bool:
    """Return whether the processor has AMX for bfloat16: matrix products in tiles."""
    return "amx_bf16" in cpu_flags()


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction sets of the processor by Linux's names; none on other systems."""
    return frozenset(_cpuinfo("flags").split())


@functools.cache  # a sampler with precision auto needs it for each batch
def _cpuinfo(key: str) -> str:
    """Return the first processor's value of `key` in /proc/cpuinfo, or an empty string."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return ""
