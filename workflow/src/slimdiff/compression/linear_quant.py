"""Linear layers that compute in 8 or 4 bits, in three ways.

*Frozen from the start* (`linear: 8bit` or `4bit` in a training): bitsandbytes stores quantized weights, which get no
gradient and stay as initialized, and all others are trained. *Quantized after* training in float (`quantize` in a
recipe): layers and file are the same. *Mixed* (`linear: 8bit-mixed` in a training): weights stay float, in the file
too, and every product is one of int8 (slimdiff.compression.mixed_linear).
"""

import logging
import re
from collections.abc import Mapping
from types import ModuleType

import torch
from torch import nn

from slimdiff.catalog.layers import MIXED_LINEAR
from slimdiff.compression.mixed_linear import MixedLinear, make_mixed, rounded_weight
from slimdiff.errors import UserError

BITS = ("8bit", "4bit")  # of stored weights
FROZEN_PART = re.compile(r"\.(weight|SCB|weight_format|weight\..+)$")


def import_bitsandbytes() -> ModuleType:
    """Import bitsandbytes on use, which takes four seconds of CPU time.

    Its hint about the optional package `kernels`, which fetches code from a hub, is kept out of the logs.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


def is_quantized(module: nn.Module | None) -> bool:
    """Whether `module` is a layer of bitsandbytes, whose weight is stored in bits."""
    return type(module).__module__.startswith("bitsandbytes.")


def computes_in_bits(module: nn.Module | None) -> bool:
    """Whether `module` is a linear layer that multiplies in 8 or 4 bits, however its weight is stored."""
    return is_quantized(module) or isinstance(module, MixedLinear)


def quantize_linears(network: nn.Module, bits: str, device: torch.device | str = "cpu") -> list[str]:
    """Replace every nn.Linear by its quantized layer, in place.

    Args:
        bits: `8bit` (absolute maximum per row, int8; Dettmers et al. 2022), `4bit` (nf4 in blocks of 64), or
            `8bit-mixed` (float weights, products in int8).
        device: of the quantized weights; the CPU works.

    Returns:
        Names of the replaced layers.

    Raises:
        UserError: `bits` is unknown, or the network has no float linear layer.
    """
    _check_bits(bits)
    names = [name for name, module in network.named_modules() if type(module) is nn.Linear]
    if not names:
        raise UserError(f"quantize.linear is {bits!r}, but the network has no float linear layer")
    if bits == MIXED_LINEAR:
        make_mixed(network, names)
        return names
    for name in names:
        old = network.get_submodule(name)
        assert isinstance(old, nn.Linear)
        new = _empty(old, bits)
        new.load_state_dict(old.state_dict())
        network.set_submodule(name, new.to(device))  # bitsandbytes quantizes when a layer moves to a device
    return names


def restore_linears(network: nn.Module, bits: str, names: list[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace the layers `names` by quantized ones with exactly the values of `tensors`, a state dict on the CPU.

    Weights of mixed layers are floats like any others, which the caller loads.
    """
    _check_bits(bits)
    if bits == MIXED_LINEAR:
        make_mixed(network, names)
        return
    for name in names:
        old = network.get_submodule(name)
        assert isinstance(old, nn.Linear)
        part = {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        new = _empty(old, bits)
        if bits == "8bit":
            new = new.to("cpu")  # an 8-bit state loads exactly into a layer that is already quantized
            new.load_state_dict(part)
        else:
            quantized = {key: value for key, value in part.items() if key.startswith("weight.")}
            new.weight = import_bitsandbytes().nn.Params4bit.from_prequantized(part["weight"], quantized, device="cpu")
            if new.bias is not None:
                new.bias.data.copy_(part["bias"])
        network.set_submodule(name, new)


def is_frozen_part(network: nn.Module, key: str) -> bool:
    """Whether the state dict's `key` belongs to a quantized weight, which is not trained."""
    name = FROZEN_PART.sub("", key)
    return name != key and is_quantized(_find(network, name))


def dense_weight(module: nn.Module) -> torch.Tensor:
    """Return the float weight (out, in) that a layer computing in bits multiplies by."""
    if isinstance(module, MixedLinear):
        return rounded_weight(module)
    if not is_quantized(module):
        raise TypeError(f"{type(module).__name__} is not a quantized linear layer")
    state = module.state_dict()
    if "SCB" in state:  # int8 in units of the row's absolute maximum / 127
        return state["weight"].float() * (state["SCB"].float() / 127.0)[:, None]
    weight = module.weight
    dense: torch.Tensor = import_bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[union-attr]
    return dense


def _empty(old: nn.Linear, bits: str) -> nn.Linear:
    layers, bias = import_bitsandbytes().nn, old.bias is not None
    layer: nn.Linear
    if bits == "8bit":
        layer = layers.Linear8bitLt(old.in_features, old.out_features, bias=bias, has_fp16_weights=False)
    else:
        layer = layers.Linear4bit(old.in_features, old.out_features, bias=bias, quant_type="nf4")
        # On CPUs with AVX-512 bf16, bitsandbytes 0.50 rewrites the weight at the first forward pass, rounds its scales
        # to bf16 and refuses layers narrower than a block: results would depend on the machine.
        layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    layer.register_forward_pre_hook(_in_float32)
    return layer


def _in_float32(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Cast inputs under autocast to float32: bitsandbytes permanently casts its bias to their dtype."""
    return tuple(argument.float() for argument in arguments)


def _find(network: nn.Module, name: str) -> nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:
        return None


def _check_bits(bits: str) -> None:
    allowed = (*BITS, MIXED_LINEAR)
    if bits not in allowed:
        raise UserError(f"linear is {bits!r}; allowed: {', '.join(allowed)}")
