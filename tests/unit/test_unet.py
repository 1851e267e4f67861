"""The U-Net: the paper's parameter counts, labels, compression, files and bfloat16."""

import math

import pytest
import torch
from builders import model_header, small_unet_model, unet_model, unet_training

from slimdiff.checkpoints import model
from slimdiff.checkpoints.weights import read_training, write_training
from slimdiff.compression.linear_quant import quantize_linears
from slimdiff.compression.steps import apply_steps
from slimdiff.compression.unstructured import prunable
from slimdiff.errors import UserError
from slimdiff.inference.model import load
from slimdiff.models.registry import build_network
from slimdiff.models.unet import SelfAttention

PARAMETERS = 23_335_299  # the paper's
BOTTLENECK = 10_027_008  # weights of the bottleneck's convolutions
ATTENTION = {0: (64,), 1: (128, 64), 2: (256, 128), 3: (256,)}  # channels of the attentions of each level


def small(groups=1, seed=1, size=16, channels=1, **network):
    return build_network(small_unet_model(network, image_size=size, channels=channels), groups, seed).eval()


def counted(groups=1, image=None, **network):
    """Return the parameters of the paper's network with these changes."""
    whole = unet_model(**(image or {}))
    with torch.device("meta"):
        built = build_network({**whole, "network": {**whole["network"], **network}}, groups)
    return sum(p.numel() for p in built.parameters() if p.requires_grad)


def inputs(n=3, size=16, channels=1, classes=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, size, size, generator=generator)
    return x, torch.linspace(3.0, 900.0, n), torch.arange(n) % classes


def test_trainable_parameters_are_the_papers():
    assert counted() == PARAMETERS


@pytest.mark.parametrize("level", ATTENTION)
def test_attention_has_its_parameters_only_at_the_requested_levels(level):
    # queries, keys, values, output projection, two linear layers, two norms
    expected = sum(6 * c**2 + 10 * c for c in ATTENTION[level])
    assert PARAMETERS - counted(attention_levels=sorted(set(ATTENTION) - {level})) == expected


def test_classes_and_image_channels_have_their_parameters():
    assert PARAMETERS - counted(classes=0) == 10 * 256
    assert PARAMETERS - counted(image={"channels": 1}) == 2 * 64 * 9 + 2 * 64 + 2
    assert counted(base=32) < PARAMETERS / 3
    assert counted(image={"image_size": 32}) == PARAMETERS


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_divide_the_parameters_of_the_bottleneck(groups):
    assert PARAMETERS - counted(groups) == BOTTLENECK - BOTTLENECK // groups


@pytest.mark.parametrize("grouped", ["bottleneck", "all"])
def test_max_groups_is_each_convolutions_greatest_common_divisor(grouped):
    network = small("max", grouped=grouped)
    convolutions = {name: m for name, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    whole = {"inc.conv1", "inc.conv2", "outc"}
    assert whole < convolutions.keys()
    for name, module in convolutions.items():
        split = name not in whole if grouped == "all" else name.startswith("bottom")
        assert module.groups == (math.gcd(module.in_channels, module.out_channels) if split else 1), name


def test_grouping_all_splits_more_than_the_bottleneck():
    assert counted("max", grouped="all") < counted(4, grouped="all") < counted(4) < counted(2) < PARAMETERS


@pytest.mark.parametrize("size", [8, 16, 24, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_multiple_of_8_and_any_number_of_channels(size, channels):
    x, t, labels = inputs(2, size, channels)
    assert small(size=size, channels=channels)(x, t, labels).shape == x.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 4}, r"models\.\*\.image_size is 4; allowed.*multiples of 8"),
        ({"size": 28}, r"models\.\*\.image_size is 28; allowed.*multiples of 8"),
        ({"heads": 3}, r"models\.\*\.network\.heads is 3; allowed: 1, 2, 4, 8$"),
        ({"attention_levels": [1, 4]}, r"models\.\*\.network\.attention_levels holds 4; allowed: 0 to 3"),
        ({"grouped": "outside"}, r"models\.\*\.network\.grouped is 'outside'; allowed: bottleneck, all"),
        ({"groups": 3}, r"trainings\.\*\.groups is 3.*32 and 64 channels.*divisors of 32"),
        ({"heads": 2, "width": 5}, r"unknown key 'width'"),
    ],
)
def test_invalid_networks_are_refused_with_their_key(changes, message):
    with pytest.raises(UserError, match=message):
        small(**changes)


def test_equal_seeds_give_equal_networks():
    first, again, other = (small(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["bottom2.conv1.weight"], other["bottom2.conv1.weight"])


@torch.inference_mode()
def test_labels_change_the_output_and_minus_one_means_unlabelled(device):
    network = small().to(device)
    x, t, labels = (tensor.to(device) for tensor in inputs(4))
    plain, conditional = network(x, t), network(x, t, labels)
    assert torch.equal(network(x, t, torch.full_like(labels, -1)), plain)
    assert float((conditional - plain).abs().flatten(1).amax(1).min()) > 1e-3
    assert not torch.allclose(conditional, network(x, t, labels.flip(0)), atol=1e-3)
    mixed = network(x, t, labels.masked_fill(labels == 1, -1))
    assert torch.equal(mixed[labels == 1], plain[labels == 1])
    assert torch.equal(mixed[labels == 0], conditional[labels == 0])


@torch.inference_mode()
def test_a_network_without_classes_ignores_labels():
    network = small(classes=0)
    x, t, labels = inputs()
    assert torch.equal(network(x, t, labels), network(x, t))
    assert not any(name.startswith("label") for name in network.state_dict())


@torch.inference_mode()
def test_the_noise_level_changes_the_output():
    network = small()
    x, t, _ = inputs()
    assert not torch.allclose(network(x, t), network(x, t + 1), atol=1e-4)


@pytest.mark.parametrize("levels", [[], [2, 3], [0, 1, 2, 3]])
def test_scopes_partition_the_convolutions_and_linear_layers(levels):
    network = small(attention_levels=levels)
    scopes = network.prune_scopes()
    assert scopes["global"] == scopes["middle"] + scopes["extremes"]
    assert len(set(scopes["global"])) == len(scopes["global"])
    assert scopes["middle"]
    assert scopes["extremes"]
    wanted = {name for name, m in network.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))}
    assert set(scopes["global"]) == wanted
    reached = {id(getattr(module, name)) for module, name in prunable(network, "global")}
    for name, parameter in network.named_parameters():
        assert (id(parameter) in reached) == ("norm" not in name and not name.startswith("label")), name


@torch.inference_mode()
def test_the_middle_is_every_layer_at_a_quarter_of_the_size_or_less():
    """By the size of a layer's input; embedding layers belong to the convolutions that they are added to."""
    network = small(attention_levels=[0, 1, 2, 3], size=32)
    scopes = network.prune_scopes()
    sizes = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, i, out, name=name: sizes.update({name: out.shape[-1]}))
        elif isinstance(module, torch.nn.Linear) and not name.endswith("embed"):
            hook = lambda m, i, out, name=name: sizes.update({name: math.isqrt(out.shape[1])})  # noqa: E731
            module.register_forward_hook(hook)
    network(*inputs(1, 32))
    for name, size in sizes.items():
        assert (name in scopes["middle"]) == (size <= 8), (name, size)


@pytest.mark.parametrize("scope", ["global", "middle", "extremes"])
@pytest.mark.parametrize("method", ["random", "l1"])
def test_pruning_zeroes_its_amount_of_its_scope_and_nothing_else(method, scope):
    network, fresh = small(attention_levels=[0, 1, 2, 3]), small(attention_levels=[0, 1, 2, 3])
    fresh = dict(fresh.named_parameters())
    apply_steps(network, [{"prune": {"method": method, "amount": 0.3, "scope": scope}}], 5)
    touched = {id(getattr(module, name)) for module, name in prunable(network, scope)}
    zeros = elements = 0
    for name, parameter in network.named_parameters():
        if id(parameter) in touched:
            elements += parameter.numel()
            zeros += int((parameter == 0).sum())
            assert torch.equal(parameter[parameter != 0], fresh[name][parameter != 0])
        else:
            assert torch.equal(parameter, fresh[name])
    # attention's biases are initially zero, and can be drawn as well
    already = sum(int((fresh[n] == 0).sum()) for n, p in network.named_parameters() if id(p) in touched)
    share = round(0.3 * elements)
    assert share <= zeros <= share + already
    if method == "l1":
        assert zeros == share


@torch.inference_mode()
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_quantized_linears_survive_their_file(bits, precision, tmp_path):
    network = small()
    x, t, labels = inputs()
    plain = network(x, t, labels)
    layers = quantize_linears(network, bits)
    assert {name.rsplit(".")[-1] for name in layers} == {"embed", "qkv", "proj", "ff1", "ff2"}
    structure = [{"linear": bits, "layers": layers}]
    header = model_header(small_unet_model(), unet_training(), structure=structure)
    model.write_model(tmp_path / "model.safetensors", network, header)
    loaded = load(tmp_path / "model.safetensors").network
    network.eval().requires_grad_(False)  # like `load`: bitsandbytes multiplies differently in training mode
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        out = network(x, t, labels)
        assert torch.equal(loaded(x, t, labels), out)
    error = float((out - plain).norm() / plain.norm())
    assert 0 < error < 0.3
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@torch.inference_mode()
def test_files_keep_the_outputs_bit_for_bit(tmp_path):
    """Weights are channels_last in memory and contiguous in files."""
    raw, ema = small(seed=1), small(seed=2)
    assert raw.bottom1.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    header = model_header(small_unet_model(), unet_training())
    weights = {"raw": raw.state_dict(), "ema": ema.state_dict()}
    write_training(tmp_path / "weights.safetensors", weights, header)
    model.write_model(tmp_path / "model.safetensors", raw, header)
    for network, found in (
        (raw, read_training(tmp_path / "weights.safetensors", "raw")[0].eval()),
        (ema, read_training(tmp_path / "weights.safetensors", "ema")[0].eval()),
        (raw, load(tmp_path / "model.safetensors").network),
    ):
        assert found.bottom1.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(found(*inputs()), network(*inputs()))


@torch.inference_mode()
def test_bfloat16_is_close_to_float32(device):
    network = small(attention_levels=[0, 1, 2, 3], size=24).to(device)
    x, t, labels = (tensor.to(device) for tensor in inputs(2, 24))
    exact = network(x, t, labels)
    with torch.autocast(device.type, torch.bfloat16):
        rough = network(x, t, labels)
    assert rough.dtype == torch.bfloat16
    error = (rough - exact).norm() / exact.norm()
    assert 0 < float(error) < 0.03  # bfloat16 rounds by 2^-9; about thirty layers add up


@torch.inference_mode()
@pytest.mark.parametrize("size", [4, 16, 17, 24])
def test_attention_in_bfloat16_is_close_to_float32_at_any_length(size, device):
    attention = SelfAttention(16, 4).eval().to(device)
    x = torch.randn(2, 16, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    exact = attention(x)
    with torch.autocast(device.type, torch.bfloat16):
        rough = attention(x)
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.01


def test_gradients_flow_to_every_parameter():
    network = small().train()
    x, t, labels = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        network(x, t, labels).float().square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("qkv.bias"):  # a key's bias has no effect
            assert float(parameter.grad.abs().max()) > 0, name
