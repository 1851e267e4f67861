"""Weight-only quantization: equal to torch's and bitsandbytes' arithmetic, exact in files, zeros kept."""

import pytest
import torch
from builders import MODELS, TRAININGS, model_header, ncsn_model, small_model, training
from torch import nn

import slimdiff
from slimdiff.checkpoints.model import write_model
from slimdiff.compression.linear_quant import import_bitsandbytes
from slimdiff.compression.steps import apply_steps
from slimdiff.compression.weight_only import LAYERS, WEIGHT_FORMATS, decode, encode, quantize_weights
from slimdiff.engines.network import count_parameters
from slimdiff.errors import UserError
from slimdiff.inference.export import write_safetensors
from slimdiff.io.tensors import load_tensors
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import count_macs

SHARE = {"8bit": 0.2524, "4bit": 0.1348, "bf16": 0.5}  # ratio of tensor bytes, counted by hand for the paper's NCSN


def layer(module: nn.Module, kind: str) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the original weight of a network of this one layer, and its stored tensors."""
    network = nn.Sequential(module)
    before = module.weight.detach().clone()
    record = quantize_weights(network, kind)
    return before, encode(network.state_dict(), record)


@pytest.mark.parametrize(
    ("module", "axis"),
    [
        (nn.Conv2d(6, 8, 3), 0),
        (nn.Conv2d(6, 8, 3, groups=2), 0),
        (nn.Linear(10, 7), 0),
        (nn.ConvTranspose2d(6, 8, 3), 1),
    ],
    ids=str,
)
def test_8bit_equals_torchs_quantization_per_output_channel(module, axis):
    torch.manual_seed(0)  # between two steps torch, which multiplies by 1 / scale, may round to the other one
    module.reset_parameters()
    before, stored = layer(module, "8bit")
    scales = stored["0.weight.scale"]
    largest = before.transpose(0, axis).flatten(1).abs().amax(1)
    assert torch.allclose(scales.float(), largest / 127, rtol=2**-8)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    expected = torch.fake_quantize_per_channel_affine(before, scales.float(), zeros.int(), axis, -127, 127)
    assert torch.equal(module.weight.detach(), expected)
    assert stored["0.weight"].dtype == torch.int8


def test_a_grouped_transposed_convolution_has_a_scale_per_output_channel():
    module = nn.ConvTranspose2d(6, 8, 3, groups=2)  # weight (6, 4, 3, 3): inputs 0 to 2 make outputs 0 to 3
    before, stored = layer(module, "8bit")
    whole = torch.cat([before[:3], before[3:]], dim=1)  # (3, 8, 3, 3): of one group
    assert stored["0.weight.scale"].shape == (8,)
    assert torch.allclose(stored["0.weight.scale"].float(), whole.abs().amax((0, 2, 3)) / 127, rtol=2**-8)
    error = (module.weight.detach() - before).abs()
    half = stored["0.weight.scale"].float().reshape(2, 4).repeat_interleave(3, 0)[:, :, None, None] / 2
    assert bool((error <= half * 1.01).all())


@pytest.mark.parametrize("elements", [64, 640, 130])
def test_4bit_equals_bitsandbytes_nf4(elements):
    weight = torch.randn(elements, generator=torch.Generator().manual_seed(1))
    blocks = nn.functional.pad(weight, (0, -elements % 64)).view(-1, 64)
    for block in blocks:  # absolute maxima that are exact in bfloat16, since bitsandbytes keeps float32
        block[block.abs().argmax()] = (block.abs().max() * 1.01).bfloat16().float()
    network = nn.Sequential(nn.Linear(elements, 1, bias=False))
    network[0].weight.data.copy_(blocks.flatten()[None, :elements])
    functional = import_bitsandbytes().functional
    packed, state = functional.quantize_4bit(blocks.flatten(), blocksize=64, quant_type="nf4")
    expected = functional.dequantize_4bit(packed, state).flatten()[:elements]
    record = quantize_weights(network, "4bit")
    assert torch.allclose(network[0].weight.detach().flatten(), expected, rtol=1e-6, atol=0)
    stored = encode(network.state_dict(), record)
    assert torch.equal(stored["0.weight"].flatten(), packed.flatten())


def test_bf16_rounds_to_nearest_even_and_leaves_buffers():
    network = build_network(ncsn_model(), seed=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    quantize_weights(network, "bf16")
    for name, value in network.state_dict().items():
        if name == "fourier.frequencies":
            assert torch.equal(value, before[name])
            continue
        bits = before[name].contiguous().view(torch.int32).long()
        even = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        assert torch.equal(value.contiguous().view(torch.int32).long() & 0xFFFFFFFF, even & 0xFFFFFFFF)


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
@pytest.mark.parametrize("kind", WEIGHT_FORMATS)
@pytest.mark.parametrize("groups", [1, 2])
def test_quantizing_twice_changes_nothing_and_writes_the_same_bytes(tmp_path, family, kind, groups):
    model = MODELS[family]()
    network = build_network(model, groups, seed=1)
    structure = apply_steps(network, [{"prune": {"method": "l1", "amount": 0.4}}, {"quantize": {"weights": kind}}], 5)
    header = model_header(model, TRAININGS[family](groups=groups), structure=structure)
    write_model(tmp_path / "one.safetensors", network, header)
    loaded = slimdiff.load(tmp_path / "one.safetensors")
    before, after = network.state_dict(), loaded.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.float32 for name in before)
    kept = {key: value for key, value in loaded.settings.items() if key not in ("kind", "sha256")}
    write_model(tmp_path / "two.safetensors", loaded.network, kept)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert loaded.settings["structure"] == structure


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_only_weights_of_convolutions_and_linear_layers_change_and_zeros_stay(kind):
    network = build_network(MODELS["ddpm"](), seed=1)
    apply_steps(network, [{"prune": {"method": "random", "amount": 0.3}}], 5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    record = quantize_weights(network, kind)
    owners = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, LAYERS)}
    assert set(record["tensors"]) == owners
    for name, value in network.state_dict().items():
        if name not in owners:
            assert torch.equal(value, before[name])
        else:
            assert not value[before[name] == 0].any()
            assert not torch.equal(value, before[name])


@pytest.mark.parametrize("kind", WEIGHT_FORMATS)
def test_the_file_shrinks_with_the_bits_and_the_parameter_counts_stay(tmp_path, kind):
    network = build_network(ncsn_model(), seed=2)
    write_model(tmp_path / "float.safetensors", network, model_header(ncsn_model(), training()))
    structure = apply_steps(network, [{"quantize": {"weights": kind}}], 0)
    header = model_header(ncsn_model(), training(), structure=structure)
    write_model(tmp_path / "model.safetensors", network, header)
    tensors, _ = load_tensors(tmp_path / "model.safetensors", "model")
    plain, _ = load_tensors(tmp_path / "float.safetensors", "model")
    total = {which: sum(t.nbytes for t in found.values()) for which, found in (("now", tensors), ("before", plain))}
    assert total["now"] / total["before"] == pytest.approx(SHARE[kind], rel=1e-3)
    loaded = slimdiff.load(tmp_path / "model.safetensors")
    assert count_parameters(loaded.network)[0] == 1_115_297
    assert count_macs(loaded) == count_macs(slimdiff.load(tmp_path / "float.safetensors"))
    write_safetensors(tmp_path / "export.safetensors", loaded)
    exported, _ = load_tensors(tmp_path / "export.safetensors", "export")
    assert all(torch.equal(exported[name], value) for name, value in loaded.network.state_dict().items())


@pytest.mark.parametrize(("kind", "error"), [("8bit", 0.012), ("4bit", 0.1), ("bf16", 0.002)])
def test_the_quantization_error_of_gaussian_weights(kind, error):
    module = nn.Linear(576, 64, bias=False)
    nn.init.normal_(module.weight, generator=torch.Generator().manual_seed(0))
    before = module.weight.detach().clone()
    quantize_weights(nn.Sequential(module), kind)
    assert error / 2 < float((module.weight.detach() - before).norm() / before.norm()) < error


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_rows_without_a_scale(kind):
    """All zeros, values too small for a scale, and NaN of failed trainings, which stays NaN."""
    module = nn.Linear(64, 4, bias=False)
    module.weight.data[0] = 0.0
    module.weight.data[1] = 1e-39
    module.weight.data[2, 0] = torch.nan
    module.weight.data[3, 0] = torch.inf
    network = nn.Sequential(module)
    record = quantize_weights(network, kind)
    assert not module.weight.data[:2].any()
    assert module.weight.data[2:].isnan().all()
    once = encode(network.state_dict(), record)
    again = encode(decode(once, record), record)
    assert all(torch.equal(once[name].view(torch.uint8), again[name].view(torch.uint8)) for name in once)


@pytest.mark.parametrize("kind", WEIGHT_FORMATS)
def test_tensors_that_contradict_their_header_are_refused(kind):
    network = build_network(small_model(), seed=1)
    record = quantize_weights(network, kind)
    stored = encode(network.state_dict(), record)
    without = {name: value for name, value in stored.items() if name != "conv2.weight"}
    with pytest.raises(UserError, match=r"'conv2.weight', stored in .*, is missing"):
        decode(without, record)
    if kind == "bf16":
        return
    for wrong in (stored["conv2.weight"][:-1], stored["conv2.weight"].float(), stored["conv2.weight"].flatten()):
        with pytest.raises(UserError, match=f"'conv2.weight' is not the {kind} form"):
            decode({**stored, "conv2.weight": wrong}, record)
    with pytest.raises(UserError, match=f"'conv2.weight' is not the {kind} form"):
        decode({name: value for name, value in stored.items() if name != "conv2.weight.scale"}, record)
