"""Attention with either kernel: output and gradients against float64."""

import math

import pytest
import torch

from slimdiff.models import attention as module
from slimdiff.models.attention import SHORT, attention

LONG = SHORT + 128


def drawn(tokens: int, width: int) -> list[torch.Tensor]:
    """q, k, v and a gradient in bfloat16, (1, 3, tokens, width)."""
    generator = torch.Generator().manual_seed(tokens + width)
    return [1.5 * torch.randn(1, 3, tokens, width, generator=generator).bfloat16() for _ in range(4)]


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    """The definition in float64: the result, and the gradients of q, k and v."""
    q, k, v = (tensor.double().requires_grad_() for tensor in (q, k, v))
    out = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad.double())]


def computed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    """The same by `attention`."""
    q, k, v = (tensor.clone().requires_grad_() for tensor in (q, k, v))
    out = attention(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("tokens", "amx"), [(4, True), (SHORT, True), (LONG, False)])
def test_bfloat16_attention_on_a_cpu_is_computed_in_float32_if_short_or_without_amx(tokens, amx, monkeypatch):
    monkeypatch.setattr(module, "has_amx", lambda: amx)
    q, k, v, _ = drawn(tokens, 8)
    weights = torch.softmax(q.float() @ k.float().mT / math.sqrt(8), -1)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(q, k, v)
    assert found.dtype == torch.bfloat16
    # the only error is the final rounding: 2^-9 of each value
    assert torch.allclose(found.float(), weights @ v.float(), rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("amx", [True, False], ids=["in bfloat16", "in float32"])
@pytest.mark.parametrize("width", [8, 16, 64])
def test_long_attention_and_its_gradients_match_the_definition(width, amx, monkeypatch):
    monkeypatch.setattr(module, "has_amx", lambda: amx)
    given = drawn(LONG, width)
    for found, expected in zip(computed(*given), exact(*given), strict=True):
        assert found.dtype == torch.bfloat16
        assert 0 < apart(found, expected) < 0.006  # two roundings to bfloat16, 2^-9 each at most
