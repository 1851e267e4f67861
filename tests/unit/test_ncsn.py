"""The score network equals the paper's: parameter counts, prunable tensors, arithmetic."""

import math

import pytest
import torch
import torch.nn.functional as F
from builders import MODELS, ncsn_model

from slimdiff.compression.unstructured import prunable
from slimdiff.engines.split import split_network
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network

# the paper's list (§4.2.2) of prunable tensors, in its order, with its counts
REPORT_TENSORS = {
    "conv1.weight": 288,
    "dense1.weight": 8192,
    "dense1.bias": 32,
    "conv2.weight": 18432,
    "dense2.weight": 16384,
    "dense2.bias": 64,
    "conv3.weight": 73728,
    "dense3.weight": 32768,
    "dense3.bias": 128,
    "conv4.weight": 294912,
    "dense4.weight": 65536,
    "dense4.bias": 256,
    "tconv4.weight": 294912,
    "dense5.weight": 32768,
    "dense5.bias": 128,
    "tconv3.weight": 147456,
    "dense6.weight": 16384,
    "dense6.bias": 64,
    "tconv2.weight": 36864,
    "dense7.weight": 8192,
    "dense7.bias": 32,
    "tconv1.weight": 576,
    "tconv1.bias": 1,
}


def trainable(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(("groups", "expected"), [(1, 1_115_297), (2, 682_145), (4, 465_569)])
def test_trainable_parameters(groups, expected):
    assert trainable(build_network(ncsn_model(), groups)) == expected


def test_max_groups_takes_each_layers_greatest_common_divisor():
    network = build_network(ncsn_model(), "max")
    inner = {"conv2": 32, "conv3": 64, "conv4": 128, "tconv4": 128, "tconv3": 64, "tconv2": 32}
    assert {name: network.get_submodule(name).groups for name in inner} == inner
    assert network.conv1.groups == network.tconv1.groups == 1


def test_prunable_tensors_are_the_papers():
    network = build_network(ncsn_model())
    names = {id(p): name for name, p in network.named_parameters()}
    found = {names[id(getattr(m, n))]: getattr(m, n).numel() for m, n in prunable(network, "global")}
    assert found == REPORT_TENSORS


@pytest.mark.parametrize(("scope", "elements"), [("middle", 942_592), ("extremes", 105_505), ("global", 1_048_097)])
def test_scopes_have_the_papers_element_counts(scope, elements):
    network = build_network(ncsn_model())
    assert sum(getattr(module, name).numel() for module, name in prunable(network, scope)) == elements


@pytest.mark.parametrize("size", [17, 20, 28, 31])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_size_and_channels(size, channels):
    network = build_network(ncsn_model(image_size=size, channels=channels))
    x = torch.randn(2, channels, size, size)
    assert network(x, torch.rand(2)).shape == x.shape


def test_too_small_images_are_refused():
    with pytest.raises(UserError, match=r"models\.\*\.image_size is 16; allowed: 17 or more"):
        build_network(ncsn_model(image_size=16))


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match=r"groups is 3.*32 and 64 channels.*divisors of 32"):
        build_network(ncsn_model(), 3)


def test_equal_seeds_give_equal_networks():
    first, again, other = (build_network(ncsn_model(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.conv4.weight, again.conv4.weight)
    assert not torch.equal(first.conv4.weight, other.conv4.weight)


def reference_forward(w: dict[str, torch.Tensor], x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The tutorial's network from its description, in float64 and plain functions; output before division by std."""

    def swish(v):
        return v / (1 + torch.exp(-v))

    def norm(v, groups, name):
        n, c, h, width = v.shape
        parts = v.reshape(n, groups, -1)
        parts = (parts - parts.mean(-1, keepdim=True)) / torch.sqrt(parts.var(-1, keepdim=True, correction=0) + 1e-5)
        return parts.reshape(n, c, h, width) * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    angle = t[:, None] * w["fourier.frequencies"] * 2 * math.pi
    embedding = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
    embedding = swish(embedding @ w["embed.weight"].T + w["embed.bias"])

    def dense(index):
        return (embedding @ w[f"dense{index}.weight"].T + w[f"dense{index}.bias"])[:, :, None, None]

    h1 = swish(norm(F.conv2d(x, w["conv1.weight"]) + dense(1), 4, "norm1"))
    h2 = swish(norm(F.conv2d(h1, w["conv2.weight"], stride=2) + dense(2), 32, "norm2"))
    h3 = swish(norm(F.conv2d(h2, w["conv3.weight"], stride=2) + dense(3), 32, "norm3"))
    h4 = swish(norm(F.conv2d(h3, w["conv4.weight"], stride=2) + dense(4), 32, "norm4"))
    h = F.conv_transpose2d(h4, w["tconv4.weight"], stride=2)
    h = swish(norm(h + dense(5), 32, "tnorm4"))
    h = F.conv_transpose2d(torch.cat([h, h3], 1), w["tconv3.weight"], stride=2, output_padding=1)
    h = swish(norm(h + dense(6), 32, "tnorm3"))
    h = F.conv_transpose2d(torch.cat([h, h2], 1), w["tconv2.weight"], stride=2, output_padding=1)
    h = swish(norm(h + dense(7), 32, "tnorm2"))
    return F.conv_transpose2d(torch.cat([h, h1], 1), w["tconv1.weight"], w["tconv1.bias"])


def test_output_equals_an_independent_float64_implementation():
    network = build_network(ncsn_model(), seed=3)
    x, t = torch.randn(4, 1, 28, 28), torch.rand(4)
    weights = {name: tensor.double() for name, tensor in network.state_dict().items()}
    expected = reference_forward(weights, x.double(), t.double())
    assert torch.allclose(network(x, t).double(), expected, atol=1e-4)


def test_a_class_vector_is_added_to_the_noise_level_embedding():
    """Without classes, network and initialization are the paper's; with classes, label -1 is unconditional."""
    plain = build_network(MODELS["ncsn"](), seed=1)
    settings = MODELS["ncsn"]()
    conditional = build_network({**settings, "network": {**settings["network"], "classes": 3}}, seed=1)
    extra = set(conditional.state_dict()) - set(plain.state_dict())
    assert extra == {"label.weight"}
    assert all(torch.equal(conditional.state_dict()[name], value) for name, value in plain.state_dict().items())
    x, level = torch.randn(4, 1, 20, 20), torch.rand(4)
    none = torch.full((4,), -1)
    assert torch.equal(conditional(x, level, none), plain(x, level))
    assert torch.equal(conditional(x, level), plain(x, level))
    one = conditional(x, level, torch.tensor([0, 1, 2, -1]))
    assert all(not torch.equal(one[i], plain(x, level)[i]) for i in range(3))
    assert torch.equal(one[3], plain(x, level)[3])


@pytest.mark.parametrize("classes", [0, 2])
def test_the_parts_compose_to_the_network_with_classes(classes):
    settings = MODELS["ncsn"]()
    network = build_network({**settings, "network": {**settings["network"], "classes": classes}}, seed=1).eval()
    embedder, body = split_network(network)
    x, level, labels = torch.randn(3, 1, 20, 20), torch.rand(3), torch.tensor([0, 1, -1])
    assert torch.equal(body(x, embedder(level, labels)), network(x, level, labels))
    assert not [name for name in body.state_dict() if name.startswith(("label", "fourier"))]
