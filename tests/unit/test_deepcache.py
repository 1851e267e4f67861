"""DeepCache: exact without reuse, and equal to a plain implementation with it."""

import itertools

import pytest
import torch
from builders import DATASET, UNET_SAMPLER, model_header, small_unet_model, unet_training
from torch.utils.flop_counter import FlopCounterMode

import slimdiff
from slimdiff.checkpoints.model import write_model
from slimdiff.compression.steps import apply_steps
from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.guidance import labels_in_turn
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, karras_sigmas
from slimdiff.errors import UserError
from slimdiff.inference.deepcache import CachedUNet, cache_features
from slimdiff.inference.sampling import sample_images
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import count_macs, count_macs_per_image

MODEL = small_unet_model()


def denoiser(levels=(1, 2, 3)):
    network = build_network(small_unet_model({"attention_levels": list(levels)}), seed=1).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("proj.bias"):
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    return build_denoiser(network, MODEL, unet_training())


def draw(d, n=6, batch_size=6, **sampler):
    settings = build(SamplerSettings, {**UNET_SAMPLER, **sampler}, "sampler")
    return sample_images(d, settings, MODEL, DATASET, n, batch_size, 3, labels_in_turn(n, 2))


@torch.inference_mode()
def plain_heun(d, steps, whole, index, guidance):
    """DeepCache without savings: one image and one pass at a time, every evaluation computed whole, and the input of
    the outermost level replaced by the cached one. `whole` are the evaluations that fill the cache."""
    network, kept, call = d.network, {}, 0

    def once(x, sigma, label):
        def replace(module, arguments, output):
            if call in whole:
                kept[label] = output
            return kept[label]

        handle = network.attend5.register_forward_hook(replace)
        try:
            return d(x, torch.full((1,), sigma), torch.tensor([label]))
        finally:
            handle.remove()

    def estimate(x, sigma):
        nonlocal call
        conditional, unconditional = once(x, sigma, index % 2), once(x, sigma, -1)
        call += 1
        return unconditional + guidance * (conditional - unconditional)

    sigmas = karras_sigmas(steps, *d.sigma_range(), 7.0).tolist()
    x = ImageNoise(3, [index]).normal((1, 16, 16)) * sigmas[0]
    for now, then in itertools.pairwise(sigmas):
        slope = (x - estimate(x, now)) / now
        ahead = x + (then - now) * slope
        if then > 0:
            ahead = x + (then - now) * (slope + (ahead - estimate(ahead, then)) / then) / 2
        x = ahead
    return x


@pytest.mark.parametrize("levels", [(), (1, 2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize(
    ("every", "whole"),
    [(1, set(range(9))), (2, {0, 1, 3, 5, 7}), (3, {0, 1, 4, 7}), (9, {0, 1})],
)
def test_heun_equals_a_plain_loop(levels, every, whole, monkeypatch):
    d = denoiser(levels)
    seen = []
    monkeypatch.setattr(d, "to_images", lambda x: seen.append(x) or x)
    monkeypatch.setattr("slimdiff.diffusion.denoiser.Denoiser.to_images", lambda self, x: seen.append(x) or x)
    drawn = draw(d, 3, 3, steps=5, cache_interval=every)
    for index in range(3):
        expected = plain_heun(d, 5, whole, index, 1.5)
        assert torch.allclose(seen[0][index], expected[0], rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert drawn.network_evaluations == 18
    assert drawn.shallow_evaluations == 2 * (9 - len(whole))


def test_interval_1_wraps_nothing_and_changes_nothing():
    d = denoiser()
    assert cache_features(d, SamplerSettings("heun")) == (d, None)
    x, level, labels = torch.randn(4, 1, 16, 16), torch.rand(4), torch.tensor([0, 1, -1, 0])
    with torch.inference_mode():
        assert torch.equal(CachedUNet(d.network, 1, "heun")(x, level, labels), d.network(x, level, labels))
        again = CachedUNet(d.network, 5, "ddim")
        first = again(x, level, labels)
        assert torch.equal(first, d.network(x, level, labels))
        assert torch.allclose(again(x, level, labels), first, atol=1e-6), "the same inputs, the same features"
        assert (again.calls, again.shallow_calls) == (2, 1)
    assert not d.network.up3._forward_pre_hooks


@pytest.mark.parametrize(
    ("method", "steps", "every", "reused"),
    [("heun", 4, 2, 3), ("ddim", 5, 2, 2), ("ddim", 5, 5, 4), ("dpm-solver++", 6, 3, 4), ("unipc", 4, 2, 2)],
)
@pytest.mark.parametrize(("guidance", "passes"), [(1.5, 2), (1.0, 1)])
def test_which_evaluations_are_shallow(method, steps, every, reused, guidance, passes):
    drawn = draw(denoiser(), method=method, steps=steps, cache_interval=every, guidance=guidance)
    assert drawn.network_evaluations == passes * (7 if method == "heun" else steps)
    assert drawn.shallow_evaluations == passes * reused


@pytest.mark.parametrize("method", ["heun", "ddim"])
def test_an_image_does_not_depend_on_its_batch(method):
    d = denoiser()
    whole = draw(d, 12, 12, method=method, steps=5, cache_interval=2).images.int()
    for n, batch_size in ((12, 5), (10, 10), (12, 1)):
        other = draw(d, n, batch_size, method=method, steps=5, cache_interval=2).images.int()
        assert int((whole[:n] - other).abs().max()) <= 1
    plain = draw(d, 12, 12, method=method, steps=5).images.int()
    assert int((whole - plain).abs().max()) > 1


def test_caching_is_refused_without_a_unet_run_by_torch():
    d = denoiser()
    d.network = torch.nn.Sequential(d.network)
    with pytest.raises(UserError, match=r"sampler.cache_interval is 2; allowed for Sequential: 1"):
        cache_features(d, SamplerSettings("heun", cache_interval=2))


def test_caching_is_refused_where_only_some_noise_levels_are_guided():
    settings = SamplerSettings("heun", cache_interval=2, guidance=2.0, guidance_interval=[0.3, 3.0])
    with pytest.raises(UserError, match=r"sampler.cache_interval is 2; allowed with guidance_interval \[0.3, 3.0\]: 1"):
        cache_features(denoiser(), settings)


@pytest.mark.parametrize("levels", [[], [0, 1, 2, 3]])
@pytest.mark.parametrize("steps", [[], [{"quantize": {"linear": "8bit"}}]], ids=str)
def test_macs_per_image_are_those_counted_by_hand(tmp_path, levels, steps):
    model, c, size, dim = small_unet_model({"attention_levels": levels}), 8, 16, 32
    network = build_network(model, seed=1)
    structure = apply_steps(network, steps, 0)
    found = {}
    for every in (1, 2):
        sampler = {**UNET_SAMPLER, "steps": 4, "cache_interval": every}
        header = model_header(model, unet_training(), structure=structure, sampler=sampler)
        write_model(tmp_path / "model.safetensors", network, header)
        loaded = slimdiff.load(tmp_path / "model.safetensors")
        found[every] = count_macs_per_image(loaded, 0)
    whole, pixels = count_macs(loaded), size**2
    inc = 9 * (c + c * c) * pixels
    up3 = 9 * (2 * (2 * c) ** 2 + 2 * c * c + c * c) * pixels + dim * c
    attention = (6 * pixels * c**2 + 2 * pixels**2 * c) if levels else 0
    shallow = inc + up3 + attention + c * pixels
    assert found == {1: 2 * 7 * whole, 2: 2 * (4 * whole + 3 * shallow)}


def test_sampling_computes_the_reported_macs(tmp_path):
    """torch counts during the sampling of one image, in both passes of every evaluation."""
    sampler = {**UNET_SAMPLER, "steps": 4, "cache_interval": 2}
    network = build_network(MODEL, seed=1)
    header = model_header(MODEL, unet_training(), sampler=sampler)
    write_model(tmp_path / "model.safetensors", network, header)
    loaded = slimdiff.load(tmp_path / "model.safetensors")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loaded.sample(1)
    assert counter.get_total_flops() // 2 == count_macs_per_image(loaded, 0)
