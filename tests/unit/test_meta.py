"""Networks on the meta device: the same tensors without memory."""

import pytest
from presets import CONFIG
from torch import nn

from slimdiff.models.registry import build_network, build_on_meta

MODELS = CONFIG["models"]


def described(network: nn.Module) -> list[tuple[str, tuple[int, ...], str]]:
    return [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in network.state_dict().items()]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_tensors_have_the_right_shapes_without_memory(name: str, groups: int) -> None:
    network = build_on_meta(MODELS[name], groups)
    assert described(network) == described(build_network(MODELS[name], groups))
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
