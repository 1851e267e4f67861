"""A profile's counts against counts by hand."""

import gzip
import math
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from builders import (
    MODELS,
    SAMPLER,
    SOURCE,
    model_header,
    ncsn_model,
    small_unet_model,
    striped_images,
    training,
    unet_training,
    write_small_model,
)
from presets import CONFIG
from torch.utils.flop_counter import FlopCounterMode

import slimdiff
from slimdiff.checkpoints.model import write_model
from slimdiff.compression.steps import apply_steps
from slimdiff.data import image_set
from slimdiff.engines.network import count_parameters
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network, build_on_meta
from slimdiff.profiling import profile as profiling
from slimdiff.profiling.profile import count_macs, profile

SETTINGS = {"batch_size": 4, "repeats": 3, "warmup": 1, "seed": 0}


def saved(tmp_path, groups=1, steps=()):
    network = build_network(ncsn_model(), groups, seed=1)
    structure = apply_steps(network, list(steps), 0)
    header = model_header(ncsn_model(), training(groups=groups), structure=structure)
    write_model(tmp_path / "model.safetensors", network, header)
    return slimdiff.load(tmp_path / "model.safetensors")


def test_macs_are_those_counted_by_hand(tmp_path):
    # per layer: kernel 9 × in × out × positions (of the output; of the input where the convolution is transposed)
    convolutions = [
        (1, 32, 26),
        (32, 64, 12),
        (64, 128, 5),
        (128, 256, 2),
        (256, 128, 2),
        (256, 64, 5),
        (128, 32, 12),
        (64, 1, 26),
    ]
    linears = 256 * (256 + 32 + 64 + 128 + 256 + 128 + 64 + 32)
    expected = sum(9 * c_in * c_out * size**2 for c_in, c_out, size in convolutions) + linears
    assert count_macs(saved(tmp_path)) == expected


@pytest.mark.parametrize("levels", [[], [1, 2, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("groups", [1, 2])
def test_macs_of_a_unet_are_those_counted_by_hand(tmp_path, levels, groups):
    """Including attention: two products of all pairs of tokens, and the linear layers of every token."""
    model, c, size, dim = small_unet_model({"attention_levels": levels}), 8, 16, 32
    network = build_network(model, groups)
    header = model_header(model, unet_training(groups=groups))
    write_model(tmp_path / "model.safetensors", network, header)

    def double(c_in, c_out, level, mid=None, split=1):
        mid = mid or c_out
        return 9 * (c_in * mid + mid * c_out) * (size >> level) ** 2 // split

    def down(c_in, c_out, level):
        return double(c_in, c_in, level) + double(c_in, c_out, level) + dim * c_out

    def up(c_in, c_out, level):
        return double(c_in, c_in, level) + double(c_in, c_out, level, c_in // 2) + dim * c_out

    def attention(channels, level):
        tokens = (size >> level) ** 2
        return (6 * tokens * channels**2 + 2 * tokens**2 * channels) * (level in levels)

    expected = double(1, c, 0) + down(c, 2 * c, 1) + down(2 * c, 4 * c, 2) + down(4 * c, 4 * c, 3)
    bottom = ((4 * c, 8 * c), (8 * c, 8 * c), (8 * c, 4 * c))
    expected += sum(double(c_in, c_out, 3, split=groups) for c_in, c_out in bottom)
    expected += up(8 * c, 2 * c, 2) + up(4 * c, c, 1) + up(2 * c, c, 0) + c * size**2
    expected += sum(attention(*where) for where in ((16, 1), (32, 2), (32, 3), (16, 2), (8, 1), (8, 0)))
    assert count_macs(slimdiff.load(tmp_path / "model.safetensors")) == expected


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("model", [*CONFIG["models"].values(), *(make() for make in MODELS.values())])
def test_macs_are_those_of_torchs_counter(model, groups):
    """On the meta device, where attention is two products of matrices, for which torch has a formula."""
    network = build_on_meta(model, groups)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, model["channels"], *[model["image_size"]] * 2), torch.empty(1))
    counted = SimpleNamespace(settings={"model": model, "training": {"groups": groups}, "structure": []})
    assert 2 * count_macs(counted) == counter.get_total_flops() > 0


def test_a_profile_does_without_torchs_compiler(tmp_path):
    """Its import takes a second; loading builds on the meta device, and a profile counts operations.

    diffusers, of which unet2d is made, imports it.
    """
    families = ["ncsn", "ddpm"]
    paths = [str(tmp_path / family) for family in families]
    for family, path in zip(families, paths, strict=True):
        write_small_model(path, family)
    script = (
        "import sys, torch\nfrom pathlib import Path\nfrom slimdiff.profiling.profile import profile\n"
        "for path in sys.argv[1:]:\n"
        "    profile(Path(path), {'batch_size': 2, 'repeats': 1, 'warmup': 0, 'seed': 0}, torch.device('cpu'))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, *paths], env={**os.environ, "PYTHONPATH": str(SOURCE)}, check=True)


def test_groups_divide_the_macs_of_the_inner_convolutions(tmp_path):
    whole, halved = count_macs(saved(tmp_path)), count_macs(saved(tmp_path, groups=2))
    assert 0.5 < halved / whole < 0.6


@pytest.mark.parametrize(
    ("steps", "nonzero"),
    [
        ((), 1_115_297),
        (({"prune": {"method": "l1", "amount": 0.5, "scope": "global"}},), 1_115_297 - round(0.5 * 1_048_097)),
    ],
)
def test_parameters_and_nonzero_parameters_are_counted(tmp_path, steps, nonzero):
    found = count_parameters(saved(tmp_path, steps=steps).network)
    # GroupNorm's biases start at zero
    fresh_zeros = sum(int((p == 0).sum()) for p in build_network(ncsn_model(), seed=1).parameters())
    assert found == (1_115_297, nonzero - fresh_zeros)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantized_weights_count_as_the_floats_they_encode(tmp_path, bits):
    loaded = saved(tmp_path, steps=[{"quantize": {"linear": bits}}])
    params, nonzero = count_parameters(loaded.network)
    assert params == 1_115_297
    assert 0.8 * params < nonzero <= params


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_a_profile_has_its_columns(tmp_path, family):
    path = tmp_path / "model.safetensors"
    write_small_model(path, family)
    found = profile(path, SETTINGS, torch.device("cpu"))
    assert found["size_bytes"] == path.stat().st_size
    assert found["size_gzip_bytes"] == len(gzip.compress(path.read_bytes(), 6))
    assert found["inference_ms_per_image"] > 0
    assert found["inference_ms_per_image_iqr"] >= 0
    assert found["peak_memory_bytes"] > 50e6
    assert found["batch_size"] == 4
    assert found["speedup"] is None


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_without_repeats_nothing_is_timed(tmp_path, family, monkeypatch):
    """Sizes, arithmetic and losses equal those of a timed profile; the rest is null."""
    path, images = tmp_path / "model.safetensors", tmp_path / "images.safetensors"
    write_small_model(path, family)
    image_set.write(images, striped_images())
    timed = profile(path, {**SETTINGS, "repeats": 2, "warmup": 0}, torch.device("cpu"), images=images)
    monkeypatch.setattr(profiling, "sample_at_once", None)
    found = profile(path, {**SETTINGS, "repeats": 0}, torch.device("cpu"), images=images)
    assert found == timed | dict.fromkeys(profiling.TIMED)
    empty = {name for name in profiling.TIMED if timed[name] is None}  # without a baseline and without an engine
    # runs as short as these may tell nothing, and few users may read the counters of energy
    unknown = {"other_cpu_pct", "disturbed", "energy_j_per_image", "energy_source"} & empty
    of_gpus = {"timed_kernels", "other_gpu_processes"} | {name for name in profiling.TIMED if name.startswith("gpu_")}
    without_baseline = {name for name in profiling.TIMED if name.startswith("speedup")}
    assert empty == without_baseline | {"compile_s"} | of_gpus | unknown


def test_a_speedup_is_relative_to_the_baseline(tmp_path):
    """Nine times as many network evaluations take longer, even on a busy machine."""
    slow, fast = tmp_path / "slow.safetensors", tmp_path / "fast.safetensors"
    write_small_model(fast, sampler={**SAMPLER, "steps": 2})
    write_small_model(slow, sampler={**SAMPLER, "steps": 14})
    found = profile(fast, SETTINGS, torch.device("cpu"), slow)
    assert 1.0 < found["speedup_low"] <= found["speedup"] <= found["speedup_high"]
    assert profile(slow, SETTINGS, torch.device("cpu"), fast)["speedup_batch_1"] < 1.0


def test_zeros_shrink_the_gzipped_file_and_not_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    saved(tmp_path)
    dense = path.stat().st_size, len(gzip.compress(path.read_bytes(), 6))
    saved(tmp_path, steps=[{"prune": {"method": "l1", "amount": 0.7, "scope": "global"}}])
    pruned = path.stat().st_size, len(gzip.compress(path.read_bytes(), 6))
    assert pruned[0] == pytest.approx(dense[0], rel=0.001)
    assert pruned[1] < 0.6 * dense[1]


LOSSES = ["denoising_loss", "denoising_loss_low", "denoising_loss_middle", "denoising_loss_high"]


def losses(path, images, **changes):
    found = profile(path, {**SETTINGS, "repeats": 0, **changes}, torch.device("cpu"), images=images)
    return [found[name] for name in LOSSES]


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_denoising_losses_depend_on_data_and_network_alone(tmp_path, family):
    """The loss ignores the cell's seed, batches and training images; other weights and other test images change it."""
    path, images = tmp_path / "model.safetensors", tmp_path / "images.safetensors"
    striped = striped_images(32)
    image_set.write(images, striped)
    network = write_small_model(path, family)
    found = losses(path, images)
    assert found[0] == pytest.approx(sum(found[1:]) / 3)
    write_small_model(path, family, seed=5)
    assert losses(path, images, batch_size=7, seed=9) == pytest.approx(found, rel=1e-4)
    other = replace(striped, train_images=255 - striped.train_images)
    image_set.write(images, other)
    assert losses(path, images) == found, "training images have no influence"
    image_set.write(images, replace(striped, test_images=255 - striped.test_images))
    assert losses(path, images) != pytest.approx(found, rel=1e-3)
    image_set.write(images, striped)
    header = slimdiff.load(path).settings
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    write_model(path, network, header)
    assert all(abs(new / old - 1) > 1e-3 for new, old in zip(losses(path, images), found, strict=True))


def test_failed_trainings_and_nan_have_no_denoising_loss(tmp_path):
    path, images = tmp_path / "model.safetensors", tmp_path / "images.safetensors"
    image_set.write(images, striped_images())
    network = write_small_model(path)
    header = slimdiff.load(path).settings
    write_model(path, network, {**header, "status": "failed", "reason": "loss is NaN at step 3"})
    assert losses(path, images) == [None] * 4
    with torch.no_grad():
        network.tconv1.bias.fill_(math.nan)
    write_model(path, network, header)
    assert losses(path, images) == [None] * 4
    assert losses(path, None) == [None] * 4


def test_images_of_another_data_set_are_refused(tmp_path):
    path, images = tmp_path / "model.safetensors", tmp_path / "images.safetensors"
    image_set.write(images, replace(striped_images(), dataset="spots"))
    write_small_model(path)
    with pytest.raises(UserError, match=r"images.safetensors holds images of spots.*stripes"):
        losses(path, images)
