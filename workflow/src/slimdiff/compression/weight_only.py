"""Weight-only quantization: 8bit, 4bit or bf16 in the file, float again on loading.

The network computes in float, so this shrinks the file and changes no speed; slimdiff.compression.linear_quant
quantizes layers that also compute in fewer bits. Zero stays zero in every format.

- `8bit`: w ≈ q · s with integers q from -127 to 127. One scale s per output channel, its absolute maximum / 127
  (Krishnamoorthi 2018, section 3.1.3).
- `4bit`: w ≈ NF4[q] · s with the 16 levels of Dettmers et al. 2023 (QLoRA, appendix E). One scale per 64 consecutive
  weights of the flattened tensor, their absolute maximum. A byte holds two q, the first in its upper half.
- `bf16`: every parameter, including biases, norms and embedding tables, rounded to nearest even.

8bit and 4bit quantize the weights of every convolution and linear layer; biases, norms, embedding tables and buffers
are unchanged. Scales are bfloat16. Their significand is so short that dividing by them recovers every q, and a row's
largest weight recovers the scale. Quantizing is thus idempotent, and a loaded network is written byte for byte as read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linear_quant import is_quantized
from slimdiff.errors import UserError

WEIGHT_FORMATS = ("8bit", "4bit", "bf16")
BLOCK = 64  # weights per scale in 4bit
LARGEST = 127  # q in 8bit
# The levels of bitsandbytes' nf4: quantiles of a normal distribution, scaled to [-1, 1], with an exact zero.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
SCALE = ".scale"  # suffix of a tensor's scales
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # their weight is (in, out / groups, …)

Record = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def quantize_weights(network: nn.Module, kind: str) -> Record:
    """Round the float weights of `network` to those that a file in format `kind` restores, in place.

    Args:
        kind: `8bit`, `4bit` or `bf16`.

    Returns:
        The record for the checkpoint's header, which `encode` and `decode` need.

    Raises:
        UserError: the format is unknown, or a layer is already quantized.
    """
    if kind not in WEIGHT_FORMATS:
        raise UserError(f"quantize.weights is {kind!r}; allowed: {', '.join(WEIGHT_FORMATS)}")
    taken = next((name for name, module in network.named_modules() if is_quantized(module)), None)
    if taken is not None:
        raise UserError(f"quantize.weights is {kind!r}, but layer {taken} is already quantized; leave one of them out")
    record: Record = {"weights": kind, "tensors": _chosen(network, kind)}
    state = network.state_dict()
    floats = decode(encode({name: state[name] for name in record["tensors"]}, record), record)
    with torch.no_grad():
        for name, value in floats.items():
            state[name].copy_(value)  # a state dict shares the network's memory and memory format
    return record


def encode(tensors: Mapping[str, torch.Tensor], record: Record) -> Tensors:
    """Return `tensors` (a state dict) as stored: those named by `record` quantized, the others unchanged."""
    kind, chosen = record["weights"], record["tensors"]
    stored: Tensors = {}
    for name, tensor in tensors.items():
        if name not in chosen:
            stored[name] = tensor
        elif kind == "bf16":
            stored[name] = tensor.detach().to(torch.bfloat16)
        else:
            rows = _rows(tensor.detach().contiguous(), chosen[name], kind)
            stored[name], stored[name + SCALE] = _quantize_4bit(rows) if kind == "4bit" else _quantize_8bit(rows)
    return stored


def decode(stored: Mapping[str, torch.Tensor], record: Record) -> Tensors:
    """Return the state dict of float tensors encoded in `stored`; inverse of `encode`.

    Raises:
        UserError: a tensor is missing or does not have the shape in `record`.
    """
    kind, chosen = record["weights"], record["tensors"]
    missing = next((name for name in chosen if name not in stored), None)
    if missing is not None:
        raise UserError(f"checkpoint and header do not match: {missing!r}, stored in {kind}, is missing")
    tensors: Tensors = {}
    for name, tensor in stored.items():
        owner = name.removesuffix(SCALE)
        if name not in chosen and not (owner != name and owner in chosen and kind != "bf16"):
            tensors[name] = tensor
        elif name in chosen:
            tensors[name] = tensor.float() if kind == "bf16" else _dequantize(name, stored, chosen[name], kind)
    return tensors


def _chosen(network: nn.Module, kind: str) -> dict[str, dict[str, Any]]:
    """Return the tensors to quantize, with shapes and groups of transposed convolutions; for bf16 all parameters."""
    if kind == "bf16":
        return {name: {} for name, parameter in network.named_parameters() if parameter.is_floating_point()}
    chosen: dict[str, dict[str, Any]] = {}
    for name, module in network.named_modules():
        if isinstance(module, LAYERS):
            what: dict[str, Any] = {"shape": list(module.weight.shape)}
            if isinstance(module, TRANSPOSED):
                what["transposed_groups"] = module.groups
            chosen[f"{name}.weight"] = what
    if not chosen:
        raise UserError(f"quantize.weights is {kind!r}, but the network has neither convolutions nor linear layers")
    return chosen


def _rows(weight: torch.Tensor, what: Mapping[str, Any], kind: str) -> torch.Tensor:
    """Return the weights as (rows, n) with one scale per row: output channels, or zero-padded blocks."""
    if kind == "4bit":
        flat = weight.flatten()
        return nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).unflatten(0, (-1, BLOCK))
    groups = what.get("transposed_groups")
    if groups is not None:  # (groups · in, out, …) → (groups · out, in · …)
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


def _unrows(rows: torch.Tensor, what: Mapping[str, Any], kind: str) -> torch.Tensor:
    """Invert `_rows`."""
    shape: list[int] = what["shape"]
    if kind == "4bit":
        return rows.flatten()[: torch.Size(shape).numel()].reshape(shape)
    groups = what.get("transposed_groups")
    if groups is None:
        return rows.reshape(shape)
    inner = rows.reshape(groups, shape[1], shape[0] // groups, *shape[2:])
    return inner.transpose(1, 2).reshape(shape)


def _scales(rows: torch.Tensor, largest: float) -> torch.Tensor:
    """Return the absolute maximum of each row / `largest`, (rows,) bfloat16.

    Rows too small for a scale become zero. Rows with NaN or infinity, from a failed training, become NaN.
    """
    scales = (rows.abs().amax(1) / largest).to(torch.bfloat16)
    scales[scales.abs() < torch.finfo(torch.float32).tiny] = 0
    scales[~torch.isfinite(scales)] = torch.nan
    return scales


def _in_steps(rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the weights in units of their row's scale; 0 if the scale is 0 or NaN."""
    return (rows / scales.float()[:, None]).nan_to_num(0.0, 0.0, 0.0)


def _quantize_8bit(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return q int8 (rows, n) and scales (rows,)."""
    scales = _scales(rows, LARGEST)
    return _in_steps(rows, scales).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def _quantize_4bit(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pairs of q in uint8 (rows, 32) and scales (rows,)."""
    scales = _scales(rows, 1.0)
    levels = torch.tensor(NF4, device=rows.device)
    q = torch.bucketize(_in_steps(rows, scales), (levels[1:] + levels[:-1]) / 2).to(torch.uint8)  # the nearest level
    return (q[:, 0::2] << 4) | q[:, 1::2], scales


def _dequantize(name: str, stored: Mapping[str, torch.Tensor], what: Mapping[str, Any], kind: str) -> torch.Tensor:
    codes, scales = stored[name], stored.get(name + SCALE)
    dtype, width = (torch.uint8, BLOCK // 2) if kind == "4bit" else (torch.int8, None)
    elements = torch.Size(what["shape"]).numel()
    room = codes.numel() * 2 - elements if kind == "4bit" else codes.numel() - elements
    fits = codes.dim() == 2 and codes.dtype == dtype and width in (None, codes.shape[-1])
    if not fits or not 0 <= room < (BLOCK if kind == "4bit" else 1) or scales is None or len(scales) != len(codes):
        raise UserError(f"checkpoint and header do not match: {name!r} is not the {kind} form of {what['shape']}")
    if kind == "8bit":
        values = codes.float()
    else:
        values = torch.tensor(NF4, device=codes.device)[torch.stack([codes >> 4, codes & 15], dim=-1).int()].flatten(1)
    return _unrows(values * scales.float()[:, None], what, kind)
