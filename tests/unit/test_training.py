"""Training is deterministic, resumes bit for bit, and records failures with a reason."""

import copy
import dataclasses
import itertools
import json
import os
import sys

import pytest
import torch
from builders import (
    MODELS,
    SAMPLERS,
    SMALL_NETWORK,
    TRAININGS,
    small_model,
    small_unet2d_model,
    small_unet_model,
    striped_images,
)
from killing import killed_half_way_and_resumed, terminated_at_save

from slimdiff.catalog.families import FAMILIES
from slimdiff.checkpoints.weights import WEIGHTS, read_training, write_training
from slimdiff.compression.linear_quant import is_frozen_part
from slimdiff.data import image_set
from slimdiff.diffusion.denoiser import Denoiser, build_denoiser
from slimdiff.diffusion.noise import derive_seed
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.errors import UserError
from slimdiff.inference.sampling import sample_images
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network
from slimdiff.runtime.devices import PRECISIONS, resolve_precision
from slimdiff.training import muon
from slimdiff.training.loop import train
from slimdiff.training.muon import orthogonalize
from slimdiff.training.optimizers import LR_SCHEDULES, OPTIMIZERS, build_optimizer, learning_rate_factor, pack_state
from slimdiff.training.state import locked

# with tensors of more than 4,096 elements, so that 8-bit optimizers hold 8-bit states
WIDE = {
    "ncsn": small_model(network={**SMALL_NETWORK, "channels": [16, 32, 32, 32]}),
    "ddpm": small_unet_model({"attention_levels": [1, 3]}),
    "unet2d": small_unet2d_model({"block_out_channels": [16, 32]}),
}
CPU = torch.device("cpu")
PRECONDITIONINGS = [(name, known) for name, family in FAMILIES.items() for known in family.preconditionings]


# Every optimizer with every family, and both with float and with quantized linears: all pairs, not all triples.
LINEARS = ("float", "4bit")
RESUMED = [
    (family, optimizer, LINEARS[(place + row) % 2], "float32")
    for row, family in enumerate(FAMILIES)
    for place, optimizer in enumerate(OPTIMIZERS)
]


def test_resumed_trainings_cover_all_pairs():
    chosen = [(family, optimizer, linear) for family, optimizer, linear, _ in RESUMED]
    levels = (FAMILIES, OPTIMIZERS, LINEARS)
    for one, other in itertools.combinations(range(3), 2):
        assert {(row[one], row[other]) for row in chosen} == set(itertools.product(levels[one], levels[other]))


def settings(seed=0, model=None, **changes):
    model = model or small_model()
    return {"dataset": "stripes", "model": model, "training": TRAININGS[model["family"]](**changes), "seed": seed}


def run(tmp_path, name, seed=0, model=None, **changes):
    return train(striped_images(), settings(seed, model, **changes), tmp_path / name, CPU, "code")


def run_unet(tmp_path, name, seed=0, network=None, **changes):
    return run(tmp_path, name, seed, small_unet_model(network), **changes)


def equal(one, other):
    return all(
        torch.equal(one.weights[kind][key], other.weights[kind][key])
        for kind in one.weights
        for key in one.weights[kind]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls_and_the_record_says_how(tmp_path, family):
    record = run(tmp_path, "a", model=MODELS[family](), epochs=12).record
    losses = [epoch["loss"] for epoch in record["epochs"]]
    assert len(losses) == 12
    assert losses[-1] < 0.7 * losses[0]
    assert record["steps"] == 12 * (72 // 16)
    assert record["train_ms_per_epoch"] * 12 / 1000 == pytest.approx(record["train_s"])
    assert record["loss_curve"][-1]["step"] == record["steps"]
    assert record["precision"] == "float32"


def test_the_last_epoch_may_be_shorter(tmp_path):
    record = run(tmp_path, "a", epochs=1.5).record
    assert record["steps"] == 6
    assert [epoch["share"] for epoch in record["epochs"]] == [1.0, 0.5]
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    assert record["train_ms_per_epoch"] * 1.5 / 1000 == pytest.approx(record["train_s"])
    (short,) = run(tmp_path, "b", epochs=0.25).record["epochs"]
    whole = run(tmp_path, "c", epochs=1).record
    assert short["share"] == 0.25
    assert short["loss"] > 0
    assert whole["steps"] == 4


@pytest.mark.parametrize(("batch_size", "trained_on"), [(16, 64), (72, 72), (500, 72)])
def test_images_per_second_count_what_an_epoch_trains_on(tmp_path, batch_size, trained_on):
    """A batch that divides the 72 images badly, one of all, and one larger than the data set."""
    record = run(tmp_path, "a", batch_size=batch_size).record
    for epoch in record["epochs"]:
        assert epoch["images_per_s"] * epoch["ms"] / 1000 == pytest.approx(trained_on)


@pytest.mark.parametrize(("family", "preconditioning"), PRECONDITIONINGS)
def test_equal_seeds_give_equal_results(tmp_path, family, preconditioning):
    changes = {"model": MODELS[family](), "preconditioning": preconditioning, "epochs": 1}
    first = run(tmp_path, "a", **changes)
    assert equal(first, run(tmp_path, "b", **changes))
    assert not equal(first, run(tmp_path, "c", seed=1, **changes))


@pytest.mark.parametrize("change", [{"noise_schedule": "cosine"}, {"min_snr_gamma": 5.0}])
@pytest.mark.parametrize("preconditioning", ["epsilon", "v"])
def test_options_of_the_ddpm_reach_its_loss(tmp_path, preconditioning, change):
    plain, changed = (
        run_unet(tmp_path, name, preconditioning=preconditioning, epochs=1, **options)
        for name, options in (("a", {}), ("b", change))
    )
    assert not equal(plain, changed)
    assert plain.record["epochs"][0]["loss"] != changed.record["epochs"][0]["loss"]


def test_ema_lags_behind_the_raw_weights(tmp_path):
    weights = run(tmp_path, "a", lr_schedule="constant").weights
    start = build_network(small_model(), 1, 0).state_dict()
    assert weights["raw"].keys() == weights["ema"].keys() == start.keys()
    assert not torch.equal(weights["raw"]["conv3.weight"], weights["ema"]["conv3.weight"])
    assert torch.equal(weights["raw"]["fourier.frequencies"], weights["ema"]["fourier.frequencies"])


def test_without_averaging_ema_equals_raw_weights(tmp_path):
    weights = run(tmp_path, "a", ema_decay=0.0).weights
    assert all(torch.equal(weights["raw"][key], weights["ema"][key]) for key in weights["raw"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_warm_up_copies_the_weights_for_that_many_steps(tmp_path, family):
    """Two epochs of four steps: one step after the warm-up, the average is no longer a copy."""
    changes = {"model": MODELS[family](), "lr_schedule": "constant"}
    copied, averaged = (run(tmp_path, str(steps), ema_warmup=steps, **changes).weights for steps in (8, 7))
    assert all(torch.equal(copied["raw"][key], copied["ema"][key]) for key in copied["raw"])
    assert all(torch.equal(copied["raw"][key], averaged["raw"][key]) for key in copied["raw"])
    before = run(tmp_path, "seven", ema_warmup="ramp", **changes).weights
    moved = [key for key in averaged["raw"] if not torch.equal(averaged["raw"][key], averaged["ema"][key])]
    assert moved
    assert any(not torch.equal(before["ema"][key], averaged["ema"][key]) for key in moved)


def test_after_the_warm_up_the_average_follows_its_decay(tmp_path):
    """Epochs of one step; the learning rate is constant, so that shorter runs are prefixes of longer ones."""
    changes = {"lr_schedule": "constant", "batch_size": 72}
    one, two, three = (
        run(tmp_path, str(n), epochs=n, ema_warmup=1, ema_decay=0.75, **changes).weights for n in (1, 2, 3)
    )
    for key in one["raw"]:
        expected = one["raw"][key]
        for later in (two, three):
            expected = 0.75 * expected + 0.25 * later["raw"][key]
            assert torch.allclose(later["ema"][key], expected, atol=1e-6), key


@pytest.mark.parametrize(
    ("family", "layers", "trained_bias"), [("ncsn", 8, "embed.bias"), ("ddpm", 26, "down1.embed.bias")]
)
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_layers_quantized_from_the_start_are_frozen(tmp_path, bits, family, layers, trained_bias):
    model = MODELS[family]()
    trained = run(tmp_path, "a", model=model, linear=bits)
    write_training(tmp_path / "w.safetensors", trained.weights, trained.header)
    for kind in WEIGHTS:
        network, header = read_training(tmp_path / "w.safetensors", kind)
        state = network.state_dict()
        fresh = run(tmp_path, "b", model=model, epochs=1, seed=0, linear=bits).weights["raw"]
        frozen = [key for key in state if is_frozen_part(network, key)]
        assert len(frozen) >= layers
        assert all(torch.equal(state[key], fresh[key]) for key in frozen)
        assert not torch.equal(state[trained_bias], fresh[trained_bias])
    (record,) = header["structure"]
    assert record["linear"] == bits
    linears = [name for name, m in build_network(model).named_modules() if isinstance(m, torch.nn.Linear)]
    assert record["layers"] == linears
    assert len(linears) == layers


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_a_compiled_training_computes_the_same(tmp_path, monkeypatch, family):
    """With torch's tracer and its eager kernels: it compiles the network, whose parameters keep their names."""
    compile_module, compiled = torch.nn.Module.compile, []

    def trace(network, **options):
        compiled.append((type(network), options))
        compile_module(network, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    plain, traced = (run(tmp_path, str(on), model=MODELS[family](), epochs=1, compile=on) for on in (False, True))
    assert equal(plain, traced)
    assert compiled == [(type(build_network(MODELS[family]())), {"dynamic": False, "mode": None})]
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"training\.compile needs a C\+\+ compiler on the CPU"):
        run(tmp_path, "none", model=MODELS[family](), compile=True)


@pytest.mark.parametrize(
    ("family", "optimizer", "linear", "precision"),
    [
        *RESUMED,
        *((family, ("adamw", "float"), "float", "bfloat16") for family in FAMILIES),
        *((family, ("adamw", "8bit"), "8bit", "bfloat16") for family in FAMILIES),
        *((family, ("adamw", "8bit"), "8bit-mixed", "bfloat16") for family in FAMILIES),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, family, optimizer, linear, precision):
    """Stopped by SIGTERM inside the process after some steps, resumed by a new call."""
    model = WIDE[family]
    changes = {"optimizer": optimizer[0], "optimizer_state": optimizer[1], "linear": linear, "precision": precision}
    changes |= {"epochs": 2, "weight_decay": 0.01}
    changes |= {"ema_sampled_after": 1} if linear == "8bit-mixed" else {}
    undisturbed = run(tmp_path, "a", model=model, **changes)

    arguments = (striped_images(), settings(0, model, **changes), tmp_path / "b", CPU, "code", 0.0)
    with terminated_at_save(5):
        train(*arguments)
    resumed = train(*arguments)
    assert resumed.record["interruptions"] == 1
    assert undisturbed.record["started_at"] <= resumed.record["started_at"]
    assert resumed.record["steps"] == undisturbed.record["steps"]
    assert equal(undisturbed, resumed)


def test_resuming_after_kill_9_gives_the_same_files(tmp_path):
    """Runs the stage as a process; the files equal those of an undisturbed run."""
    image_set.write(tmp_path / "images.safetensors", striped_images(400))
    text = json.dumps(settings(epochs=5, batch_size=8))

    def command(folder):
        return [
            *(sys.executable, "-u", "-m", "slimdiff.stages.train", "--settings", text, "--gpu", "0"),
            *("--images", str(tmp_path / "images.safetensors"), "--state", str(folder / "state")),
            *("--out-weights", str(folder / "w.safetensors"), "--out-record", str(folder / "train.json")),
            *("--seconds-between-saves", "0.05"),
        ]

    killed_half_way_and_resumed(tmp_path, command, 5 * (300 // 8))


def test_withheld_labels_do_not_train_the_class_vectors(tmp_path):
    """With dropout 1 the class vectors get no gradient; without it they change."""
    start = build_network(small_unet_model(), 1, derive_seed(0, "network")).state_dict()["label.weight"]
    for dropout, moves in ((1.0, False), (0.0, True)):
        weights = run_unet(tmp_path, str(dropout), label_dropout=dropout, epochs=1).weights
        for kind in weights:
            assert torch.equal(weights[kind]["label.weight"], start) != moves
        assert float((weights["raw"]["inc.conv1.weight"]).abs().sum()) > 0


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_each_image_is_trained_with_its_own_label_or_without(tmp_path, monkeypatch, dropout):
    """Rows of stripes vary from top to bottom, columns from left to right."""
    seen, loss = [], Denoiser.loss

    def spy(self, x_0, sigma, noise, labels=None):
        seen.extend(zip(x_0, labels.tolist(), strict=True))
        return loss(self, x_0, sigma, noise, labels)

    monkeypatch.setattr(Denoiser, "loss", spy)
    run_unet(tmp_path, "a", label_dropout=dropout, epochs=2)
    for image, label in seen:
        across, along = image.mean(-1).std(), image.mean(-2).std()
        assert label in (-1, int(across < along))
    withheld = sum(label == -1 for _, label in seen) / len(seen)
    assert withheld == pytest.approx(dropout, abs=0.15 if dropout == 0.5 else 0)


def test_a_network_without_classes_trains_on_the_same_images(tmp_path):
    weights = run_unet(tmp_path, "a", network={"classes": 0}, epochs=1).weights
    assert "label.weight" not in weights["raw"]


@pytest.mark.parametrize("family", FAMILIES)
def test_classes_learn_their_colours(tmp_path, family):
    """Rows are red and columns green; every family samples the requested class."""
    gray = striped_images()

    def coloured(images, labels):
        return images * torch.tensor([[1, 0, 0], [0, 1, 0]], dtype=torch.uint8)[labels, :, None, None]

    images = dataclasses.replace(
        gray,
        train_images=coloured(gray.train_images, gray.train_labels),
        test_images=coloured(gray.test_images, gray.test_labels),
    )
    model = MODELS[family](channels=3)
    model["network"] = {**model["network"], "classes": 2}
    requested = settings(0, model, epochs=30)
    trained = train(images, requested, tmp_path, CPU, "code")
    network = build_network(model, seed=0)
    network.load_state_dict(trained.weights["raw"])
    denoiser = build_denoiser(network.eval(), model, requested["training"])
    sampler = build(SamplerSettings, {**SAMPLERS[family], "guidance": 1.0}, "sampler")
    labels = torch.arange(8) % 2
    drawn = sample_images(denoiser, sampler, model, trained.header["dataset"], 8, 8, 0, labels)
    assert drawn.images.shape == (8, *images.image_shape)
    red, green, _ = drawn.images.float().mean(dim=(2, 3)).T
    assert torch.equal(green > red, labels == 1)


@pytest.mark.parametrize("classes", [1, 3, 10])
def test_another_number_of_classes_is_refused(tmp_path, classes):
    with pytest.raises(UserError, match=rf"models\.\*\.network\.classes is {classes}; allowed.* stripes: 2.* or 0"):
        run_unet(tmp_path, "a", network={"classes": classes})


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_trains_float32_weights(tmp_path, family):
    rough, exact = (
        run(tmp_path, precision, model=MODELS[family](), epochs=8, precision=precision)
        for precision in ("bfloat16", "float32")
    )
    losses = [epoch["loss"] for epoch in rough.record["epochs"]]
    assert rough.record["precision"] == "bfloat16"
    assert losses[-1] < 0.8 * losses[0]
    assert losses[-1] == pytest.approx(exact.record["epochs"][-1]["loss"], rel=0.2)
    assert {tensor.dtype for tensor in rough.weights["raw"].values()} == {torch.float32}
    assert not equal(rough, exact)


def test_the_record_holds_the_resolved_precision(tmp_path):
    record = run(tmp_path, "a", precision="auto", epochs=1).record
    assert record["precision"] == resolve_precision(CPU, "auto")
    assert record["precision"] in set(PRECISIONS) - {"auto"}
    assert record["settings"]["training"]["precision"] == "auto"


def test_a_state_of_other_settings_is_not_used(tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimdiff.training.loop.sys.exit", lambda code: None)
        train(striped_images(), settings(), tmp_path / "a", CPU, "code", 0.0)
    other = train(striped_images(), settings(learning_rate=1e-3), tmp_path / "a", CPU, "code")
    assert "other settings, code or data" in capsys.readouterr().out
    assert equal(other, run(tmp_path, "b", learning_rate=1e-3))


def test_a_damaged_state_is_not_used(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "state.safetensors").write_bytes(b"half a fi")
    assert equal(run(tmp_path, "a"), run(tmp_path, "b"))
    assert "starting afresh" in capsys.readouterr().out


def test_a_second_trainer_in_the_same_folder_is_refused(tmp_path):
    with locked(tmp_path / "a"), pytest.raises(UserError, match=rf"in use by process {os.getpid()}"):
        run(tmp_path, "a")


def test_a_loss_of_nan_is_a_result_with_a_reason(tmp_path):
    trained = run(tmp_path, "a", learning_rate=1e12, lr_schedule="constant", preconditioning="score", epochs=3)
    assert trained.header["status"] == trained.record["status"] == "failed"
    assert "loss became" in trained.record["reason"]
    json.dumps(trained.record, allow_nan=False)


def test_out_of_memory_is_a_result_with_a_reason_and_a_fix(tmp_path, monkeypatch):
    loss, calls = Denoiser.loss, []

    def hungry(self, x_0, *others):
        calls.append(len(x_0))
        return loss(self, x_0, *others) if len(calls) < 3 else torch.empty(2**50, dtype=torch.uint8, device=x_0.device)

    monkeypatch.setattr(Denoiser, "loss", hungry)
    trained = run(tmp_path, "a")
    batch_size = calls[0]
    assert trained.header["status"] == trained.record["status"] == "failed"
    assert trained.record["steps"] == 2
    for part in ("out of memory in step 3", f"models.*.training.batch_size is {batch_size}", "lower it"):
        assert part in trained.record["reason"]


def test_other_errors_of_a_step_are_not_mistaken_for_out_of_memory(tmp_path, monkeypatch):
    def wrong(self, *others):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Denoiser, "loss", wrong)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(tmp_path, "a")


@pytest.mark.parametrize(("name", "state"), OPTIMIZERS)
def test_an_optimizer_steps_by_the_learning_rate_and_keeps_its_state_in_its_format(name, state):
    """The first step of Adam is the learning rate, whatever the gradient; AdamW decays the weight before it."""
    decay = 0.5 if name in ("adamw", "muon") else 0.0
    layer = torch.nn.Linear(64, 64, bias=False)  # 4,096 elements, the fewest with an 8-bit state
    parameter = layer.weight
    torch.nn.init.ones_(parameter)
    optimizer = build_optimizer(name, state, layer, 0.1, decay)
    parameter.grad = torch.full_like(parameter, 0.2)
    optimizer.step()
    assert torch.allclose(parameter, torch.tensor(1 - 0.1 * decay - 0.1), atol=1e-5)
    kept = {value.dtype for value in pack_state(optimizer)[0].values() if value.shape == parameter.shape}
    assert kept == {torch.uint8 if state == "8bit" else torch.float32}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 2])
def test_muon_orthogonalizes_the_matrix_of_each_group_of_the_inner_layers(layout, groups):
    """The reference flattens and orthogonalizes by a singular value decomposition, which Newton-Schulz approximates."""
    inner = torch.nn.Conv2d(8, 12, 3, groups=groups)
    transposed = torch.nn.ConvTranspose2d(12, 4, 3, groups=groups)
    ends = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(4, 3, 3)
    network = torch.nn.Sequential(ends[0], inner, torch.nn.Linear(4, 4), transposed, ends[1])
    network.to(memory_format=layout)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter).normal_(generator=generator)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = build_optimizer("muon", "float", network, 0.1, 0.5)
    optimizer.step()
    moves = {name: before[name] * (1 - 0.1 * 0.5) - parameter for name, parameter in network.named_parameters()}
    for name in ("0.weight", "0.bias", "1.bias", "2.weight", "2.bias", "3.bias", "4.weight", "4.bias"):  # AdamW's
        gradient = network.get_parameter(name).grad
        assert torch.allclose(moves[name], 0.1 * gradient / (gradient.abs() + 1e-8), atol=1e-4), name
    for name in ("1.weight", "3.weight"):
        gradients = network.get_parameter(name).grad.flatten(1).chunk(groups)
        for gradient, move in zip(gradients, moves[name].flatten(1).chunk(groups), strict=True):
            left, _, right = torch.linalg.svd(gradient, full_matrices=False)
            scale = 0.1 * 0.2 * max(gradient.shape) ** 0.5
            cosine = torch.nn.functional.cosine_similarity((left @ right).flatten(), move.flatten(), dim=0)
            assert cosine > 0.95
            assert torch.linalg.svdvals(move / scale).sub(1).abs().max() < 0.271


def test_muon_takes_the_linear_layers_of_a_network_without_inner_convolutions():
    layers = [torch.nn.Conv2d(1, 6, 3), *(torch.nn.Linear(6, 6) for _ in range(4)), torch.nn.ConvTranspose2d(6, 1, 3)]
    optimizer = build_optimizer("muon", "float", torch.nn.Sequential(*layers), 0.1, 0.0)
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == [id(m.weight) for m in layers[2:4]]


def test_muon_brings_singular_values_near_one():
    """From 1 % of the norm on, to 0.73 to 1.27; the polynomials of Amsel et al. reach both bounds."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 40, generator=generator).double()).Q for n in (40, 90))
    values = torch.logspace(-2, 0, 40, dtype=torch.float64)
    matrix = (left * (values / values.norm())) @ right.T
    (found,) = orthogonalize([matrix])
    inside = values / values.norm() >= 0.01
    images = torch.diagonal(left.T @ found @ right)
    assert images[inside].min() > 0.729 and images.max() < 1.27
    one = torch.zeros(1, 1, dtype=torch.float64) + 5.0
    assert float(orthogonalize([one])[0]) == pytest.approx(1.27, abs=0.005)


def test_muon_steps_like_that_of_torch(monkeypatch):
    """Which iterates with other coefficients, in bfloat16, and takes matrices alone. The momentum carries the step."""
    monkeypatch.setattr(muon, "COEFFICIENTS", [(3.4445, -4.7750, 2.0315)] * 5)
    ours = torch.nn.Sequential(*(torch.nn.Linear(*sizes, bias=False) for sizes in ((9, 8), (8, 24), (24, 6), (6, 3))))
    theirs = copy.deepcopy(ours)
    optimizer = build_optimizer("muon", "float", ours, 0.01, 0.1)
    matrices = [layer.weight for layer in theirs][1:-1]
    reference = torch.optim.Muon(matrices, 0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        before = [layer.weight.detach().clone() for layer in ours]
        for one, other in zip(ours, theirs, strict=True):
            one.weight.grad = torch.randn(one.weight.shape, generator=generator)
            other.weight.grad = one.weight.grad.clone()
        optimizer.step()
        reference.step()
        for one, other, start in list(zip(ours, theirs, before, strict=True))[1:-1]:
            assert (one.weight - other.weight).norm() < 0.03 * (one.weight - start).norm()
            other.weight.data.copy_(one.weight)


def test_muon_leaves_parameters_without_gradient_and_computed_weights_alone():
    """As Adam does. A plugin's network may have layers that a step does not use, or torch's parametrizations."""
    linears = [torch.nn.Linear(4, 4) for _ in range(5)]
    network = torch.nn.Sequential(*linears[:2], torch.nn.utils.parametrizations.weight_norm(linears[2]), *linears[3:])
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = build_optimizer("muon", "float", network, 0.1, 0.5)
    network[4](network[2](network[1](network[0](torch.ones(2, 4))))).square().sum().backward()
    optimizer.step()
    unchanged = {name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])}
    assert unchanged == {"3.weight", "3.bias"}


def test_muon_is_adamw_alone_without_inner_layers():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 1, 3))
    assert isinstance(build_optimizer("muon", "float", network, 0.1, 0.0), torch.optim.AdamW)


def test_schedules_stay_between_zero_and_the_learning_rate():
    for schedule in LR_SCHEDULES:
        factors = [learning_rate_factor(schedule, step, 200) for step in range(200)]
        assert all(0 < factor <= 1 for factor in factors)
        assert max(factors) == pytest.approx(1, abs=0.01)
    assert learning_rate_factor("cosine", 199, 200) < 0.001
    assert learning_rate_factor("one-cycle", 0, 200) < 0.05
    with pytest.raises(UserError, match="lr_schedule is 'step'; allowed: constant, cosine, one-cycle"):
        learning_rate_factor("step", 0, 10)


def test_unknown_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match="training: unknown key 'epoch'"):
        run(tmp_path, "a", epoch=3)
    with pytest.raises(UserError, match=r"optimizer is 'sgd' with optimizer_state 'float'; allowed: adam with float"):
        run(tmp_path, "a", optimizer="sgd")
    with pytest.raises(UserError, match=r"optimizer is 'adam' with optimizer_state '4bit'; allowed: .*adamw with 8bit"):
        run(tmp_path, "a", optimizer_state="4bit")
    with pytest.raises(UserError, match=r"precision is 'float16'; allowed: float32, bfloat16, auto"):
        run(tmp_path, "a", precision="float16")
    with pytest.raises(UserError, match=r"noise_schedule is 'sigmoid'; allowed: linear, cosine"):
        run_unet(tmp_path, "a", noise_schedule="sigmoid")
    with pytest.raises(UserError, match=r"preconditioning is 'x0'; allowed: score, edm, epsilon, v, sample"):
        run_unet(tmp_path, "a", preconditioning="x0")
