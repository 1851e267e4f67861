"""Fine-tuning: start, resumption and record."""

import json
import sys

import pytest
import torch
from builders import TRAININGS, small_model, striped_images
from finetunings import CHANNELS, CPU, equal, run, settings_of, start_of
from killing import killed_half_way_and_resumed, terminated_at_save

from slimdiff.catalog.compression import LOSS_IMPORTANCES
from slimdiff.catalog.families import FIXED_BY_START
from slimdiff.checkpoints.weights import read_training, write_training
from slimdiff.compression.restore import sizes
from slimdiff.data import image_set
from slimdiff.diffusion.denoiser import Denoiser
from slimdiff.errors import UserError
from slimdiff.io.files import digest
from slimdiff.models.registry import build_network
from slimdiff.training.finetune import LEVELS, PREPARED
from slimdiff.training.losses import level_losses
from slimdiff.training.state import clear_state

FAMILIES = ("ncsn", "ddpm")


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Weights, record and settings of a short training, by family."""
    return {family: start_of(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_network_is_fine_tuned_and_records_its_origin(tmp_path, starts, family):
    start = starts[family]
    trained = run(start, tmp_path / "a", epochs=8)
    write_training(tmp_path / "w.safetensors", trained.weights, trained.header)
    whole, narrow = (
        read_training(start[0], "raw")[0],
        read_training(tmp_path / "w.safetensors", "ema"),
    )
    name = {"ncsn": "conv3", "ddpm": "down2.conv1.conv1"}[family]
    assert narrow[0].get_submodule(name).out_channels == whole.get_submodule(name).out_channels // 2
    (record,) = narrow[1]["structure"]
    assert {layer: size for layer, size in sizes(narrow[0]).items() if layer in record["channels"]} == record[
        "channels"
    ]
    expected = {"training": "plain", "weights": "raw", "sha256": digest(start[0]), "generation": 1}
    assert narrow[1]["start"] == trained.record["start"] == expected
    losses = [epoch["loss"] for epoch in trained.record["epochs"]]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert trained.record["loss_curve"][-1]["step"] == trained.record["steps"]
    own_s = trained.record["prepare_s"] + sum(epoch["ms"] for epoch in trained.record["epochs"]) / 1000
    assert trained.record["own_s"] == trained.record["finetune_s"] == pytest.approx(own_s)
    assert trained.record["train_s"] == pytest.approx(start[1]["train_s"] + own_s)


def test_a_chain_sums_training_times_and_has_fresh_random_draws(tmp_path, starts):
    """The second fine-tuning draws other noise than the first, so equal starts give different weights."""
    start = starts["ncsn"]
    first = run(start, tmp_path / "a", steps=(), learning_rate=1e-9)
    write_training(tmp_path / "w.safetensors", first.weights, first.header)
    again = (tmp_path / "w.safetensors", first.record, start[2])
    second = run(again, tmp_path / "b", steps=(), learning_rate=1e-9)
    assert second.header["start"]["generation"] == 2
    assert second.record["finetune_s"] == pytest.approx(first.record["own_s"] + second.record["own_s"])
    assert second.record["train_s"] == pytest.approx(start[1]["train_s"] + second.record["finetune_s"])
    losses = [record["epochs"][0]["loss"] for record in (start[1], first.record, second.record)]
    assert len(set(losses)) == 3
    assert losses[1] == pytest.approx(losses[2], rel=0.3)  # the same weights, other noise


def test_raw_and_averaged_weights_are_different_starts(tmp_path, starts):
    raw, ema = (run(starts["ncsn"], tmp_path / kind, weights=kind) for kind in ("raw", "ema"))
    assert not equal(raw, ema)
    unknown = settings_of(starts["ncsn"], weights="mean")
    with pytest.raises(UserError, match="weights is 'mean'; allowed: raw, ema"):
        run(starts["ncsn"], tmp_path / "c", settings=unknown)


@pytest.mark.parametrize("importance", LOSS_IMPORTANCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_based_importances_get_a_loss(tmp_path, starts, monkeypatch, family, importance):
    monkeypatch.setattr("slimdiff.training.finetune.LEVELS", 4)
    threshold = {"threshold": 0.3} if importance == "diff-pruning" else {}
    step = {"prune": {"method": "channels", "importance": importance, "amount": 0.5, **threshold}}
    first, again = (run(starts[family], tmp_path / name, steps=(step,), epochs=1) for name in "ab")
    assert equal(first, again)
    assert not equal(first, run(starts[family], tmp_path / "c", epochs=1))


def test_levels_are_equally_likely_and_their_losses_repeat(starts, monkeypatch):
    """For a discrete schedule: equidistant steps, as the training draws them."""
    settings = {**starts["ddpm"][2], "training": TRAININGS["ddpm"](preconditioning="epsilon", label_dropout=0.5)}
    network = build_network(settings["model"], seed=1)
    seen = []
    original = Denoiser.loss

    def spy(self, x_0, sigma, noise, labels=None):
        seen.append((sigma, labels, self.vp.time(sigma[:1])))
        return original(self, x_0, sigma, noise, labels)

    monkeypatch.setattr(Denoiser, "loss", spy)
    images = striped_images()
    losses = level_losses(network, images.train_images, images.train_labels, settings, CPU)
    with torch.no_grad():
        values = [float(loss()) for loss in losses]
        assert [float(loss()) for loss in losses] == values
    assert len(losses) == LEVELS
    times = torch.tensor([float(time) for _, _, time in seen[:LEVELS]])
    assert times.tolist() == pytest.approx([1000 / LEVELS * (level + 0.5) for level in range(LEVELS)], abs=12)
    seen_labels = torch.cat([labels for _, labels, _ in seen[:LEVELS]])
    assert float((seen_labels == -1).float().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_fine_tuning_equals_an_uninterrupted_one(tmp_path, starts, family, monkeypatch):
    """Stopped by SIGTERM after some steps; the second call reads the pruned network of the first one."""
    undisturbed = run(starts[family], tmp_path / "a", epochs=2, weight_decay=0.01)
    with terminated_at_save(5):
        run(starts[family], tmp_path / "b", 0.0, epochs=2, weight_decay=0.01)
    monkeypatch.setattr("slimdiff.training.finetune.prune_channels", None)
    resumed = run(starts[family], tmp_path / "b", epochs=2, weight_decay=0.01)
    assert resumed.record["interruptions"] == 1
    assert equal(undisturbed, resumed)
    clear_state(tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("damage", [b"half a fi", None])
def test_a_prepared_network_of_other_settings_is_not_used(tmp_path, starts, damage):
    expected = run(starts["ncsn"], tmp_path / "a")
    run(starts["ncsn"], tmp_path / "b", steps=({"prune": {**CHANNELS["prune"], "amount": 0.25}},))
    if damage:
        (tmp_path / "b" / PREPARED).write_bytes(damage)
    assert equal(expected, run(starts["ncsn"], tmp_path / "b"))


def test_resuming_after_kill_9_gives_the_same_files(tmp_path, starts):
    """Runs the stage as a process; the files equal those of an undisturbed run."""
    image_set.write(tmp_path / "images.safetensors", striped_images(400))
    text = json.dumps(settings_of(starts["ncsn"], epochs=5, batch_size=8))
    start = starts["ncsn"][0]

    def command(folder):
        return [
            *(sys.executable, "-u", "-m", "slimdiff.stages.finetune", "--settings", text, "--gpu", "0"),
            *("--images", str(tmp_path / "images.safetensors"), "--state", str(folder / "state")),
            *("--start", str(start), "--start-record", str(start.with_name("train.json"))),
            *("--out-weights", str(folder / "w.safetensors"), "--out-record", str(folder / "train.json")),
            *("--seconds-between-saves", "0.05"),
        ]

    killed_half_way_and_resumed(tmp_path, command, 5 * (300 // 8))


def test_a_failed_start_is_passed_on_with_its_reason(tmp_path, starts):
    network, header = read_training(starts["ncsn"][0], "raw")
    states = {kind: {key: value.clone() for key, value in network.state_dict().items()} for kind in ("raw", "ema")}
    failed = {**header, "status": "failed", "reason": "loss became nan in epoch 1"}
    write_training(tmp_path / "w.safetensors", states, failed)
    record = {**starts["ncsn"][1], "status": "failed", "reason": failed["reason"]}
    trained = run((tmp_path / "w.safetensors", record, starts["ncsn"][2]), tmp_path / "a")
    assert (trained.header["status"], trained.record["reason"]) == ("failed", "loss became nan in epoch 1")
    assert trained.record["train_s"] == record["train_s"]
    assert trained.record["finetune_s"] == 0.0
    assert all(torch.equal(trained.weights["ema"][key], value) for key, value in network.state_dict().items())


def test_settings_that_contradict_the_start_are_refused(tmp_path, starts):
    start = starts["ddpm"]
    others = {
        "preconditioning": "v",
        "sigma_data": 0.1,
        "black": 0.5,
        "noise_schedule": "cosine",
        "groups": 2,
        "linear": "8bit",
    }
    assert set(others) == set(FIXED_BY_START)
    for key, value in others.items():
        with pytest.raises(UserError, match=rf"trainings\.\*\.finetune\.{key} is {value!r}; allowed: "):
            run(start, tmp_path / "a", **{key: value})
    with pytest.raises(UserError, match="the start's weights are of another model"):
        run(start, tmp_path / "a", settings={**settings_of(start), "model": small_model()})
    with pytest.raises(UserError, match=r"trainings\.\* has the step \{'distil': \{\}\}; allowed: .*prune"):
        run(start, tmp_path / "a", steps=({"distil": {}},))
    assert not (tmp_path / "a").exists()
