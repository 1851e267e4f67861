"""Checkpoints describe themselves, survive a round trip bit for bit, and are refused if damaged."""

import pytest
import torch
from builders import model_header, ncsn_model, training, write_small_model

import slimdiff
from slimdiff.checkpoints import model
from slimdiff.checkpoints.weights import read_training, write_training
from slimdiff.errors import UserError
from slimdiff.io.tensors import save_tensors
from slimdiff.models.registry import build_network


@pytest.mark.parametrize(("family", "other", "passes"), [("ncsn", "euler-maruyama", 1), ("ddpm", "ddim", 2)])
def test_a_loaded_model_samples_and_has_its_settings(tmp_path, family, other, passes):
    """Guidance takes two passes."""
    write_small_model(tmp_path / "model.safetensors", family)
    loaded = slimdiff.load(tmp_path / "model.safetensors")
    sampled = loaded.sample(3, seed=1)
    assert sampled.images.shape == (3, 1, 20, 20)
    assert sampled.images.dtype == torch.uint8
    assert sampled.network_evaluations == 7 * passes
    assert loaded.sample(3, seed=1, sampler=other, steps=5).network_evaluations == 5 * passes
    assert loaded.settings["model"]["family"] == family


def test_the_baselines_file_has_the_size_in_the_paper(tmp_path):
    network = build_network(ncsn_model())
    model.write_model(tmp_path / "model.safetensors", network, model_header(ncsn_model(), training()))
    assert (tmp_path / "model.safetensors").stat().st_size == pytest.approx(4_472_986, rel=0.01)


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_equal_models_make_equal_files(tmp_path, family):
    for name in ("one", "two"):
        write_small_model(tmp_path / f"{name}.safetensors", family)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_raw_and_ema_weights_are_kept_apart(tmp_path):
    raw, ema = build_network(ncsn_model(), seed=1), build_network(ncsn_model(), seed=2)
    header = model_header(ncsn_model(), training())
    weights = {"raw": raw.state_dict(), "ema": ema.state_dict()}
    write_training(tmp_path / "weights.safetensors", weights, header)
    for name, network in (("raw", raw), ("ema", ema)):
        found, _ = read_training(tmp_path / "weights.safetensors", name)
        assert torch.equal(found.conv4.weight, network.conv4.weight)
    with pytest.raises(UserError, match="weights is 'best'; allowed: raw, ema"):
        read_training(tmp_path / "weights.safetensors", "best")


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    write_small_model(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model.safetensors is damaged .*delete it and run again"):
        slimdiff.load(path)


def test_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    write_small_model(path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="do not match the digest"):
        slimdiff.load(path)


def test_missing_files_other_kinds_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        slimdiff.load(tmp_path / "nothing.safetensors")
    save_tensors(tmp_path / "images.safetensors", "images", {"a": torch.zeros(2)}, {})
    with pytest.raises(UserError, match="holds 'images', expected 'model'"):
        slimdiff.load(tmp_path / "images.safetensors")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="was not written by slimdiff"):
        slimdiff.load(tmp_path / "other.safetensors")


def test_a_header_that_contradicts_its_tensors_is_refused(tmp_path):
    network = build_network(ncsn_model(), 2)
    model.write_model(tmp_path / "model.safetensors", network, model_header(ncsn_model(), training(groups=1)))
    with pytest.raises((UserError, RuntimeError), match="conv2"):
        slimdiff.load(tmp_path / "model.safetensors")


def test_an_unwritable_target_leaves_no_temporary_file(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    path = tmp_path / "model.safetensors"
    write_small_model(path)
    before = path.read_bytes()
    monkeypatch.setattr("slimdiff.io.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_small_model(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
