"""softmax(q kᵀ / sqrt(d)) v, by the kernel that is fastest for it."""

from typing import Any

import torch
import torch.nn.functional as F

from slimdiff.models import attention_avx512
from slimdiff.runtime.devices import has_amx

SHORT = 256  # tokens up to which torch's bf16 kernel is slower on a CPU than its float32 one, with AMX or without


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention of q, k, v (N, heads, tokens, d), in their precision: (N, heads, tokens, d).

    Torch's, but for bfloat16 on a CPU. There few tokens are computed in float32; many by torch's bf16 kernel where the
    processor has AMX, else by our own (slimdiff.models.attention_avx512), else in float32 as well (docs/decisions.md).
    """
    if q.device.type != "cpu" or q.element_size() >= 4:
        return F.scaled_dot_product_attention(q, k, v)
    if q.shape[2] > SHORT:
        if has_amx():
            return F.scaled_dot_product_attention(q, k, v)
        if attention_avx512.fits(q, k, v):
            mixed: torch.Tensor = _Own.apply(q.contiguous(), k.contiguous(), v.contiguous())
            return mixed
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


class _Own(torch.autograd.Function):
    """Our kernel and its gradients."""

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
