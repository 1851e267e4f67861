"""Images depend on seed and index alone; degenerate ones are noticed; sizes go there and back."""

import numpy as np
import pytest
import torch
from builders import SAMPLER, small_model, training, write_small_model

import slimdiff
from slimdiff.data.fit import to_dataset, to_model
from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.samplers import SAMPLERS, SamplerSettings
from slimdiff.images import write_png, write_samples
from slimdiff.models.registry import build_network
from slimdiff.sampling import grid, sample_images
from slimdiff.settings import build

DATASET = {"channels": 1, "height": 20, "width": 20}


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("preconditioning", ["score", "edm"])
def test_image_17_is_the_same_at_any_batch_size(method, preconditioning):
    network = build_network(small_model(), seed=1).eval()
    denoiser = build_denoiser(network, small_model(), training(preconditioning=preconditioning))
    settings = build(SamplerSettings, {**SAMPLER, "method": method, "steps": 6}, "sampler")

    def images(n, batch_size):
        return sample_images(denoiser, settings, small_model(), DATASET, n, batch_size, seed=3).images.int()

    whole = images(20, 20)
    for n, batch_size in ((20, 7), (18, 18)):
        other = images(n, batch_size)
        assert int((whole[17] - other[17]).abs().max()) <= 1  # a gray level: convolutions round by batch size
        assert float((whole[17] != other[17]).float().mean()) < 0.05


def test_the_same_seed_gives_the_same_images(tmp_path):
    write_small_model(tmp_path / "m.safetensors")
    loaded = slimdiff.load(tmp_path / "m.safetensors")
    first, again, other = (loaded.sample(4, seed=seed).images for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) == 4


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (28, 3), (20, 1)])
def test_dataset_to_model_and_back_is_lossless_where_nothing_is_scaled(size, channels):
    images = torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8)
    x = to_model(images, size, channels)
    assert x.shape == (3, channels, size, size)
    assert float(x.min()) >= -1
    assert float(x.max()) <= 1
    assert torch.equal(to_dataset(x, size, size, 1), images)


def test_padding_is_undone_exactly_and_scaling_nearly():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    padded = to_model(images, 32, 1, "pad")
    assert float(padded[:, :, :2].max()) == -1
    assert torch.equal(to_dataset(padded, 28, 28, 1, "pad"), images)
    smooth = (torch.linspace(0, 255, 28)[None, None, None, :].expand(2, 1, 28, 28)).to(torch.uint8)
    back = to_dataset(to_model(smooth, 64, 3), 28, 28, 1)
    assert int((back.int() - smooth.int()).abs().max()) <= 6
    with pytest.raises(ValueError, match="cannot make 28×28 images smaller"):
        to_model(images, 20, 1, "pad")


class Stuck(torch.nn.Module):
    """A network whose output makes every sample the same."""

    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(float(value)))

    def forward(self, x, noise_level):
        return torch.zeros_like(x) + self.weight


@pytest.mark.parametrize(("value", "reason"), [(float("nan"), "NaN"), (-1e4, "constant")])
def test_degenerate_samples_have_a_reason(value, reason):
    denoiser = build_denoiser(Stuck(value), small_model(), training())
    settings = build(SamplerSettings, SAMPLER, "sampler")
    sampled = sample_images(denoiser, settings, small_model(), DATASET, 6, 3, 0)
    assert reason in sampled.reason


def test_an_ode_that_meets_nan_is_a_reason_not_a_crash():
    denoiser = build_denoiser(Stuck(float("nan")), small_model(), training())
    settings = build(SamplerSettings, {**SAMPLER, "method": "ode"}, "sampler")
    sampled = sample_images(denoiser, settings, small_model(), DATASET, 6, 3, 0)
    assert "NaN" in sampled.reason
    assert sampled.images.shape == (0, 1, 20, 20)


def test_grid_puts_images_row_by_row(tmp_path):
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 4, 4).contiguous()
    sheet = grid(images, columns=3, border=1)
    assert sheet.shape == (1, 11, 16)
    assert int(sheet[0, 1, 1]) == 0
    assert int(sheet[0, 1, 6]) == 1
    assert int(sheet[0, 6, 1]) == 3
    assert int(sheet[0, 0, 0]) == 128
    write_png(tmp_path / "grid.png", sheet)
    assert (tmp_path / "grid.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_samples_come_back_without_pickle(tmp_path):
    write_small_model(tmp_path / "m.safetensors")
    sampled = slimdiff.load(tmp_path / "m.safetensors").sample(2)
    write_samples(tmp_path / "samples.npz", sampled, SAMPLER, "")
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as file:
        assert np.array_equal(file["images"], sampled.images.numpy())
        assert str(file["status"]) == "ok"
        assert float(file["network_evaluations"]) == 7
