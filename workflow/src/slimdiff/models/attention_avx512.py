"""The AVX-512 attention kernel: bfloat16 on CPUs with AVX-512 BF16 but no AMX, such as AMD's since Zen 4.

torch's kernels take two to three times as long there, in bfloat16 and in float32 (benchmarks/attention.py). The source,
attention_avx512.c, is compiled on first use, which takes two seconds; the library is deleted once loaded. Without a C
compiler torch's kernel is used, and `slimdiff doctor` reports it.
"""

import ctypes
import functools
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from slimdiff.runtime.devices import cpu_flags

SOURCE = Path(__file__).with_suffix(".c")
# Of the C source: fingerprints see Python alone, so an edit there must change this.
SHA256 = "60823942d3bf5b115c1f6c8708f96edef4a0958c24ffdf5b6ac1f3d433a62b1e"
INSTRUCTIONS = {
    "avx512f": "-mavx512f",
    "avx512bw": "-mavx512bw",
    "avx512vl": "-mavx512vl",
    "avx512_bf16": "-mavx512bf16",
}
OPTIONS = ("-O3", "-std=gnu11", "-shared", "-fPIC", *INSTRUCTIONS.values())
WIDTHS = (16, 32, 64)  # of a head
BLOCK = 128  # tokens are a multiple of it


def fits(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether the kernel is available and supports these tensors.

    They must be bfloat16 of one shape, with a head width in WIDTHS and a multiple of BLOCK tokens, and not a compiler's
    traced tensors.
    """
    plain = all(type(tensor) is torch.Tensor and tensor.dtype == torch.bfloat16 for tensor in (q, k, v))
    shapes = q.shape == k.shape == v.shape and q.shape[-1] in WIDTHS and q.shape[-2] % BLOCK == 0
    return plain and shapes and not torch.compiler.is_compiling() and load()[0] is not None


def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return softmax(q kᵀ / sqrt(d)) v and, for its gradients, log2 of each query's sum of exponentials.

    Args:
        q, k, v: bfloat16 (…, tokens, d), contiguous, accepted by `fits`.

    Returns:
        bfloat16 (…, tokens, d) and float32 (…, tokens).
    """
    out, lse = torch.empty_like(q), torch.empty(q.shape[:-1])
    _call("attention_forward", (q, k, v, out, lse), q.shape)
    return out, lse


def backward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of q, k and v from that of `out`, all shaped like q."""
    delta = (out.float() * grad.float()).sum(-1)
    grads = torch.empty_like(q), torch.empty_like(q), torch.empty_like(q)
    _call("attention_backward", (q, k, v, grad, lse, delta, *grads), q.shape)
    return grads


@functools.cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """Return the compiled kernel and "", or None and the reason."""
    missing = sorted(set(INSTRUCTIONS) - cpu_flags())
    if missing:
        return None, f"this processor lacks {', '.join(missing)}"
    source = SOURCE.read_bytes()
    if hashlib.sha256(source).hexdigest() != SHA256:
        raise RuntimeError(f"{SOURCE} was edited: put its new SHA-256 into {__name__}.SHA256")
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None, "there is no C compiler: install gcc or set CC"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "attention.so")
        done = subprocess.run([compiler, *OPTIONS, "-o", library, SOURCE, "-lm"], capture_output=True, text=True)
        if done.returncode:
            return (
                None,
                f"{compiler} cannot compile the kernel: {done.stderr.strip().splitlines()[0] if done.stderr else ''}",
            )
        try:
            return ctypes.CDLL(str(library)), ""
        except OSError as error:
            return None, f"the compiled kernel does not load: {error}"


def _call(name: str, tensors: tuple[torch.Tensor, ...], shape: torch.Size) -> None:
    """Call a function of the kernel for all heads, on torch's number of threads.

    Heads are independent, so results do not depend on the number of threads.
    """
    library, why = load()
    if library is None:
        raise RuntimeError(why)
    function, (tokens, width) = getattr(library, name), shape[-2:]
    heads = shape[:-2].numel()
    threads = min(torch.get_num_threads(), heads)

    def run(first: int, end: int) -> None:
        places = [
            ctypes.c_void_p(tensor.data_ptr() + first * (tensor.numel() // heads) * tensor.element_size())
            for tensor in tensors
        ]
        if function(*places, end - first, tokens, width, ctypes.c_float(width**-0.5)):
            raise MemoryError("out of memory in the AVX-512 attention kernel")

    if threads == 1:
        run(0, heads)
        return
    ends = [heads * part // threads for part in range(threads + 1)]
    for job in [_pool(threads).submit(run, first, end) for first, end in itertools.pairwise(ends)]:
        job.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="attention")
