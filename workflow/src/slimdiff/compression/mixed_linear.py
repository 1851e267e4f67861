"""Linear layers with float weights that multiply in int8: bitsandbytes' Linear8bitLt with has_fp16_weights=True.

Inputs and weights are quantized by the absolute maximum of each row and multiplied as integers (Dettmers et al. 2022,
LLM.int8(), section 2, without outliers). Weights are quantized anew at every call and stay float in optimizer and file.
Gradients pass the rounding straight through (Bengio, Léonard and Courville 2013). Emulated in float32, where products
of up to 1,040 int8 pairs are exact, so it needs neither a GPU nor bitsandbytes and gains no time.

Different from bitsandbytes 0.50, for the reasons in docs/decisions, 2026-11-29: the weight's gradient pairs every value
with the scale it was quantized by, gradients are quantized from float32, and evaluation never reuses old int8 weights.
"""

from typing import Any

import torch
from torch import nn

from slimdiff.errors import UserError

LARGEST = 127.0  # of an int8


class MixedLinear(nn.Linear):
    """x (…, in) → x W^T + b (…, out) in the dtype of x, with the product in int8."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = _Int8Product.apply(x.reshape(-1, self.in_features), self.weight)
        if self.bias is not None:
            product = product + self.bias
        return product.to(x.dtype).unflatten(0, x.shape[:-1])


def make_mixed(network: nn.Module, names: list[str]) -> None:
    """Let the linear layers `names` multiply in int8, in place; their parameters stay the same tensors.

    Raises:
        UserError: one of them is no float linear layer, as in a checkpoint whose header does not match.
    """
    for name in names:
        layer = network.get_submodule(name)
        if type(layer) is not nn.Linear:
            raise UserError(f"layer {name!r} is a {type(layer).__name__}; allowed for 8bit-mixed: Linear")
        layer.__class__ = MixedLinear


def mixed_weights(network: nn.Module) -> set[str]:
    """Return the names of the weights that are multiplied in int8."""
    return {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, MixedLinear)}


def rounded_weight(layer: MixedLinear) -> torch.Tensor:
    """Return the weight (out, in) that the layer multiplies by: rounded to int8, in float32."""
    q, scales = _quantize(layer.weight.detach().half())
    return q * scales


class _Int8Product(torch.autograd.Function):
    """x (N, in) and weight (out, in) → x weight^T (N, out) in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        q_x, x_scales = _quantize(x.half())
        q_weight, weight_scales = _quantize(weight.half())
        ctx.save_for_backward(x, q_weight, weight_scales)
        return _product(q_x, q_weight.T) * (x_scales * weight_scales.T)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x, q_weight, weight_scales = ctx.saved_tensors
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = _product(gradient, q_weight * weight_scales).to(x.dtype)
        if ctx.needs_input_grad[1]:  # a sum over rows, so columns have the scales
            q_gradient, gradient_scales = _quantize(gradient.T)
            q_x, x_scales = _quantize(x.T.half())
            weight_gradient = _product(q_gradient, q_x.T) * (gradient_scales * x_scales.T)
        return x_gradient, weight_gradient


def _quantize(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return integers from -127 to 127 as float32 (rows, n), and the scale (rows, 1) of a step in each row."""
    values = values.float()
    largest = values.abs().amax(1, keepdim=True).clamp_min(1e-30)  # a row of zeros stays one
    return (values * (LARGEST / largest)).round(), largest / LARGEST


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right in float32, also under autocast."""
    with torch.autocast(left.device.type, enabled=False):
        return left.float() @ right.float()
