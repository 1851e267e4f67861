"""Resolution of `precision: auto`, and bfloat16 arithmetic."""

import pytest
import torch

from slimdiff.errors import UserError
from slimdiff.runtime import devices

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("AuthenticAMD", {"avx2"}, "float32"),
        ("AuthenticAMD", {"avx512f", "avx512bw"}, "float32"),
        ("AuthenticAMD", {"avx512f", "avx512_bf16"}, "bfloat16"),
        ("GenuineIntel", {"avx512f", "avx512_bf16"}, "float32"),
        ("GenuineIntel", {"avx512f", "avx512_bf16", "amx_bf16"}, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_the_processor_is_faster_in_it(monkeypatch, vendor, flags, expected):
    monkeypatch.setattr(devices, "cpu_flags", lambda: flags)
    monkeypatch.setattr(devices, "_cpuinfo", {"vendor_id": vendor}.get)
    assert devices.resolve_precision(CPU, "auto") == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_explicit_precision_holds_on_every_machine(monkeypatch, precision):
    monkeypatch.setattr(devices, "cpu_flags", lambda: {"avx2"})
    assert devices.resolve_precision(CPU, precision) == precision


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="precision is 'float16'; allowed: float32, bfloat16, auto"):
        devices.autocast(CPU, "float16")


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_use_the_precision_and_weights_stay_float32(precision, dtype):
    layer = torch.nn.Linear(4, 4)
    with devices.autocast(CPU, precision):
        out = layer(torch.randn(2, 4))
    assert out.dtype == dtype
    assert layer.weight.dtype == torch.float32
