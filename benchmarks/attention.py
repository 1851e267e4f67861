"""Attention in bfloat16 on a CPU without AMX: our kernel against torch's in float32 and in bfloat16.

Queries, keys and values have the shape of the paper's largest attention layer: 4,096 tokens, 4 heads of 16,
batches of 8. Times are seconds of a forward pass, and of a forward and backward pass, interleaved.
"""

import functools
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _record import interleaved, record

from slimdiff.models import attention_avx512
from slimdiff.models.attention import attention
from slimdiff.runtime.devices import pick_device

SHAPE, THREADS, ROUNDS = (8, 4, 4096, 16), 2, 7
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def in_float32(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's kernel in float32, with bfloat16 inputs and output."""
    return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


def in_bfloat16(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's kernel in bfloat16."""
    mixed: torch.Tensor = F.scaled_dot_product_attention(q, k, v)
    return mixed


def seconds(kernel: Kernel, backwards: bool) -> float:
    """Return the seconds of one call, with or without gradients."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(SHAPE, generator=generator).bfloat16() for _ in range(4))
    for tensor in (q, k, v):
        tensor.requires_grad_(backwards)
    start = time.perf_counter()
    out = kernel(q, k, v)
    if backwards:
        out.backward(grad)
    return time.perf_counter() - start


if __name__ == "__main__":
    pick_device(0, THREADS)
    if why := attention_avx512.load()[1]:
        sys.exit(f"no kernel of our own here: {why}")
    for name, other in {"float32": in_float32, "bfloat16": in_bfloat16}.items():
        for backwards in (False, True):
            measured = interleaved(
                functools.partial(seconds, attention, backwards), functools.partial(seconds, other, backwards), ROUNDS
            )
            passes = "forwards and backwards" if backwards else "forwards"
            record(f"attention of 4,096 tokens, {passes}: torch {name} / ours (s per batch of 8)", measured, THREADS)
