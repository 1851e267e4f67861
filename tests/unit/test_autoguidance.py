"""Autoguidance from files: both networks draw and count, and files that do not belong together are refused."""

import json

import pytest
import torch
from builders import MODELS, SAMPLERS, TRAININGS, model_header, write_small_model

import slimdiff
from slimdiff.checkpoints.model import write_model
from slimdiff.errors import UserError
from slimdiff.io.samples import read_samples
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import count_macs, count_macs_per_image
from slimdiff.stages import sample as stage

EULER = {"method": "euler", "steps": 3, "guidance": 1.0}
GUIDE = {"guide": {"optimization": "groups-2", "scale": 2.0}}


def write_guided(folder, family="ncsn"):
    """Write a small model whose sampler has a guide."""
    path = folder / "model.safetensors"
    write_small_model(path, family, sampler={**SAMPLERS[family], **EULER, **GUIDE}, identity="own")
    return path


def write_guide(folder, family="ncsn", model=None, **changes):
    """Write another small network, with groups."""
    model, path = model or MODELS[family](), folder / "guide.safetensors"
    network = build_network(model, 2, seed=2)
    write_model(path, network, model_header(model, TRAININGS[family](groups=2, **changes), identity="guide"))
    return path


@pytest.mark.parametrize("family", MODELS)
def test_both_networks_draw_and_count(tmp_path, family):
    path, guide = write_guided(tmp_path, family), write_guide(tmp_path, family)
    loaded, own, other = slimdiff.load(path, guide=guide), slimdiff.load(path), slimdiff.load(guide)
    sampled = loaded.sample(3, seed=5)
    assert (sampled.network_evaluations, sampled.guide_evaluations) == (6.0, 3.0)
    assert 0 < count_macs(other) < count_macs(own)
    assert count_macs_per_image(loaded, 0) == 3 * count_macs(own) + 3 * count_macs(other)

    write_small_model(tmp_path / "plain.safetensors", family, sampler={**SAMPLERS[family], **EULER})
    unguided = slimdiff.load(tmp_path / "plain.safetensors").sample(3, seed=5)
    by_itself = slimdiff.load(path, guide=path).sample(3, seed=5)
    assert int((by_itself.images.int() - unguided.images.int()).abs().max()) <= 1, "a network does not guide itself"
    assert not torch.equal(sampled.images, unguided.images)
    assert torch.equal(loaded.sample(3, seed=5, batch_size=2).images, sampled.images)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    path, guide = write_guided(tmp_path), write_guide(tmp_path)
    write_small_model(tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"sampler.guide is groups-2: give the model file"):
        slimdiff.load(path).sample(2)
    with pytest.raises(
        UserError, match=r"guide is .*guide.safetensors, and the sampler of .*plain.safetensors has none"
    ):
        slimdiff.load(tmp_path / "plain.safetensors", guide=guide)
    with pytest.raises(UserError, match=r"guide is .*; allowed: a file of the same model and `black`"):
        slimdiff.load(path, guide=write_guide(tmp_path, black=-1.0))
    with pytest.raises(UserError, match=r"guide is .*; allowed: a file of the same model and `black`"):
        slimdiff.load(path, guide=write_guide(tmp_path, model=MODELS["ncsn"](fit="pad")))


def test_guidance_by_classes_is_refused_next_to_a_guide(tmp_path):
    loaded = slimdiff.load(write_guided(tmp_path, "ddpm"), guide=write_guide(tmp_path, "ddpm"))
    with pytest.raises(UserError, match=r"guidance is 2.0; allowed for this model, which its sampler.guide guides: 1"):
        loaded.sample(2, guidance=2.0)
    assert len(loaded.sample(2, guidance=1.0).images) == 2


def test_the_stage_samples_with_the_guide_of_its_cell(tmp_path):
    path, guide = write_guided(tmp_path), write_guide(tmp_path)
    settings = json.dumps({"n_samples": 2, "batch_size": 2, "seed": 5})
    out = ["--out", f"{tmp_path}/samples.npz", "--out-grid", f"{tmp_path}/grid.png", "--gpu", "0"]
    arguments = ["--settings", settings, "--model", str(path), "--identity", "own", *out, "--guide", str(guide)]
    stage.main([*arguments, "--guide-identity", "guide"])
    drawn = read_samples(tmp_path / "samples.npz")
    assert torch.equal(torch.from_numpy(drawn.images), slimdiff.load(path, guide=guide).sample(2, seed=5).images)
    assert drawn.network_evaluations == 6.0
    with pytest.raises(UserError, match=r"guide.safetensors is not this cell's: its identity is guide, expected other"):
        stage.main([*arguments, "--guide-identity", "other"])
