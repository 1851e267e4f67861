"""Channel pruning: how many channels, which ones, and the remaining network in memory and in a file."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from builders import MODELS, SOURCE, TRAININGS, model_header, small_model, small_unet_model
from presets import CONFIG
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.catalog.compression import LOSS_IMPORTANCES, WEIGHT_IMPORTANCES
from slimdiff.catalog.layers import channel_modules
from slimdiff.checkpoints import weights
from slimdiff.checkpoints.model import write_model
from slimdiff.compression.channels import ChannelSettings, kept_width, prune_channels
from slimdiff.compression.importance import IMPORTANCES, accumulate_gradients
from slimdiff.compression.linear_quant import quantize_linears
from slimdiff.compression.restore import resize, sizes
from slimdiff.compression.steps import apply_steps
from slimdiff.compression.unstructured import prunable
from slimdiff.engines.network import count_parameters
from slimdiff.errors import UserError
from slimdiff.inference import export
from slimdiff.inference.model import load
from slimdiff.io.tensors import tensors_digest
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import count_macs

FAMILIES = tuple(MODELS)
# Of the U-Net: layers whose outputs are added to one residual stream.
SHARED = {
    *("inc.conv2", "down1.conv1.conv2", "up2.embed", "up2.conv2.conv2", "up3.conv1.conv2"),
    *("down1.embed", "down1.conv2.conv2", "down2.conv1.conv2", "up1.embed", "up1.conv2.conv2", "up2.conv1.conv2"),
    *("attend4.proj", "attend4.ff2"),
    *("down2.embed", "down2.conv2.conv2", "down3.conv1.conv2", "bottom3.conv2", "up1.conv1.conv2"),
    *("attend2.proj", "attend2.ff2"),
}
SHARED_BY_BLOCKS = {
    "ncsn": {"embed"},
    "ddpm": SHARED,
    "unet2d": {
        *("conv_in", "down_blocks.0.resnets.0.conv2", "down_blocks.1.resnets.0.conv2"),
        *("down_blocks.1.resnets.0.conv_shortcut", "mid_block.attentions.0.to_out.0"),
        *("mid_block.resnets.0.conv2", "mid_block.resnets.1.conv2"),
    },
}
RESIDUAL = "up3.conv1.conv2"  # of the U-Net; its channels: a skip's and the level below's, concatenated


def pruned(network, importance="l1", amount=0.5, seed=0, losses=None):
    threshold = 0.3 if importance == "diff-pruning" else None
    return prune_channels(network, ChannelSettings("channels", importance, amount, threshold), seed, losses)


def losses_of(network, levels=6):
    """Losses that differ in size and in gradient from level to level."""
    x, noise_level = network.channel_plan()["inputs"]
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(2, *x.shape[1:], generator=generator) for _ in range(levels)]

    def loss_at(level):
        return lambda: (level + 1) * network(inputs[level], noise_level.expand(2) + level).square().mean()

    return [loss_at(level) for level in range(levels)]


def macs(network):
    """Count MACs on a device where the counter sees every product: it does not know a CPU's attention."""
    network = copy.deepcopy(network).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*(tensor.to("meta") for tensor in network.channel_plan()["inputs"]))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_half_of_the_channels_halves_every_width_and_quarters_the_network(family):
    network = build_network(CONFIG["models"][family])
    before, params, arithmetic = sizes(network), sum(p.numel() for p in network.parameters()), macs(network)
    pruned(network)
    free = {"ncsn": {"embed.in_features"}, "ddpm": {f"{n}.embed.in_features" for n in UNET_BLOCKS}}[family]
    free |= {"conv1.in_channels", "tconv1.out_channels", "inc.conv1.in_channels", "outc.out_channels"}
    for name, layer in sizes(network).items():
        for size, width in layer.items():
            whole = f"{name}.{size}" in free or name == "label" or before[name][size] == 1
            assert width == (before[name][size] if whole else before[name][size] // 2), (name, size)
    assert sum(p.numel() for p in network.parameters()) / params == pytest.approx(0.25, abs=0.02)
    assert macs(network) / arithmetic == pytest.approx(0.25, abs=0.01)


UNET_BLOCKS = ("down1", "down2", "down3", "up1", "up2", "up3")


@pytest.mark.parametrize("width", [1, 2, 6, 8, 12, 16, 20, 24, 32, 48, 64, 128, 250, 256])
@pytest.mark.parametrize("amount", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_width_is_near_the_requested_one_and_a_multiple_of_the_block(width, amount):
    for block in (block for block in range(1, width + 1) if width % block == 0):
        kept = kept_width(width, amount, block)
        assert kept % block == 0
        assert block <= kept <= width
        unit = math.lcm(block, 8)  # or a divisor of it
        assert abs(kept - (1 - amount) * width) <= unit / 2 + 1e-9 or kept <= unit  # one must stay
    assert kept_width(width, 0.0) == width


def test_widths_are_rounded_to_nearby_multiples_of_eight():
    assert [kept_width(width, 0.3) for width in (256, 128, 64, 32, 16)] == [176, 88, 48, 24, 12]
    assert kept_width(24, 0.5) == 12


@pytest.mark.parametrize("importance", WEIGHT_IMPORTANCES)
@pytest.mark.parametrize("amount", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_pruned_network_equals_the_whole_one_with_those_weights_at_zero(family, amount, importance):
    """Every weight is numbered, so the remaining ones reveal the removed ones. With those weights at zero the whole
    network must give the same images: it does not if a filter goes and another channel's readers with it.

    U-Nets are tested without their norms, which see other channels too; the score network's see whole groups.
    """
    network = build_network(MODELS[family](), seed=4).double()
    if family == "ncsn":
        network.fourier.double()
    else:
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                network.set_submodule(name, nn.Identity())
    if family == "unet2d":
        network.time_proj.register_forward_hook(lambda module, inputs, output: output.double())
    values = {name: torch.randn_like(parameter) * 0.2 for name, parameter in network.named_parameters()}
    numbered, count = copy.deepcopy(network), 1
    for parameter in numbered.parameters():
        parameter.data = torch.arange(count, count + parameter.numel(), dtype=torch.float64).view(parameter.shape)
        count += parameter.numel()
    whole = dict(numbered.named_parameters())
    whole = {name: parameter.detach().clone() for name, parameter in whole.items()}

    narrow = copy.deepcopy(numbered)
    plan = narrow.channel_plan()
    narrow.channel_plan = lambda: {**plan, "inputs": tuple(tensor.double() for tensor in plan["inputs"])}
    pruned(narrow, importance, amount)
    state, kept_values = narrow.state_dict(), {}
    for name, original in whole.items():
        numbers = state[name].flatten()
        numbers = torch.where(numbers < 1, numbers, numbers.round())
        if name.endswith(("qkv.weight", "qkv.bias")):  # queries were scaled: number them again by their keys
            third = len(state[name]) // 3
            step = original.numel() // 3
            state[name][:third] = state[name][third : 2 * third].round() - step
            numbers = state[name].flatten().round()
        if ".to_q." in name:
            keys = name.replace("to_q", "to_k")
            numbers = state[keys].flatten().round() - whole[keys].flatten()[0] + original.flatten()[0]
        positions = (numbers - original.flatten()[0]).long()
        assert torch.equal(original.flatten()[positions], numbers), name
        mask = torch.zeros(original.numel(), dtype=torch.bool)
        mask[positions] = True
        kept_values[name] = values[name].flatten()[positions].view(state[name].shape)
        values[name] = torch.where(mask.view(original.shape), values[name], 0.0)
        if ".qkv." in name:
            third, left = len(values[name]) // 3, len(kept_values[name]) // 3
            kept_values[name][:left] *= (left / third) ** 0.5
        if ".to_q." in name:
            kept_values[name] *= (len(kept_values[name]) / len(values[name])) ** 0.5

    fresh = copy.deepcopy(network)
    fresh.load_state_dict({**network.state_dict(), **values})
    small = copy.deepcopy(network)
    resize(small, {name: layer for name, layer in sizes(narrow).items() if name in sizes(network)})
    small.load_state_dict({**network.state_dict(), **kept_values})
    x = torch.randn(2, 1, MODELS[family]()["image_size"], MODELS[family]()["image_size"]).double()
    levels = torch.tensor([0.3, 0.9]).double()
    with torch.no_grad():
        expected, found = fresh(x, levels), small(x, levels)
    assert float(expected.abs().max()) > 0
    assert torch.allclose(expected, found, rtol=1e-8, atol=1e-9 * float(expected.abs().max()))
    assert sum(p.numel() for p in small.parameters()) < 0.75 * sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("importance", ["l1", "taylor"])
def test_the_channels_with_the_smallest_scores_are_removed(importance):
    """By hand for the deepest level of the score network: four norm groups of four channels."""
    network = build_network(small_model(), seed=5)
    losses = losses_of(network)
    if importance == "taylor":
        sum(loss() for loss in losses).backward()
    before = copy.deepcopy(network)

    def score(layer, axis):
        weight = network.get_submodule(layer).weight
        value = weight.abs() if importance == "l1" else (weight * weight.grad).abs()
        return value.detach().transpose(0, axis).flatten(1).sum(1)

    expected = score("conv4", 0) + score("dense4", 0) + score("tconv4", 0)  # transposed: inputs along axis 0
    groups = expected.view(4, 4).sum(1).argsort()[2:].sort().values
    pruned(network, importance, losses=losses)
    assert network.norm4.num_groups == 2
    stay = [4 * int(group) + channel for group in groups for channel in range(4)]
    assert torch.equal(network.norm4.weight, before.norm4.weight[stay])
    assert torch.equal(network.dense4.bias, before.dense4.bias[stay])


def test_a_residual_of_two_layers_loses_channels_from_each():
    network = build_network(small_unet_model(), seed=1)
    nn.init.zeros_(network.inc.conv2.weight)  # a joint ranking would remove all channels here
    pruned(network)
    assert network.inc.conv2.out_channels == 4
    assert network.up2.conv2.conv2.out_channels == 4
    assert network.get_submodule(RESIDUAL).out_channels == 8


@pytest.mark.parametrize("amount", [0.3, 0.5, 0.8])
def test_every_head_loses_equally_many_channels(amount):
    network = build_network(small_unet_model(), seed=1)
    pruned(network, amount=amount)
    for name, heads in network.channel_plan()["heads"].items():
        attention = network.get_submodule(name)
        assert attention.qkv.out_features == 3 * attention.proj.in_features
        assert attention.proj.in_features % heads == 0
        assert attention.heads == heads
    assert network(*network.channel_plan()["inputs"]).shape == (1, 1, 16, 16)


def test_gradients_are_summed_over_levels_with_a_large_enough_loss():
    """Against a plain loop; losses grow from level to level, so a threshold excludes the first ones."""
    network = build_network(small_model(), seed=6)
    losses = losses_of(network)
    with torch.no_grad():
        values = torch.stack([loss() for loss in losses])
    for threshold in (0.0, 0.3, 0.9):
        relative = accumulate_gradients(network, losses, threshold)
        assert relative == pytest.approx((values / values.max()).tolist())
        found = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        kept = [loss for loss, value in zip(losses, values, strict=True) if value > threshold * values.max()]
        assert len(kept) == {0.0: 6, 0.3: int((values > 0.3 * values.max()).sum()), 0.9: 1}[threshold]
        network.zero_grad()
        total = sum(loss() for loss in kept)
        total.backward()
        for name, parameter in network.named_parameters():
            if name in found:
                assert torch.allclose(found[name], parameter.grad, rtol=1e-4, atol=1e-6), name
    assert len({len(kept), 6}) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_agree_and_importances_differ(family):
    results = {}
    for importance in IMPORTANCES:
        digests = set()
        for _ in range(2):
            network = build_network(MODELS[family](), seed=1)
            torch.manual_seed(8)
            expected = torch.rand(3)
            torch.manual_seed(8)
            pruned(network, importance, losses=losses_of(network) if importance in LOSS_IMPORTANCES else None)
            assert torch.equal(torch.rand(3), expected), "the global generator was used"
            assert all(parameter.grad is None for parameter in network.parameters())
            digests.add(tensors_digest(network.state_dict()))
        (results[importance],) = digests
    assert len(set(results.values())) == len(IMPORTANCES)
    other = build_network(MODELS[family](), seed=1)
    pruned(other, "random", seed=1)
    assert tensors_digest(other.state_dict()) != results["random"]


def test_pruned_cells_sample_the_same_images_in_another_process(tmp_path):
    """One process for all families, since each start imports torch."""
    expected = []
    for family in FAMILIES:
        path, model = tmp_path / family, MODELS[family]()
        network = build_network(model, seed=1)
        structure = apply_steps(network, [{"prune": {"method": "channels", "importance": "l1", "amount": 0.5}}], 0)
        write_model(path, network, model_header(model, TRAININGS[family](), structure=structure))
        loaded = load(path)
        assert tensors_digest(loaded.network.state_dict()) == tensors_digest(network.state_dict())
        expected.append(tensors_digest({"images": loaded.sample(3, seed=2).images}))
    code = (
        "import sys, slimdiff\nfrom slimdiff.io.tensors import tensors_digest\n"
        "for path in sys.argv[1:]:\n"
        "    print(tensors_digest({'images': slimdiff.load(path).sample(3, seed=2).images}))\n"
        "assert 'torch_pruning' not in sys.modules"
    )
    environment = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": str(torch.get_num_threads()), "PATH": ""}
    command = [sys.executable, "-c", code, *(str(tmp_path / family) for family in FAMILIES)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_cell_is_counted_at_its_size_and_can_be_exported(family, tmp_path):
    path, model = tmp_path / "model.safetensors", MODELS[family]()
    if family == "ddpm":  # with attention at one size instead of three: an export takes time by the number of layers
        model = small_unet_model({"attention_levels": [3]})
    network = build_network(model, seed=1)
    whole = macs(network)
    structure = apply_steps(network, [{"prune": {"method": "channels", "importance": "l1", "amount": 0.5}}], 0)
    write_model(path, network, model_header(model, TRAININGS[family](), structure=structure))
    loaded = load(path)
    assert count_macs(loaded) == macs(network) < 0.4 * whole
    assert count_parameters(loaded.network)[0] == sum(p.numel() for p in network.parameters())
    pytest.importorskip("onnxscript")
    description = export.write_onnx(tmp_path / "model.onnx", loaded)
    assert description["max_difference"] is None or description["max_difference"] < export.TOLERANCE


def test_other_steps_run_after_channel_pruning():
    network = build_network(small_model(), seed=1)
    steps = [
        {"prune": {"method": "channels", "importance": "l1", "amount": 0.5}},
        {"prune": {"method": "l1", "amount": 0.5, "scope": "middle"}},
        {"quantize": {"linear": "8bit"}},
    ]
    structure = apply_steps(network, steps[:2], 0)
    pool = [getattr(module, name) for module, name in prunable(network, "middle")]
    elements = sum(parameter.numel() for parameter in pool)
    assert sum(int((parameter == 0).sum()) for parameter in pool) == round(0.5 * elements)
    structure += apply_steps(network, steps[2:], 0)
    header = model_header(small_model(), TRAININGS["ncsn"](), structure=structure)
    again = weights.rebuild(header, network.state_dict())
    assert tensors_digest(again.state_dict()) == tensors_digest(network.state_dict())
    assert again.dense1.in_features == 16


def test_pruning_twice_records_the_remaining_widths(tmp_path):
    network = build_network(small_model(), seed=1)
    step = {"prune": {"method": "channels", "importance": "l1", "amount": 0.5}}
    structure = apply_steps(network, [step, step], 0)
    assert len(structure) == 2
    again = weights.rebuild(model_header(small_model(), TRAININGS["ncsn"](), structure=structure), network.state_dict())
    assert sizes(again) == sizes(network)
    assert network.conv4.out_channels == 4


def test_an_amount_of_zero_removes_nothing():
    network = build_network(small_model(), seed=1)
    before = tensors_digest(network.state_dict())
    assert pruned(network, amount=0.0) == {"channels": {}}
    assert tensors_digest(network.state_dict()) == before


def test_unsupported_networks_are_refused():
    with pytest.raises(UserError, match="conv2 is a convolution of 2 groups; allowed: a network whose training has"):
        pruned(build_network(small_model(), groups=2))
    quantized = build_network(small_model())
    quantize_linears(quantized, "8bit")
    with pytest.raises(UserError, match="but embed is quantized"):
        pruned(quantized)
    with pytest.raises(UserError, match=r"Linear has no channel_plan\(\); allowed for it: random, l1"):
        pruned(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ChannelSettings("channels", "l1", 1.0), "prune.amount is 1.0; allowed: 0 to"),
        (ChannelSettings("channels", "l2", 0.5), f"prune.importance is 'l2'; allowed: {', '.join(IMPORTANCES)}"),
        (ChannelSettings("filters", "l1", 0.5), "prune.method is 'filters'; allowed here: channels"),
        (ChannelSettings("channels", "taylor", 0.5), "'taylor', which needs images; allowed in a recipe: l1, random"),
        (ChannelSettings("channels", "diff-pruning", 0.5), "prune.threshold is None with importance diff-pruning"),
        (ChannelSettings("channels", "l1", 0.5, 0.1), "prune.threshold is 0.1 with importance l1; allowed: none"),
        (ChannelSettings("channels", "diff-pruning", 0.5, 1.0), "prune.threshold is 1.0; allowed: 0 to"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    network = build_network(small_model())
    before = sizes(network)
    with pytest.raises(UserError, match=message):
        prune_channels(network, settings, 0)
    assert sizes(network) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scope_covers_one_modules_own_channels_and_scopes_together_all_unshared_ones(family):
    """Only layers that read or write a module's channels become narrower; shared channels stay."""
    network = build_network(CONFIG["models"][family])
    before = sizes(network)
    named = channel_modules(family, CONFIG["models"][family]["network"])
    outputs = {}
    for name in named:
        narrower = copy.deepcopy(network)
        structure = prune_channels(narrower, ChannelSettings("channels", "l1", 0.5, scope=f"module:{name}"), 0)
        after = sizes(narrower)
        assert structure == {"channels": {layer: size for layer, size in after.items() if size != before[layer]}}
        made = [layer for layer in after if width_of(after[layer]) < width_of(before[layer])]
        convolutions = [layer for layer in made if "num_channels" not in before[layer] and "conv" in layer]
        assert made
        assert all(layer == name or layer.startswith(f"{name}.") for layer in convolutions), (name, convolutions)
        for layer in made:
            assert layer not in outputs, f"{layer} is narrower by {outputs.get(layer)} and by {name}"
            outputs[layer] = name
        x, *others = network.channel_plan()["inputs"]
        assert narrower(x, *others).shape == x.shape
    whole = sizes(copied_and_pruned(network))
    shared = {layer for layer in whole if width_of(whole[layer]) < width_of(before[layer])} - set(outputs)
    assert shared == SHARED_BY_BLOCKS[family]


def width_of(layer):
    """Width of a layer's output; 0 for norms, which are as wide as their input."""
    return layer.get("out_channels", layer.get("out_features", 0))


def copied_and_pruned(network):
    whole = copy.deepcopy(network)
    pruned(whole)
    return whole


def test_a_scope_without_own_channels_is_refused():
    network = build_network(small_model())
    with pytest.raises(UserError, match=r"prune.scope is 'module:tconv1'; allowed for channels: .*: embed, conv1"):
        prune_channels(network, ChannelSettings("channels", "l1", 0.5, scope="module:tconv1"), 0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"conv9": {"in_channels": 1, "out_channels": 1}}, "names the layer 'conv9', which the network lacks"),
        ({"conv1": {"in_features": 1, "out_features": 1}}, r"gives 'conv1', a Conv2d, the sizes \['in_features'"),
        ({"fourier": {"out_channels": 1}}, "gives 'fourier', a GaussianFourierEmbedding, the sizes"),
    ],
)
def test_a_structure_of_another_network_is_refused(record, message):
    with pytest.raises(UserError, match=message):
        resize(build_network(small_model()), record)
