"""Scaled dot-product attention by the fastest kernel for the device, dtype and number of tokens."""

from typing import Any

import torch
import torch.nn.functional as F

from slimdiff.models import attention_avx512
from slimdiff.runtime.devices import has_amx

SHORT = 256  # tokens; up to this many torch's bf16 CPU kernel is slower than its float32 one, even with AMX


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return softmax(q kᵀ / sqrt(d)) v for q, k, v (N, heads, tokens, d), in their dtype: (N, heads, tokens, d).

    All but bfloat16 on a CPU goes to torch's kernel. On a CPU, bfloat16 of few tokens is computed in float32. Of many,
    it goes to torch's bf16 kernel on processors with AMX, else to the AVX-512 kernel if available, else to float32
    (docs/decisions).
    """
    if q.device.type != "cpu" or q.element_size() >= 4:
        return F.scaled_dot_product_attention(q, k, v)
    if q.shape[2] > SHORT:
        if has_amx():
            return F.scaled_dot_product_attention(q, k, v)
        if attention_avx512.fits(q, k, v):
            mixed: torch.Tensor = _AVX512Attention.apply(q.contiguous(), k.contiguous(), v.contiguous())
            return mixed
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


class _AVX512Attention(torch.autograd.Function):
    """The AVX-512 kernel and its gradients."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out, lse = attention_avx512.forward(q, k, v)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q, k, v, out, lse = ctx.saved_tensors
        return attention_avx512.backward(q, k, v, out, lse, grad.contiguous())
