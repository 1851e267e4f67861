"""A network's outline: the same tensors as the network's, without their memory and without torch's compiler."""

import json
import subprocess
import sys

import pytest
from presets import CONFIG
from torch import nn

from slimdiff.models.meta import build_on_meta
from slimdiff.models.registry import build_network

MODELS = CONFIG["models"]


def described(network: nn.Module) -> list[tuple[str, tuple[int, ...], str]]:
    return [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in network.state_dict().items()]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_an_outline_holds_the_networks_tensors_and_none_of_their_memory(name: str, groups: int) -> None:
    found = build_on_meta(MODELS[name], groups)
    assert described(found) == described(build_network(MODELS[name], groups))
    assert {tensor.device.type for tensor in found.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("name", MODELS)
def test_an_outline_is_drawn_without_torchs_compiler(name: str) -> None:
    """It takes a second to import, and every model that is loaded is outlined first."""
    script = (
        "import json, sys\nfrom slimdiff.models.meta import outline\n"
        "outline(json.loads(sys.argv[1]))\nsys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, json.dumps(MODELS[name])], check=True)
