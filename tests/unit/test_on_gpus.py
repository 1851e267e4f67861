"""What a CUDA device alone can show; benchmarks/gpu.sh runs these tests first."""

import importlib.util
import warnings

import pytest
import torch
from builders import (
    MODELS,
    SAMPLER,
    SAMPLERS,
    TRAININGS,
    model_header,
    small_unet_model,
    striped_images,
    write_small_model,
)
from torch import nn

import slimdiff
from slimdiff.catalog.engines import Runtime
from slimdiff.compression.linear_quant import dense_weight, quantize_linears
from slimdiff.engines.lowering import start_network
from slimdiff.engines.network import Placement
from slimdiff.models.attention import attention
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import profile
from slimdiff.runtime import devices
from slimdiff.training.loop import Trained, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture
def cuda() -> torch.device:
    """A stage's device, with its kernels."""
    return devices.pick_device(1, 1)


def trained(folder, device, family="ddpm", images=96, **changes) -> Trained:
    options = TRAININGS[family](**{"epochs": 1, **changes})
    settings = {"dataset": "stripes", "model": MODELS[family](), "training": options, "seed": 0}
    return train(striped_images(images), settings, folder, device, "code")


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.cpu().float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_training_can_be_repeated(tmp_path, cuda, family, precision):
    one, other = (trained(tmp_path / name, cuda, family, precision=precision) for name in "ab")
    assert one.record["trained_kernels"] == devices.kernels_of(cuda)
    for name, value in one.weights["raw"].items():
        assert torch.equal(value, other.weights["raw"][name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_attention_can_be_repeated(cuda, dtype):
    """Of the 4,096 tokens of 64×64 pixels, whose kernels split the sum."""
    made = [torch.randn(4, 4, 4096, 16, device=cuda, dtype=dtype) for _ in range(4)]
    found = []
    with devices.deterministic_operations(cuda):
        for _ in range(5):
            inputs = [tensor.clone().requires_grad_() for tensor in made[:3]]
            attention(*inputs).backward(made[3])
            found.append([tensor.grad for tensor in inputs])
    for again in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(again, found[0], strict=True))


def test_a_step_does_not_wait_for_the_gpu(tmp_path, cuda):
    """Epochs and saves do, and are as many in both trainings; four times as many steps wait no more often."""
    waits = []
    for images, name in ((96, "a"), (384, "b")):
        trained(tmp_path / f"warm-{name}", cuda, images=images)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                trained(tmp_path / name, cuda, images=images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(each.message) for each in caught))
    assert waits[0] == waits[1]


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_images_are_those_of_the_cpu(tmp_path, cuda, family):
    """Two gray levels: convolutions round to 10 bits (TF32). Filling the memory changes no image either."""
    write_small_model(tmp_path / "m.safetensors", family, sampler={**SAMPLERS[family], "steps": 4})
    expected = slimdiff.load(tmp_path / "m.safetensors").sample(20, 3, batch_size=20)
    loaded = slimdiff.load(tmp_path / "m.safetensors", cuda)
    for fill, batch_size in ((False, 4), (True, 20)):
        found = loaded.sample(20, 3, batch_size=4, fill_memory=fill)
        assert found.batch_size == batch_size
        assert float(((found.images.int() - expected.images.int()).abs() <= 2).float().mean()) > 0.99


def test_a_profile_has_the_memory_the_kernels_and_the_energy(tmp_path, cuda):
    write_small_model(tmp_path / "m.safetensors", "ncsn", sampler=SAMPLER)
    settings = {"batch_size": 8, "repeats": 3, "warmup": 1, "seed": 0}
    found = profile(tmp_path / "m.safetensors", settings, cuda)
    assert 0 < found["gpu_allocated_bytes"] == found["peak_memory_bytes"] <= found["gpu_reserved_bytes"]
    assert (found["timed_kernels"], devices.kernels_of(cuda)) == ("autotuned", "deterministic")
    assert found["inference_ms_per_image"] > 0
    if importlib.util.find_spec("pynvml"):
        assert found["energy_source"] in ("nvml", None)
        assert found["gpu_process_bytes"] is None or found["gpu_process_bytes"] > found["gpu_reserved_bytes"]
    else:
        assert found["disturbed"] in (True, None)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_frozen_layers_are_those_of_the_cpu(cuda, bits):
    """bitsandbytes quantizes on the CPU and has kernels of its own on both; those of the GPU round to float16."""
    network = nn.Sequential(nn.Linear(256, 192), nn.Linear(192, 64))
    quantize_linears(network, bits)
    x = torch.randn(32, 256) * torch.logspace(-2, 1, 32)[:, None]
    network.requires_grad_(False)
    expected, weight = network(x), dense_weight(network[0])
    network.to(cuda)
    assert relative(dense_weight(network[0]), weight) < 1e-6
    assert relative(network(x.to(cuda)), expected) < 5e-3


# These compile for half a minute each, and come last.
@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_a_compiled_training_learns_the_same(tmp_path, cuda, family):
    eager, compiled = (trained(tmp_path / str(on), cuda, family, compile=on) for on in (False, True))
    assert compiled.weights["raw"].keys() == eager.weights["raw"].keys()
    losses = [each.record["epochs"][0]["loss"] for each in (eager, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_result_of_a_cuda_graph_outlives_its_next_replay(cuda, tmp_path, precision):
    model = small_unet_model()
    network = build_network(model, seed=1).eval().requires_grad_(False)
    header = model_header(model, TRAININGS["ddpm"](), engine="torch-compile", precision=precision)
    running = start_network(header, network, Placement(cuda, tmp_path))
    shape = (4, model["channels"], *[model["image_size"]] * 2)
    inputs = [(torch.randn(shape), torch.rand(4) * 9, torch.arange(4) % 2) for _ in range(4)]
    found = [running(*(part.to(cuda) for part in each)) for each in inputs]
    assert running.runtime == Runtime("torch-compile", precision)
    for result, each in zip(found, inputs, strict=True):
        assert relative(result, network(*each)) < (5e-3 if precision == "fp32" else 0.03)
