"""Optimizers and learning-rate schedules by name, and their state as plain tensors."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from slimdiff.compression.linear_quant import import_bitsandbytes
from slimdiff.errors import UserError
from slimdiff.training.muon import Muon

WARMUP_SHARE = 0.1  # fraction of the steps, in schedules with a warm-up


Build = Callable[[list[nn.Parameter], float, float], torch.optim.Optimizer]


def _over_all(build: Build) -> Callable[[nn.Module, float, float], torch.optim.Optimizer]:
    """Return a function that builds the optimizer of all parameters of a network that need a gradient."""
    return lambda network, *rates: build([p for p in network.parameters() if p.requires_grad], *rates)


def _adam(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def _adamw(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def _adam_8bit(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    _make_contiguous(parameters)
    optimizer: torch.optim.Optimizer = import_bitsandbytes().optim.Adam8bit(
        parameters, lr=learning_rate, weight_decay=weight_decay
    )
    return optimizer


def _make_contiguous(parameters: list[nn.Parameter]) -> None:
    """Lay weights out as bitsandbytes does in its first step, so that a resumed training has the same layout."""
    for parameter in parameters:
        parameter.data = parameter.data.contiguous()


def _adamw_8bit(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    _make_contiguous(parameters)
    optimizer: torch.optim.Optimizer = import_bitsandbytes().optim.AdamW8bit(
        parameters, lr=learning_rate, weight_decay=weight_decay
    )
    return optimizer


def _muon(network: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return Muon for a network's inner convolutions, in the order of registration; the rest is AdamW's.

    Of a network without inner convolutions, such as a transformer, Muon takes the inner linear layers.
    """
    convolutions = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    linears = [m for m in network.modules() if isinstance(m, nn.Linear)]
    layers = (convolutions if len(convolutions) > 2 else linears)[1:-1]
    inner = [(m.weight, int(getattr(m, "groups", 1))) for m in layers]
    # the weight of a parametrized layer is computed from its parameters
    matrices = {w: groups for w, groups in inner if isinstance(w, nn.Parameter) and w.requires_grad}
    others = [p for p in network.parameters() if p.requires_grad and p not in matrices]
    if not matrices:
        return _adamw(others, learning_rate, weight_decay)
    return Muon(matrices, others, learning_rate, weight_decay)


# By name and precision of the state: float, or 8 bits for tensors of 4,096 elements or more (Dettmers et al. 2022; its
# Adam decays weights as AdamW does).
OPTIMIZERS: dict[tuple[str, str], Callable[[nn.Module, float, float], torch.optim.Optimizer]] = {
    ("adam", "float"): _over_all(_adam),
    ("adamw", "float"): _over_all(_adamw),
    ("muon", "float"): _muon,
    ("adam", "8bit"): _over_all(_adam_8bit),
    ("adamw", "8bit"): _over_all(_adamw_8bit),
}


def build_optimizer(
    name: str, state: str, network: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimizer of a network's parameters that need a gradient, with its state in `float` or `8bit`.

    Raises:
        UserError: there is no such optimizer with such a state.
    """
    if (name, state) not in OPTIMIZERS:
        allowed = ", ".join(f"{optimizer} with {kept}" for optimizer, kept in OPTIMIZERS)
        raise UserError(f"training.optimizer is {name!r} with optimizer_state {state!r}; allowed: {allowed}")
    return OPTIMIZERS[name, state](network, learning_rate, weight_decay)


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _one_cycle(progress: float) -> float:
    if progress < WARMUP_SHARE:
        return progress / WARMUP_SHARE
    return _cosine((progress - WARMUP_SHARE) / (1.0 - WARMUP_SHARE))


LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "one-cycle": _one_cycle,  # linear warm-up, then cosine to zero (Smith and Topin 2018, without the momentum's cycle)
}


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """Return the factor on the learning rate at `step`, from 0, of `steps`; raise UserError for an unknown schedule."""
    if schedule not in LR_SCHEDULES:
        raise UserError(f"training.lr_schedule is {schedule!r}; allowed: {', '.join(LR_SCHEDULES)}")
    return LR_SCHEDULES[schedule]((step + 0.5) / steps)


def pack_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the optimizer's state as tensors and JSON values, both by "index/key"."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        nested = [value for value in state.values() if isinstance(value, dict)]  # bitsandbytes nests 8-bit states
        flat = {key: value for key, value in state.items() if not isinstance(value, dict)}
        for key, value in itertools.chain(flat.items(), *(part.items() for part in nested)):
            name = f"{index}/{key}"
            if isinstance(value, torch.Tensor):
                tensors[name] = value.clone()  # 8-bit states share a code book, which safetensors refuses
            else:
                values[name] = value
    return tensors, values


def unpack_state(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
    """Restore into a fresh optimizer the state that `pack_state` returned."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **values}.items():
        index, key = name.split("/", 1)
        parameter = parameters[int(index)]
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            # Files have no memory format, and fused optimizers need state and parameter in the same one.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
