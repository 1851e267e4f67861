"""Training hooks that compress: zeros that stay zero, in the requested number, and quantized losses."""

import pytest
import torch
from builders import MODELS, striped_images
from finetunings import equal, run, settings_of, start_of
from killing import terminated_at_save

from slimdiff.compression.unstructured import prunable
from slimdiff.compression.weight_only import quantize_weights
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network
from slimdiff.training.compression_aware import Quantized, Sparsify, SparsifySettings, build_hooks, zero_smallest
from slimdiff.training.losses import mean_loss

CUBIC = {"sparsify": {"amount": 0.7, "schedule": "cubic", "until": 0.5}}
ONE_SHOT = {"sparsify": {"amount": 0.7, "schedule": "one-shot"}}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return weights, record and settings of a short training."""
    return start_of(tmp_path_factory.mktemp("ncsn"), "ncsn")


def requested(start, hook, **changes):
    return {**settings_of(start, steps=(), **changes), "hook": hook}


def zeros_of(state):
    network = build_network(MODELS["ncsn"](), seed=0)
    pool = {id(getattr(module, name)) for module, name in prunable(network, "global")}
    names = [name for name, parameter in network.named_parameters() if id(parameter) in pool]
    return {name: state[name] == 0 for name in names}


def share_of(zeros):
    return sum(int(mask.sum()) for mask in zeros.values()), sum(mask.numel() for mask in zeros.values())


@pytest.mark.parametrize("hook", [CUBIC, ONE_SHOT], ids=["cubic", "one-shot"])
@pytest.mark.parametrize("kind", ["raw", "ema"])
def test_the_requested_number_of_weights_is_zero(tmp_path, start, hook, kind):
    trained = run(start, tmp_path, settings=requested(start, hook, epochs=2))
    zeros, elements = share_of(zeros_of(trained.weights[kind]))
    assert zeros == round(0.7 * elements)
    assert equal(trained, run(start, tmp_path / "again", settings=requested(start, hook, epochs=2)))


def test_a_pruned_weight_never_comes_back(tmp_path, start, monkeypatch):
    """Checked after every step, for an optimizer with momentum."""
    seen = []

    class Watched(Sparsify):
        def around_step(self, network, average, step, steps):
            if seen and step:
                now = zeros_of(network.state_dict())
                assert all((seen[-1][name] & ~now[name]).sum() == 0 for name in now)
            seen.append(zeros_of(network.state_dict()))
            return super().around_step(network, average, step, steps)

    monkeypatch.setattr(
        "slimdiff.training.finetune.build_hooks", lambda *_: Watched(SparsifySettings(0.7, "cubic", 0.5))
    )
    run(start, tmp_path, settings=requested(start, CUBIC, epochs=2))
    counts = [share_of(zeros)[0] for zeros in seen]
    assert counts == sorted(counts)
    assert len(set(counts)) > 3


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, start):
    settings = requested(start, CUBIC, epochs=2)
    whole = run(start, tmp_path / "whole", settings=settings)
    with terminated_at_save(whole.record["steps"] // 2):
        run(start, tmp_path / "broken", 0.0, settings=settings)
    resumed = run(start, tmp_path / "broken", 0.0, settings=settings)
    assert resumed.record["interruptions"] == 1
    assert equal(whole, resumed)


def test_the_schedule_is_zhu_and_guptas():
    hooks = Sparsify(SparsifySettings(0.8, "cubic", 0.5))
    shares = [hooks.share(step, 1000) for step in range(1001)]
    assert shares[0] == 0.0
    assert shares[500] == shares[1000] == 0.8
    for step in range(0, 500, 10):  # start of a stair
        assert shares[step] == pytest.approx(0.8 * (1 - (1 - step / 500) ** 3))
    assert len(set(shares)) == Sparsify.EVENTS + 1


def test_zero_smallest_counts_existing_zeros():
    weights = {"a": torch.tensor([0.0, 3.0, -1.0, 0.0]), "b": torch.tensor([[0.5, -4.0]])}
    zero_smallest(weights, 0.5)
    assert weights["a"].tolist() == [0.0, 3.0, -1.0, 0.0]
    assert weights["b"].tolist() == [[0.0, -4.0]]


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_the_loss_uses_quantized_weights_and_the_floats_are_restored(kind):
    network = build_network(MODELS["ncsn"](), seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stored = build_network(MODELS["ncsn"](), seed=1)
    quantize_weights(stored, kind)
    with Quantized(kind).around_backward(network):
        inside = {name: value.clone() for name, value in network.state_dict().items()}
    assert all(torch.equal(inside[name], value) for name, value in stored.state_dict().items())
    assert not torch.equal(inside["conv3.weight"], before["conv3.weight"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_training_in_four_bits_lowers_the_loss_in_four_bits(tmp_path, start):
    """On equal data and noise, the 4-bit loss is lower after training with 4-bit weights than after plain training."""

    def loss(trained):
        network = build_network(MODELS["ncsn"](), seed=0)
        network.load_state_dict(trained.weights["raw"])
        quantize_weights(network, "4bit")
        images = striped_images()
        return mean_loss(images.train_images, images.train_labels, requested(start, {}), 10, 32)(network)

    plain = run(start, tmp_path / "plain", settings=requested(start, {}, epochs=6))
    aware = run(start, tmp_path / "aware", settings=requested(start, {"quantize": {"weights": "4bit"}}, epochs=6))
    assert loss(aware) < loss(plain)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ({"sparsify": {"amount": 1.0, "schedule": "cubic"}}, "sparsify.amount is 1.0; allowed: above 0 and below 1"),
        ({"sparsify": {"amount": 0.5, "schedule": "linear"}}, "schedule is 'linear'; allowed: one-shot, cubic"),
        ({"sparsify": {"amount": 0.5, "schedule": "cubic", "until": 0.0}}, "until is 0.0; allowed: above 0"),
        ({"quantize": {"weights": "bf16"}}, "weights is 'bf16'; allowed: 8bit, 4bit"),
        ({"dream": {}}, "hooks dream; allowed: one of sparsify, quantize"),
        ({**CUBIC, "quantize": {"weights": "8bit"}}, "allowed: one of sparsify, quantize"),
    ],
)
def test_impossible_hooks_are_refused(hook, message):
    with pytest.raises(UserError, match=message):
        build_hooks(hook)
