"""Families of networks by name: what `models.*.family` in the configuration may be."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from slimdiff.errors import UserError
from slimdiff.io.settings import build
from slimdiff.models.ncsn import NCSNSettings, ScoreNetwork
from slimdiff.models.unet import UNet, UNetSettings


def _ncsn(model: Mapping[str, Any], groups: int | str) -> nn.Module:
    settings = build(NCSNSettings, model["network"], "models.*.network")
    return ScoreNetwork(settings, model["channels"], model["image_size"], groups)


def _ddpm(model: Mapping[str, Any], groups: int | str) -> nn.Module:
    settings = build(UNetSettings, model["network"], "models.*.network")
    network = UNet(settings, model["channels"], model["image_size"], groups)
    return network.to(memory_format=torch.channels_last)  # attention then reads pixels as tokens without a copy


FAMILIES: dict[str, Callable[[Mapping[str, Any], int | str], nn.Module]] = {"ncsn": _ncsn, "ddpm": _ddpm}


def build_network(model: Mapping[str, Any], groups: int | str = 1, seed: int = 0) -> nn.Module:
    """The network that `model` (an entry of `models:`) describes, initialized by `seed`.

    The global random state is left as it was.
    """
    family = model["family"]
    if family not in FAMILIES:
        raise UserError(f"models.*.family is {family!r}; allowed: {', '.join(FAMILIES)}; others need their plugin")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILIES[family](model, groups)
