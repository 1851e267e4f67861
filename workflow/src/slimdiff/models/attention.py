"""Scaled dot-product attention by the fastest kernel for the device, dtype and number of tokens."""

import torch
import torch.nn.functional as F

from slimdiff.runtime.devices import has_amx

SHORT = 256  # tokens; up to this many torch's bf16 CPU kernel is slower than its float32 one, even with AMX


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return softmax(q kᵀ / sqrt(d)) v for q, k, v (N, heads, tokens, d), in their dtype: (N, heads, tokens, d).

    On a CPU, bfloat16 of few tokens, and of any number without AMX, is computed in float32, which is faster there
    (docs/decisions).
    """
    if q.device.type == "cpu" and q.element_size() < 4 and not (has_amx() and q.shape[2] > SHORT):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v)
