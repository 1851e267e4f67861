"""One seed, one result; an interrupted training goes on bit for bit; failures are results with a reason."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from builders import SMALL_NETWORK, SOURCE, small_model, striped_images, training

from slimdiff import tensorfile, weightfile
from slimdiff.compression.linears import is_frozen_part
from slimdiff.data import store
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network
from slimdiff.optimizers import OPTIMIZERS, SCHEDULES, learning_rate_factor
from slimdiff.state import StateStore, locked
from slimdiff.training import train

# with tensors of more than 4,096 elements, so that 8-bit optimizers hold 8-bit states
WIDE_NETWORK = {**SMALL_NETWORK, "channels": [16, 32, 32, 32]}


def settings(seed=0, model=None, **changes):
    return {"dataset": "stripes", "model": model or small_model(), "training": training(**changes), "seed": seed}


def run(tmp_path, name, seed=0, model=None, **changes):
    return train(striped_images(), settings(seed, model, **changes), tmp_path / name, torch.device("cpu"), "code")


def equal(one, other):
    return all(
        torch.equal(one.weights[kind][key], other.weights[kind][key])
        for kind in one.weights
        for key in one.weights[kind]
    )


def test_the_loss_falls_and_the_record_says_how(tmp_path):
    record = run(tmp_path, "a", epochs=12).record
    losses = [epoch["loss"] for epoch in record["epochs"]]
    assert len(losses) == 12
    assert losses[-1] < 0.7 * losses[0]
    assert record["steps"] == 12 * (72 // 16)
    assert record["train_ms_per_epoch"] * 12 / 1000 == pytest.approx(record["train_s"])
    assert record["loss_curve"][-1]["step"] == record["steps"]


@pytest.mark.parametrize("preconditioning", ["score", "edm"])
def test_one_seed_one_result(tmp_path, preconditioning):
    first = run(tmp_path, "a", preconditioning=preconditioning)
    assert equal(first, run(tmp_path, "b", preconditioning=preconditioning))
    assert not equal(first, run(tmp_path, "c", seed=1, preconditioning=preconditioning))


def test_ema_lags_behind_the_raw_weights(tmp_path):
    weights = run(tmp_path, "a", lr_schedule="constant").weights
    start = build_network(small_model(), 1, 0).state_dict()
    assert weights["raw"].keys() == weights["ema"].keys() == start.keys()
    assert not torch.equal(weights["raw"]["conv3.weight"], weights["ema"]["conv3.weight"])
    assert torch.equal(weights["raw"]["fourier.frequencies"], weights["ema"]["fourier.frequencies"])


def test_no_average_is_the_raw_weights(tmp_path):
    weights = run(tmp_path, "a", ema_decay=0.0).weights
    assert all(torch.equal(weights["raw"][key], weights["ema"][key]) for key in weights["raw"])


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantized_from_the_start_means_frozen(tmp_path, bits):
    trained = run(tmp_path, "a", linear=bits)
    weightfile.write_training(tmp_path / "w.safetensors", trained.weights, trained.header)
    for kind in weightfile.WEIGHTS:
        network, header = weightfile.read_training(tmp_path / "w.safetensors", kind)
        state = network.state_dict()
        fresh = run(tmp_path, "b", epochs=1, seed=0, linear=bits).weights["raw"]
        frozen = [key for key in state if is_frozen_part(network, key)]
        assert len(frozen) >= 8
        assert all(torch.equal(state[key], fresh[key]) for key in frozen)
        assert not torch.equal(state["embed.bias"], fresh["embed.bias"])
    assert header["structure"] == [{"linear": bits, "layers": ["embed", *(f"dense{i}" for i in range(1, 8))]}]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("linear", ["float", "4bit"])
def test_a_resumed_training_is_the_undisturbed_one(tmp_path, optimizer, linear):
    """Stop by SIGTERM inside the process after some steps, go on in a fresh call."""
    model = small_model(network=WIDE_NETWORK)
    changes = {"optimizer": optimizer, "linear": linear, "epochs": 3}
    undisturbed = run(tmp_path, "a", model=model, **changes)

    saves = 0
    original = StateStore.save

    def save_then_terminate(self, *arguments):
        nonlocal saves
        original(self, *arguments)
        saves += 1
        if saves == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateStore, "save", save_then_terminate)
        arguments = (striped_images(), settings(0, model, **changes), tmp_path / "b", torch.device("cpu"), "code", 0.0)
        with pytest.raises(SystemExit) as stopped:
            train(*arguments)
    assert stopped.value.code == 143
    resumed = train(*arguments)
    assert resumed.record["interruptions"] == 1
    assert undisturbed.record["started_at"] <= resumed.record["started_at"]
    assert resumed.record["steps"] == undisturbed.record["steps"]
    assert equal(undisturbed, resumed)


def test_killed_with_kill_9_half_way_and_resumed(tmp_path):
    """The stage as a process of its own, killed without warning: the files are those of the run that was not killed."""
    store.write(tmp_path / "images.safetensors", striped_images(400))
    text = json.dumps(settings(epochs=12, batch_size=8))

    def command(name):
        return [
            *(sys.executable, "-u", "-m", "slimdiff.stages.train", "--settings", text, "--gpu", "0"),
            *("--images", str(tmp_path / "images.safetensors"), "--state", str(tmp_path / name / "state")),
            *(
                "--out-weights",
                str(tmp_path / name / "w.safetensors"),
                "--out-record",
                str(tmp_path / name / "train.json"),
            ),
            *("--seconds-between-saves", "0.2"),
        ]

    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    subprocess.run(command("calm"), check=True, capture_output=True, env=environment)
    process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    state = tmp_path / "killed" / "state" / "state.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the training ended before it could be killed"
    step = tensorfile.read_header(state, "state")["progress"]["step"]
    assert 0 < step < 12 * (300 // 8)

    resumed = subprocess.run(command("killed"), check=True, capture_output=True, text=True, env=environment)
    assert f"resuming at step {step}/" in resumed.stdout
    record = json.loads((tmp_path / "killed" / "train.json").read_text())
    assert record["interruptions"] == 1
    assert (tmp_path / "calm" / "w.safetensors").read_bytes() == (tmp_path / "killed" / "w.safetensors").read_bytes()
    assert not (tmp_path / "killed" / "state").exists()


def test_a_state_of_other_settings_is_not_used(tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slimdiff.training.sys.exit", lambda code: None)
        train(striped_images(), settings(), tmp_path / "a", torch.device("cpu"), "code", 0.0)
    other = train(striped_images(), settings(learning_rate=1e-3), tmp_path / "a", torch.device("cpu"), "code")
    assert "belongs to other settings, code or data" in capsys.readouterr().out
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


def test_schedules_stay_between_nothing_and_the_learning_rate():
    for schedule in SCHEDULES:
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
    with pytest.raises(UserError, match="optimizer is 'sgd'; allowed: adam"):
        run(tmp_path, "a", optimizer="sgd")
