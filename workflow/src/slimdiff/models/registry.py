"""Networks by the name of their family, the value of `models.*.family`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimdiff.errors import UserError
from slimdiff.io.settings import build
from slimdiff.models.ncsn import NCSNSettings, ScoreNetwork
from slimdiff.models.unet import UNet, UNetSettings


def _ncsn(model: Mapping[str, Any], groups: int | str) -> nn.Module:
    settings = build(NCSNSettings, model["network"], "models.*.network")
    return ScoreNetwork(settings, model["channels"], model["image_size"], groups, model.get("patch", 1))


def _ddpm(model: Mapping[str, Any], groups: int | str) -> nn.Module:
    settings = build(UNetSettings, model["network"], "models.*.network")
    network = UNet(settings, model["channels"], model["image_size"], groups, model.get("patch", 1))
    return network.to(memory_format=torch.channels_last)  # attention reads pixels as tokens without a copy


def _unet2d(model: Mapping[str, Any], groups: int | str) -> nn.Module:
    from slimdiff.models.unet2d import UNet2D, UNet2DSettings  # diffusers takes four seconds to import

    settings = build(UNet2DSettings, model["network"], "models.*.network")
    network: nn.Module = UNet2D(settings, model["channels"], model["image_size"], groups, model.get("patch", 1))
    return network.to(memory_format=torch.channels_last)


NETWORKS: dict[str, Callable[[Mapping[str, Any], int | str], nn.Module]] = {
    "ncsn": _ncsn,
    "ddpm": _ddpm,
    "unet2d": _unet2d,
}


def build_network(model: Mapping[str, Any], groups: int | str = 1, seed: int = 0) -> nn.Module:
    """Return the network of `model` (an entry of `models:`), initialized from `seed`.

    The global random state is unchanged.

    Raises:
        UserError: the family is unknown, or sizes in the network do not fit each other.
    """
    family = model["family"]
    if family not in NETWORKS:
        raise UserError(f"models.*.family is {family!r}; allowed: {', '.join(NETWORKS)}; others need their plugin")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[family](model, groups)


FILLS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)  # take the tensor by its keyword
CHANGES = (torch.Tensor.mul, torch.Tensor.normal_, torch.Tensor.uniform_)  # change values alone


class _SkipInit(TorchFunctionMode):
    """Skip initialization. On the meta device torch imports its compiler to do nothing, which takes a second."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in FILLS or func in CHANGES:
            return args[0] if args else (kwargs or {})["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **(kwargs or {}))


def build_on_meta(model: Mapping[str, Any], groups: int | str = 1) -> nn.Module:
    """Return the network of `model` on torch's meta device: all shapes, no memory."""
    with torch.device("meta"), _SkipInit():
        return build_network(model, groups)
