"""Linear layers with float weights and int8 products: bitsandbytes' arithmetic, training, stale averages."""

import pytest
import torch
from builders import MODELS, TRAININGS, model_header, striped_images
from torch import nn

from slimdiff.checkpoints import model
from slimdiff.checkpoints.weights import read_training, write_training
from slimdiff.compression.channels import ChannelSettings, prune_channels
from slimdiff.compression.linear_quant import dense_weight, import_bitsandbytes, quantize_linears
from slimdiff.compression.mixed_linear import make_mixed, mixed_weights
from slimdiff.diffusion.noise import derive_seed
from slimdiff.engines.network import count_parameters
from slimdiff.engines.split import split_network
from slimdiff.errors import UserError
from slimdiff.inference.export import in_float
from slimdiff.inference.model import load
from slimdiff.models.registry import build_network
from slimdiff.training.loop import train

CPU = torch.device("cpu")
FAMILIES = sorted(MODELS)


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def mixed_layer(weight, bias, device=CPU):
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=device)
    layer.load_state_dict({"weight": weight, "bias": bias})
    network = nn.Sequential(layer)
    make_mixed(network, ["0"])
    return network[0]


def drawn(device, *shape, tokens=24):
    """Inputs, weight, bias and the output's gradient, whose rows and columns have many magnitudes."""
    generator = torch.Generator().manual_seed(3)
    x, w, b, g = (
        torch.randn(s, generator=generator) for s in ((*shape, tokens, 64), (48, 64), (48,), (*shape, tokens, 48))
    )
    x *= torch.logspace(-2, 1, tokens)[:, None]
    w *= torch.logspace(-1, 1, 48)[:, None]
    g *= torch.logspace(-1, 0, tokens)[:, None] * torch.logspace(0, -1, 48)
    return [tensor.to(device) for tensor in (x, w, b, g)]


@pytest.mark.parametrize("shape", [(), (4,)], ids=["rows", "tokens"])
def test_products_are_those_of_bitsandbytes(device, shape):
    """Its own layer in evaluation; its constant for 1 / 127² is 2e-5 off on a CPU, its result float16 on a GPU."""
    x, weight, bias, _ = drawn(device, *shape)
    theirs = import_bitsandbytes().nn.Linear8bitLt(64, 48)  # has_fp16_weights=True, its default
    theirs.load_state_dict({"weight": weight, "bias": bias})
    theirs = theirs.to(device).eval().requires_grad_(False)
    ours = mixed_layer(weight, bias, device)(x)
    assert relative(ours, theirs(x.clone())) < (1e-3 if device.type == "cuda" else 3e-5)
    assert 1e-3 < relative(ours, nn.functional.linear(x, weight, bias)) < 2e-2
    assert set(theirs.state_dict()) == {"weight", "bias"}, "its file holds float weights, as ours does"


def double_quant(values, threshold=0.0):
    """Quantize by rows and by columns with bitsandbytes' kernel for rows; its own function lacks one for CPUs."""
    by_row = import_bitsandbytes().functional.int8_vectorwise_quant
    (rows, row_scales, _), (columns, column_scales, _) = by_row(values), by_row(values.t().contiguous())
    return rows, columns.t().contiguous(), row_scales, column_scales, None


@pytest.mark.parametrize("matched", [True, False], ids=["matched", "as in 0.50"])
def test_gradients_are_those_of_bitsandbytes(device, monkeypatch, matched):
    """The autograd function of its GPU training, with the gradient's columns in units of their own scales.

    Its backward pass of 0.50 pairs the gradient quantized by rows with the scales of columns, which gives each image a
    weight of its own; `matched` hands it the values that the scales belong to, as versions of the paper's time did.
    """
    functions = import_bitsandbytes().autograd._functions
    x, weight, bias, gradient = drawn(device)
    calls = []

    def quantize(values, **options):
        rows, columns, *scales = double_quant(values)
        calls.append(values)
        return (columns if matched and len(calls) == 2 else rows), columns, *scales

    monkeypatch.setattr(functions.F, "int8_double_quant", quantize)
    theirs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    out = functions.MatMul8bitLt.apply(theirs[0], theirs[1], None, theirs[2], functions.MatmulLtState())
    out.backward(gradient)
    layer = mixed_layer(weight, bias, device)
    own = x.clone().requires_grad_()
    layer(own).backward(gradient)
    assert len(calls) == 2
    assert relative(own.grad, theirs[0].grad) < 1e-3
    assert relative(layer.bias.grad, theirs[2].grad) < 1e-3
    if matched:
        assert relative(layer.weight.grad, theirs[1].grad) < 2e-3  # theirs is float16
    else:
        assert relative(theirs[1].grad, gradient.T @ x) > 0.2
    assert relative(layer.weight.grad, gradient.T @ x) < 2e-2


def test_rows_of_zeros_stay_zeros_and_autocast_changes_nothing():
    x, weight, bias, gradient = drawn(CPU)
    x[3], weight[5], gradient[:, 7] = 0.0, 0.0, 0.0
    layer = mixed_layer(weight, bias)
    own = x.clone().requires_grad_()
    out = layer(own)
    out.backward(gradient)
    assert torch.equal(out[3], bias)
    assert torch.equal(layer.weight.grad[7], torch.zeros(64))
    assert all(tensor.isfinite().all() for tensor in (out, own.grad, layer.weight.grad))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), out)
        assert layer(x.bfloat16()).dtype == torch.bfloat16


def run(folder, family="ncsn", images=None, seconds_between_saves=30.0, **changes):
    changes = {"linear": "8bit-mixed", **changes}
    settings = {"dataset": "stripes", "model": MODELS[family](), "training": TRAININGS[family](**changes), "seed": 0}
    return train(images or striped_images(), settings, folder, CPU, "code", seconds_between_saves)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_train_and_the_files_are_those_of_floats(tmp_path, family):
    mixed, plain = run(tmp_path / "a", family), run(tmp_path / "b", family, linear="float")
    fresh = build_network(MODELS[family](), 1, derive_seed(0, "network"))
    layers = [name for name, module in fresh.named_modules() if isinstance(module, nn.Linear)]
    assert mixed.header["structure"] == [{"linear": "8bit-mixed", "layers": layers}]
    for name in layers:
        trained = mixed.weights["raw"][f"{name}.weight"]
        assert trained.dtype == torch.float32
        assert not torch.equal(trained, fresh.get_submodule(name).weight)
    losses = [trained.record["epochs"][-1]["loss"] for trained in (mixed, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.15)

    sizes = {}
    for kind, trained in (("mixed", mixed), ("plain", plain)):
        write_training(tmp_path / f"{kind}.train", trained.weights, trained.header)
        network, header = read_training(tmp_path / f"{kind}.train", "ema")
        header = model_header(header["model"], header["training"], structure=header["structure"])
        model.write_model(tmp_path / f"{kind}.safetensors", network, header)
        sizes[kind] = sum(tensor.nbytes for tensor in network.state_dict().values())
        loaded = load(tmp_path / f"{kind}.safetensors")
        assert len(mixed_weights(loaded.network)) == len(layers) * (kind == "mixed")
        assert count_parameters(loaded.network)[0] == count_parameters(fresh)[0]
        x, t = torch.randn(3, 1, *[MODELS[family]()["image_size"]] * 2), torch.rand(3)
        assert torch.equal(loaded.network(x, t), network.eval()(x, t))
    assert sizes["mixed"] == sizes["plain"]


def test_an_average_that_was_sampled_keeps_its_linear_weights(tmp_path):
    """And nothing else: raw weights, biases and convolutions are those of the training that sampled nothing."""
    options = {"lr_schedule": "constant", "epochs": 3}
    plain, sampled = run(tmp_path / "a", **options), run(tmp_path / "b", ema_sampled_after=1, **options)
    then = run(tmp_path / "c", **{**options, "epochs": 1}).weights["ema"]
    stale = mixed_weights(read_network(tmp_path, sampled))
    assert len(stale) == 8
    for name, value in sampled.weights["ema"].items():
        expected = then if name in stale else plain.weights["ema"]
        assert torch.equal(value, expected[name]), name
        assert torch.equal(sampled.weights["raw"][name], plain.weights["raw"][name])
    assert not torch.equal(plain.weights["ema"]["embed.weight"], then["embed.weight"])


def read_network(folder, trained):
    write_training(folder / "w.safetensors", trained.weights, trained.header)
    return read_training(folder / "w.safetensors", "ema")[0]


def test_stale_weights_give_what_the_copy_in_bitsandbytes_memory_gives():
    """A copy is evaluated early; later its weights follow the average, and it multiplies by those of that moment."""
    x, early, bias, _ = drawn(CPU)
    late, late_bias = torch.randn_like(early), torch.randn_like(bias)
    copy = import_bitsandbytes().nn.Linear8bitLt(64, 48).eval().requires_grad_(False)
    copy.load_state_dict({"weight": early, "bias": bias})
    copy(x.clone())
    copy.weight.data, copy.bias.data = late.clone(), late_bias.clone()
    assert relative(mixed_layer(early, late_bias)(x), copy(x.clone())) < 3e-5
    assert relative(mixed_layer(late, late_bias)(x), copy(x.clone())) > 0.5


def test_what_needs_float_products_refuses_or_takes_the_rounded_weights():
    network = build_network(MODELS["ncsn"](), seed=1)
    names = quantize_linears(network, "8bit-mixed")
    with pytest.raises(UserError, match=r"layer embed .* only engine torch in fp32"):
        split_network(network)
    with pytest.raises(UserError, match="'channels', but embed is quantized"):
        prune_channels(network, ChannelSettings("channels", "l1", 0.5), 0)
    with pytest.raises(UserError, match="'8bit-mixed', but the network has no float linear layer"):
        quantize_linears(network, "8bit-mixed")
    floats, dequantized = in_float(network)
    assert dequantized == names
    assert all(type(floats.get_submodule(name)) is nn.Linear for name in names)
    weight = network.embed.weight
    assert 0 < relative(floats.embed.weight, weight) < 0.01
    assert torch.equal(floats.embed.weight, dense_weight(network.embed))
    with pytest.raises(UserError, match=r"layer 'conv1' is a Conv2d; allowed for 8bit-mixed: Linear"):
        make_mixed(network, ["conv1"])
