"""Every compression step: changes its scope alone, is deterministic, survives its file, refuses invalid settings."""

import pytest
import torch
from builders import model_header, ncsn_model, small_model, training

from slimdiff.catalog.compression import WEIGHT_IMPORTANCES
from slimdiff.checkpoints import model
from slimdiff.compression.linear_quant import BITS, dense_weight, import_bitsandbytes, is_quantized, quantize_linears
from slimdiff.compression.steps import STEPS, apply_steps
from slimdiff.compression.unstructured import METHODS, prunable
from slimdiff.compression.weight_only import WEIGHT_FORMATS
from slimdiff.errors import UserError
from slimdiff.inference.model import load
from slimdiff.models.registry import build_network

EXAMPLES = [
    *({"prune": {"method": method, "amount": 0.3, "scope": "global"}} for method in METHODS),
    {"prune": {"method": "random", "amount": 0.5, "scope": "middle"}},
    {"prune": {"method": "l1", "amount": 0.7, "scope": "extremes"}},
    *({"prune": {"method": "channels", "importance": name, "amount": 0.5}} for name in WEIGHT_IMPORTANCES),
    *({"quantize": {"linear": bits}} for bits in BITS),
    *({"quantize": {"weights": kind}} for kind in WEIGHT_FORMATS),
]


def compressed(step, seed=7):
    network = build_network(small_model(), seed=1)
    structure = apply_steps(network, [step], seed)
    return network, structure


def test_every_step_has_an_example():
    """A new step needs an entry in EXAMPLES; values of METHODS and of the other tables are tested by themselves."""
    assert {name for step in EXAMPLES for name in step} == set(STEPS)


@pytest.mark.parametrize("step", EXAMPLES, ids=str)
def test_a_step_is_deterministic_given_the_seed(step):
    first, again = compressed(step)[0].state_dict(), compressed(step)[0].state_dict()
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("step", EXAMPLES, ids=str)
def test_a_compressed_network_survives_its_file_bit_for_bit(step, tmp_path):
    network, structure = compressed(step)
    header = model_header(small_model(), training(), steps=[step], structure=structure)
    model.write_model(tmp_path / "model.safetensors", network, header)
    loaded = load(tmp_path / "model.safetensors")
    before, after = network.state_dict(), loaded.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    x, t = torch.randn(3, 1, 20, 20), torch.rand(3)
    network.eval().requires_grad_(False)  # like `load`: bitsandbytes multiplies differently in training mode
    with torch.inference_mode():
        assert torch.equal(network(x, t), loaded.network(x, t))
    again = loaded.network.state_dict()
    assert all(torch.equal(before[key], again[key]) for key in before), "a forward pass changed the weights"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scope", ["global", "middle", "extremes"])
@pytest.mark.parametrize("amount", [0.0, 0.1, 0.3, 0.7])
def test_pruning_zeroes_its_amount_of_its_scope_and_nothing_else(method, scope, amount):
    network = build_network(ncsn_model(), seed=2)
    before = {name: p.clone() for name, p in network.named_parameters()}
    apply_steps(network, [{"prune": {"method": method, "amount": amount, "scope": scope}}], 5)
    touched = {id(getattr(module, name)) for module, name in prunable(network, scope)}
    zeros = elements = 0
    for name, parameter in network.named_parameters():
        if id(parameter) in touched:
            kept = parameter != 0
            assert torch.equal(parameter[kept], before[name][kept])
            zeros += int((~kept).sum()) - int((before[name] == 0).sum())
            elements += parameter.numel()
        else:
            assert torch.equal(parameter, before[name])
    assert zeros == round(amount * elements)
    assert not any("mask" in name or "orig" in name for name in network.state_dict())


def test_pruned_weights_are_plain_zeros():
    """Not -0.0, as torch's masks leave for negative weights: the sign costs a bit in every packed file."""
    network = build_network(ncsn_model(), seed=2)
    apply_steps(network, [{"prune": {"method": "random", "amount": 0.5, "scope": "global"}}], 0)
    for module, name in prunable(network, "global"):
        values = getattr(module, name).detach()
        assert not torch.signbit(values[values == 0]).any()


def test_l1_removes_the_smallest():
    network = build_network(ncsn_model(), seed=2)
    before = torch.cat([getattr(m, n).detach().flatten() for m, n in prunable(network, "global")])
    apply_steps(network, [{"prune": {"method": "l1", "amount": 0.4, "scope": "global"}}], 0)
    after = torch.cat([getattr(m, n).detach().flatten() for m, n in prunable(network, "global")])
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()


def test_random_pruning_depends_on_the_seed_and_leaves_the_global_generator_alone():
    step = {"prune": {"method": "random", "amount": 0.3, "scope": "global"}}
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, other = compressed(step, 1)[0], compressed(step, 2)[0]
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(one.conv3.weight == 0, other.conv3.weight == 0)


@pytest.mark.parametrize(("bits", "relative"), [("8bit", 0.01), ("4bit", 0.15)])
def test_quantized_weights_are_close_to_the_float_ones(bits, relative):
    network = build_network(ncsn_model(), seed=2)
    before = {
        name: module.weight.detach().clone() for name, module in network.named_modules() if name.startswith("dense")
    }
    names = quantize_linears(network, bits)
    assert set(before) < set(names)
    for name, weight in before.items():
        module = network.get_submodule(name)
        assert is_quantized(module)
        error = dense_weight(module) - weight
        assert 0 < float(error.norm() / weight.norm()) < relative


@pytest.mark.parametrize("bits", BITS)
def test_only_linear_layers_are_quantized(bits):
    network = build_network(small_model(), seed=1)
    before = {name: p.clone() for name, p in network.named_parameters() if "conv" in name or "norm" in name}
    quantize_linears(network, bits)
    after = dict(network.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {"prune": {"method": "magic", "amount": 0.1}},
            rf"prune.method is 'magic'; allowed: {', '.join(METHODS)}, channels",
        ),
        ({"prune": {"method": "l1", "amount": 1.3}}, r"prune.amount is 1.3; allowed: 0 "),
        ({"prune": {"method": "l1", "amount": 0.1, "scope": "outer"}}, r"prune.scope is 'outer'; allowed.*middle"),
        ({"prune": {"method": "l1"}}, r"prune: key 'amount' is missing"),
        ({"prune": {"method": "l1", "amount": 0.1, "amuont": 0.1}}, r"unknown key 'amuont'"),
        ({"quantize": {"linear": "3bit"}}, rf"linear is '3bit'; allowed: {', '.join(BITS)}"),
        ({"quantize": {"conv": "8bit"}}, r"quantize has the keys \['conv'\]; allowed: .*linear"),
        ({"quantize": {"linear": "8bit", "weights": "8bit"}}, r"\['linear', 'weights'\]; allowed: one of"),
        ({"quantize": {"weights": "2bit"}}, rf"quantize.weights is '2bit'; allowed: {', '.join(WEIGHT_FORMATS)}"),
        ({"distil": {}}, r"\{'distil': \{\}\}; allowed: .*prune, quantize"),
    ],
)
def test_impossible_steps_are_refused(step, message):
    with pytest.raises(UserError, match=message):
        compressed(step)


def test_pruning_after_quantizing_and_quantizing_twice_are_refused():
    network = build_network(small_model())
    quantize_linears(network, "8bit")
    with pytest.raises(UserError, match="prune before quantizing"):
        apply_steps(network, [{"prune": {"method": "l1", "amount": 0.1}}], 0)
    with pytest.raises(UserError, match=r"quantize.weights is '8bit', but layer embed is already quantized"):
        apply_steps(network, [{"quantize": {"weights": "8bit"}}], 0)
    with pytest.raises(UserError, match="'4bit', but the network has no float linear layer"):
        apply_steps(network, [{"quantize": {"linear": "4bit"}}], 0)


def used_then_changed(layer):
    """Return a layer's outputs in evaluation mode before and after its weights change, and the new weights' own."""
    torch.manual_seed(0)
    x, other = torch.randn(8, 64), torch.randn(64, 64)
    before = layer.eval()(x)
    layer.weight.data = other.clone()
    return before, layer(x), x @ other.T


def test_an_8bit_layer_with_float_weights_quantizes_them_only_once():
    """Why an averaged copy that is sampled during training produces noise: docs/decisions, 2026-11-29."""
    layer = import_bitsandbytes().nn.Linear8bitLt(64, 64, bias=False).requires_grad_(False)  # like a copy
    before, after, wanted = used_then_changed(layer)
    assert torch.equal(before, after)
    layer.state.reset_grads()
    torch.manual_seed(0)
    again = layer(torch.randn(8, 64))
    assert (again - wanted).norm() < 0.05 * wanted.norm() < 0.5 * (after - wanted).norm()


def test_quantizing_averaged_weights_uses_the_averages():
    """quantize_linears runs after averaging, and its layers keep no other weights."""
    network = build_network(small_model(), seed=1)
    network(torch.randn(1, 1, 20, 20), torch.ones(1))
    other = build_network(small_model(), seed=2).state_dict()
    network.load_state_dict(other)
    names = quantize_linears(network, "8bit")
    assert names
    for name in names:
        wanted = other[f"{name}.weight"]
        assert (dense_weight(network.get_submodule(name)) - wanted).norm() < 0.02 * wanted.norm()
