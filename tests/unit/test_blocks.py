"""Block pruning: which blocks can go, which ones do, and the remaining network in memory and in files."""

import copy
import itertools

import pytest
import torch
from builders import (
    MODELS,
    TRAININGS,
    model_header,
    small_unet2d_model,
    small_unet_model,
    unet2d_training,
    unet_training,
)
from finetunings import equal, run, settings_of, start_of
from killing import terminated_at_save
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.catalog.layers import blocks_of
from slimdiff.checkpoints import weights
from slimdiff.checkpoints.model import write_model
from slimdiff.compression.blocks import Block, BlockSettings, cheapest, prune_blocks
from slimdiff.compression.channels import ChannelSettings, prune_channels
from slimdiff.compression.linear_quant import quantize_linears
from slimdiff.compression.restore import Bypass
from slimdiff.compression.steps import apply_steps
from slimdiff.config import lookup
from slimdiff.engines.network import count_parameters
from slimdiff.errors import UserError
from slimdiff.inference import export
from slimdiff.inference.model import load
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import count_macs

NETWORKS = {
    "ncsn": [MODELS["ncsn"]()],
    "ddpm": [small_unet_model(), small_unet_model({"attention_levels": [0, 2]})],
    "unet2d": [
        small_unet2d_model(),
        small_unet2d_model({"add_attention": False, "resnet_time_scale_shift": "default"}),
        small_unet2d_model(
            {
                "block_out_channels": [8, 16, 16],
                "layers_per_block": 2,
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"],
            },
            image_size=32,
        ),
    ],
}
ALL = [(family, model) for family, models in NETWORKS.items() for model in models]


def network_of(model, seed=1):
    """Return a network with noise in every weight; an untrained network's output may be 0."""
    network = build_network(model, seed=seed).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network


def inputs_of(network, n=2):
    x = torch.randn(n, *network.image_shape, generator=torch.Generator().manual_seed(2))
    return x, torch.linspace(0.5, 3.0, n)


def loss_of(network):
    return lambda: float(network(*inputs_of(network)).square().mean())


def macs(network):
    """Count MACs on a device where the counter sees every product: it does not know a CPU's attention."""
    network = copy.deepcopy(network).to("meta")
    with FlopCounterMode(display=False) as counter:
        network(*(tensor.to("meta") for tensor in inputs_of(network, 1)))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("family", "model"), ALL)
def test_the_catalog_names_the_blocks_that_keep_the_shape_of_what_they_get(family, model):
    """By the shapes of an evaluation: a block can go if its output has the shape of the last output before it."""
    network = network_of(model)
    plan = network.block_plan() if family != "ncsn" else {}
    assert list(plan) == blocks_of(family, model["network"])
    shapes = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: (inputs[0].shape, output)}),
        )
    network(*inputs_of(network))
    for modules in plan.values():
        for name, channels in modules.items():
            given, output = shapes[name]
            assert channels is None or given[1] > channels
            assert (given[0], channels or given[1], *given[2:]) == output.shape or len(modules) > 1


@pytest.mark.parametrize(("family", "model"), [each for each in ALL if each[0] != "ncsn"])
def test_a_block_left_out_passes_its_input_on(family, model):
    network = network_of(model)
    before = network(*inputs_of(network))
    for name, modules in network.block_plan().items():
        whole = {module: network.get_submodule(module) for module in modules}
        assert prune_blocks(network, BlockSettings("blocks", names=[name])) == {"blocks": modules}
        seen = []
        for module in modules:
            network.get_submodule(module).register_forward_hook(lambda module, *values, seen=seen: seen.append(values))
        after = network(*inputs_of(network))
        for inputs, output in seen:
            assert torch.equal(output, inputs[0][:, : output.shape[1]])
        assert not torch.allclose(after, before, atol=1e-6), name
        for module, layers in whole.items():
            network.set_submodule(module, layers)
    assert torch.equal(network(*inputs_of(network)), before)


def test_a_residual_block_up_goes_with_its_skip():
    """Written out: the block's input is what the block before it gave, and the skip is not used."""
    network = network_of(small_unet2d_model({"up_block_types": ["UpBlock2D", "UpBlock2D"], "classes": 0}))
    prune_blocks(network, BlockSettings("blocks", names=["up_blocks.0.resnets.0", "up_blocks.0.resnets.1"]))
    seen = {}
    network.mid_block.register_forward_hook(lambda module, inputs, output: seen.update(mid=output))
    network.up_blocks[0].upsamplers[0].register_forward_hook(lambda module, inputs, output: seen.update(up=inputs[0]))
    network(*inputs_of(network))
    assert torch.equal(seen["mid"], seen["up"])


@pytest.mark.parametrize("model", [small_unet_model(), small_unet2d_model()], ids=["ddpm", "unet2d"])
def test_the_blocks_with_the_smallest_sum_of_rises_go(model):
    """Against every set of blocks, each block measured on a copy of the network."""
    network = network_of(model)
    names, whole, loss = list(network.block_plan()), macs(network), loss_of(network)()
    costs = {}
    for name in names:
        pruned = copy.deepcopy(network)
        prune_blocks(pruned, BlockSettings("blocks", names=[name]))
        costs[name] = (max(0.0, loss_of(pruned)() - loss), whole - macs(pruned))
    sets = itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(len(names) + 1))
    sets = [each for each in sets if not {"bottom", "bottom2"} <= {*each}]
    for amount in (0.1, 0.3):
        pruned, expected = copy.deepcopy(network), copy.deepcopy(network)
        actual = prune_blocks(pruned, BlockSettings("blocks", amount), loss_of(pruned))
        enough = [each for each in sets if sum(costs[name][1] for name in each) >= amount * whole]
        best = min(enough, key=lambda each: [sum(costs[name][i] for name in each) for i in range(2)])
        assert actual == prune_blocks(expected, BlockSettings("blocks", names=best))
        assert macs(pruned) <= (1 - amount) * whole


def test_the_choice_is_exact_and_takes_no_more_than_it_needs():
    """Against all sets of random blocks, two of which exclude each other."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rises = torch.rand(9, generator=generator).tolist()
        rises[3] = 0.0  # costs nothing, and yet goes only if needed
        saved = torch.randint(1, 20, (9,), generator=generator).tolist()
        blocks = [Block(str(i), {"m" if i in (1, 2) else str(i): None}, saved[i], rises[i]) for i in range(9)]
        amount = float(torch.rand((), generator=generator)) * 0.4
        sets = [each for n in range(10) for each in itertools.combinations(range(9), n) if not {1, 2} <= set(each)]
        enough = [each for each in sets if sum(saved[i] for i in each) >= amount * 150]
        expected = min(enough, key=lambda each: (round(sum(rises[i] for i in each), 9), sum(saved[i] for i in each)))
        assert sorted(cheapest(blocks, amount, 150)) == sorted(map(str, expected))
    with pytest.raises(UserError, match=r"prune\.amount is 0\.9; allowed: at most 0\.[0-9]+, "):
        cheapest(blocks, 0.9, 200)


def test_a_loss_that_is_not_finite_keeps_its_block():
    blocks = [Block("a", {"a": None}, 10, float("inf")), Block("b", {"b": None}, 10, 5.0)]
    assert cheapest(blocks, 0.1, 100) == ["b"]


@pytest.mark.parametrize(("family", "model"), [each for each in ALL if each[0] != "ncsn"])
def test_a_pruned_network_survives_its_file_and_counts_what_is_left(family, model, tmp_path):
    network = network_of(model)
    names = [name for name in network.block_plan() if name != "bottom2"][::2]
    structure = apply_steps(network, [{"prune": {"method": "blocks", "names": names}}], 0)
    header = model_header(model, TRAININGS[family](), structure=structure)
    write_model(tmp_path / "model.safetensors", network, header)
    loaded = load(tmp_path / "model.safetensors")
    x, t = inputs_of(network)
    with torch.inference_mode():
        assert torch.equal(network(x, t), loaded.network(x, t))
    assert count_macs(loaded) == macs(network)
    assert count_parameters(loaded.network)[0] == sum(p.numel() for p in network.parameters())
    assert loaded.sample(3, seed=1, batch_size=2).images.shape == (3, 1, 20, 20)


@pytest.mark.parametrize("model", [small_unet_model(), small_unet2d_model()], ids=["ddpm", "unet2d"])
def test_onnx_computes_what_is_left(model, tmp_path):
    pytest.importorskip("onnxruntime")
    network = network_of(model)
    names = [name for name in network.block_plan() if name != "bottom2"]
    structure = apply_steps(network, [{"prune": {"method": "blocks", "names": names}}], 0)
    options = unet_training() if model["family"] == "ddpm" else unet2d_training()
    write_model(tmp_path / "model.safetensors", network, model_header(model, options, structure=structure))
    description = export.write_onnx(tmp_path / "model.onnx", load(tmp_path / "model.safetensors"))
    assert description["max_difference"] < export.TOLERANCE


@pytest.mark.parametrize("family", ["ddpm", "unet2d"])
def test_a_network_without_blocks_trains_on_and_resumes(tmp_path, family, monkeypatch):
    """With distillation of outputs and features; what is measured decides, so both runs leave out the same blocks."""
    monkeypatch.setattr("slimdiff.training.finetune.LEVELS", 10)
    start = start_of(tmp_path, family)
    prune = {"prune": {"method": "blocks", "amount": 0.2}}
    settings = settings_of(start, steps=(prune,), epochs=2)
    settings["hook"] = {"distill": {"method": "knowledge", "weight": 0.5, "features": 0.1}}
    undisturbed = run(start, tmp_path / "a", settings=settings)
    ((change,),) = (undisturbed.header["structure"],)
    assert set(change) == {"blocks"}
    whole = weights.read_training(start[0], "raw")[0]
    rebuilt = weights.rebuild(undisturbed.header, undisturbed.weights["raw"])
    assert macs(rebuilt) <= 0.8 * macs(whole)
    with terminated_at_save(3):
        run(start, tmp_path / "b", 0.0, settings=settings)
    resumed = run(start, tmp_path / "b", settings=settings)
    assert resumed.record["interruptions"] == 1
    assert resumed.header["structure"] == undisturbed.header["structure"]
    assert equal(undisturbed, resumed)


def test_blocks_go_after_channels_and_not_before_them_where_a_skip_went(tmp_path):
    network = network_of(small_unet2d_model())
    channels = ChannelSettings("channels", "l1", 0.5)
    structure = [prune_channels(network, channels, 0)]
    structure.append(prune_blocks(network, BlockSettings("blocks", names=["up_blocks.0.resnets.0"])))
    write_model(
        tmp_path / "model.safetensors",
        network,
        model_header(small_unet2d_model(), unet2d_training(), structure=structure),
    )
    x, t = inputs_of(network)
    with torch.inference_mode():
        assert torch.equal(network(x, t), load(tmp_path / "model.safetensors").network(x, t))
    with pytest.raises(UserError, match=r"up_blocks\.0\.resnets\.0 was left out together with a skip"):
        prune_channels(network, channels, 0)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (MODELS["ncsn"](), {"names": ["conv3"]}, "ScoreNetwork has no block_plan()"),
        (small_unet_model(), {}, "needs one of amount and names"),
        (small_unet_model(), {"amount": 0.1, "names": ["bottom"]}, "needs one of amount and names"),
        (small_unet_model(), {"amount": 1.0}, "prune.amount is 1.0; allowed: 0 to below 1"),
        (small_unet_model(), {"amount": 0.1}, "prune.amount of method blocks needs images; allowed without: names"),
        (small_unet_model(), {"names": ["down1"]}, "prune.names has 'down1'; allowed for this network: down1.conv1, "),
        (small_unet_model(), {"names": ["bottom", "bottom2"]}, "prune.names has 'bottom2', which another one holds"),
    ],
)
def test_impossible_settings_are_refused(model, settings, message):
    with pytest.raises(UserError) as error:
        prune_blocks(build_network(model), BlockSettings("blocks", **settings))
    assert message in str(error.value)


def test_quantized_blocks_are_refused():
    network = build_network(small_unet_model())
    quantize_linears(network, "8bit")
    with pytest.raises(UserError, match="attend1 is quantized; prune blocks before quantizing"):
        prune_blocks(network, BlockSettings("blocks", names=["attend1"]))


def test_a_recipe_reads_images_only_to_choose_blocks():
    recipes = {"amount": {"prune": {"method": "blocks", "amount": 0.3}}}
    recipes["names"] = {"prune": {"method": "blocks", "names": ["bottom"]}}
    read = {name: lookup.needs_images({"optimizations": recipes}, name) for name in recipes}
    assert read == {"amount": True, "names": False}


def test_a_header_that_names_a_missing_block_is_refused():
    network = build_network(small_unet_model())
    for blocks, message in (
        ({"bottom9": None}, "'bottom9', which the network lacks"),
        ({"bottom": "8"}, "'8' channels"),
    ):
        header = model_header(small_unet_model(), unet_training(), structure=[{"blocks": blocks}])
        with pytest.raises(UserError, match=message):
            weights.rebuild(header, network.state_dict())


def test_the_loss_in_a_recipe_is_of_the_network_without_the_block():
    """In a recipe the loss is given as a function of the network, which is pruned in place."""
    network = network_of(small_unet_model())
    seen = []

    def loss(given):
        assert given is network
        seen.append(sum(isinstance(module, Bypass) for module in given.modules()))
        return float(len(seen))

    (change,) = apply_steps(network, [{"prune": {"method": "blocks", "amount": 0.05}}], 0, loss)
    assert seen[0] == 0
    assert seen[1:] == [len(modules) for modules in network_of(small_unet_model()).block_plan().values()]
    assert change["blocks"]
