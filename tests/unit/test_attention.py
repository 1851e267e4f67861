"""Attention with either kernel: output and gradients against float64."""

import copy
import math
import subprocess
import sys

import pytest
import torch

from slimdiff.models import attention as module
from slimdiff.models import attention_avx512
from slimdiff.models.attention import SHORT, attention
from slimdiff.models.unet import SelfAttention

own = pytest.mark.skipif(
    attention_avx512.load()[0] is None, reason=f"no AVX-512 attention kernel here: {attention_avx512.load()[1]}"
)
LONG = SHORT + attention_avx512.BLOCK


def drawn(tokens: int, width: int, heads: int = 3, spread: float = 1.5) -> list[torch.Tensor]:
    """q, k, v and a gradient in bfloat16, (1, heads, tokens, width)."""
    generator = torch.Generator().manual_seed(tokens + width)
    return [spread * torch.randn(1, heads, tokens, width, generator=generator).bfloat16() for _ in range(4)]


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


@pytest.mark.parametrize("tokens", [4, SHORT])
def test_short_bfloat16_attention_on_a_cpu_is_computed_in_float32(tokens):
    q, k, v, _ = drawn(tokens, 8)
    weights = torch.softmax(q.float() @ k.float().mT / math.sqrt(8), -1)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(q, k, v)
    assert found.dtype == torch.bfloat16
    # the only error is the final rounding: 2^-9 of each value
    assert torch.allclose(found.float(), weights @ v.float(), rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("kernel", ["avx512", "torch's in float32", "torch's in bfloat16"])
@pytest.mark.parametrize("width", attention_avx512.WIDTHS)
def test_long_attention_and_its_gradients_match_the_definition(width, kernel, monkeypatch):
    if kernel == "avx512" and attention_avx512.load()[0] is None:
        pytest.skip(attention_avx512.load()[1])
    monkeypatch.setattr(module, "has_amx", lambda: kernel == "torch's in bfloat16")
    monkeypatch.setattr(attention_avx512, "fits", lambda *_: kernel == "avx512")
    given = drawn(LONG, width)
    for found, expected in zip(computed(*given), exact(*given), strict=True):
        assert found.dtype == torch.bfloat16
        assert 0 < apart(found, expected) < 0.006  # two roundings to bfloat16, 2^-9 each at most


@own
@pytest.mark.parametrize("spread", [0.0, 3.0, 30.0])
def test_the_avx512_kernel_handles_equal_and_extreme_scores_as_well_as_torchs(spread, monkeypatch):
    """Scores in the thousands give one key all of the weight, and their gradients cancel."""
    q, k, v, grad = drawn(LONG, 16)
    given = [spread * q, spread * k, v, grad]
    monkeypatch.setattr(module, "has_amx", lambda: False)
    ours = computed(*given)
    monkeypatch.setattr(module, "has_amx", lambda: True)
    for found, other, expected in zip(ours, computed(*given), exact(*given), strict=True):
        error, theirs = (float((each.double() - expected).norm()) for each in (found, other))
        assert error <= 1.1 * theirs


@own
def test_the_avx512_kernel_gives_the_same_with_any_number_of_threads():
    given = drawn(LONG, 16, heads=5)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4, 8):
            torch.set_num_threads(threads)
            results.append(computed(*given))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@own
def test_the_avx512_kernel_runs_in_the_network_with_gradients_and_without(monkeypatch):
    layer = SelfAttention(64, 4)
    x = torch.randn(2, 64, 32, 32, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    calls = []
    for name in ("forward", "backward"):
        real = getattr(attention_avx512, name)
        monkeypatch.setattr(attention_avx512, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    monkeypatch.setattr(module, "has_amx", lambda: False)
    expected = copy.deepcopy(layer)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().square().mean().backward()
        with torch.inference_mode():
            layer(x)
    assert calls == ["forward", "backward", "forward"]
    expected(x).square().mean().backward()
    for found, wanted in zip(layer.parameters(), expected.parameters(), strict=True):
        assert float((found.grad - wanted.grad).norm()) < 0.02 * float(wanted.grad.norm()) + 1e-6


def test_unsupported_inputs_fall_back_to_torch():
    q, k, v, _ = drawn(LONG, 16)
    assert not attention_avx512.fits(q.float(), k.float(), v.float())
    assert not attention_avx512.fits(q[..., :12], k[..., :12], v[..., :12])
    assert not attention_avx512.fits(q[..., :-1, :], k[..., :-1, :], v[..., :-1, :])
    assert not attention_avx512.fits(q, k[..., :-16, :], v[..., :-16, :])
    traced = torch._subclasses.FakeTensorMode()
    assert not attention_avx512.fits(*(traced.from_tensor(tensor) for tensor in (q, k, v)))


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        ("module.cpu_flags = lambda: frozenset({'avx2'})", "this processor lacks avx512_bf16, avx512bw"),
        ("module.shutil.which = lambda name: None", "there is no C compiler: install gcc or set CC"),
        ("module.OPTIONS = ('--no-such-option',)", "cannot compile"),
    ],
)
def test_without_the_avx512_kernel_torchs_is_used(patch, reason):
    flags = "module.cpu_flags = lambda: frozenset(module.INSTRUCTIONS)"
    script = (
        f"import torch\nfrom slimdiff.models import attention_avx512 as module\n{flags}\n{patch}\n"
        "from slimdiff.models.attention import attention\n"
        f"q = torch.randn(1, 2, {LONG}, 16).bfloat16()\n"
        "assert torch.isfinite(attention(q, q, q)).all()\nprint(module.load())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(None, ")
    assert reason in done.stdout


def test_an_edit_of_the_kernels_source_is_an_edit_of_the_package(monkeypatch, tmp_path):
    """Fingerprints cover Python alone, so the module contains the digest of the C source."""
    edited = tmp_path / "edited.c"
    edited.write_bytes(attention_avx512.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(attention_avx512, "SOURCE", edited)
    monkeypatch.setattr(attention_avx512, "cpu_flags", lambda: frozenset(attention_avx512.INSTRUCTIONS))
    with pytest.raises(RuntimeError, match="was edited"):
        attention_avx512.load.__wrapped__()
