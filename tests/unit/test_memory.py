"""Out of memory, caused for real: a network requests more memory from the allocator than any machine has.

`Hungry` requests 2⁵⁰ bytes if its batch is larger than its limit, on any device.
"""

import itertools
import json
import re

import pytest
import torch
from builders import (
    DATASET,
    SAMPLER,
    TRAININGS,
    small_model,
    write_small_model,
)
from torch import nn

from slimdiff.analysis import row
from slimdiff.catalog.engines import Runtime
from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.engines.network import Backend, EngineNetwork, Placement
from slimdiff.inference import model, sampling
from slimdiff.inference.sampling import sample_images
from slimdiff.io.samples import read_samples
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network
from slimdiff.profiling.latency import time_interleaved
from slimdiff.profiling.profile import profile
from slimdiff.runtime.memory import HalvingBatch, OutOfMemory, images_that_fit, is_oom
from slimdiff.stages import sample as sample_stage

PETABYTE = 2**50
OUT = r"out of memory: sampling.batch_size is {} \(tried {}\); {}"


def exhaust(device):
    """Request more memory than exists."""
    return torch.empty(PETABYTE, dtype=torch.uint8, device=device)


class Hungry(nn.Module):
    """A network with memory for `capacity` images at once."""

    def __init__(self, network, capacity):
        super().__init__()
        self.network, self.capacity, self.sizes = network, capacity, []

    def forward(self, x, *others):
        self.sizes.append(len(x))
        if len(x) > self.capacity:
            exhaust(x.device)
        return self.network(x, *others)


def drawn(capacity, device="cpu", batch_size=6, n=10):
    network = Hungry(build_network(small_model(), seed=1).eval().to(device), capacity)
    denoiser = build_denoiser(network, small_model(), TRAININGS["ncsn"]())
    settings = build(SamplerSettings, SAMPLER, "sampler")
    return sample_images(denoiser, settings, small_model(), DATASET, n, batch_size, 3), network


@pytest.mark.parametrize("wrong", [ValueError("no"), RuntimeError("shapes differ")])
def test_other_errors_are_raised_unchanged(wrong):
    def work(size):
        raise wrong

    with pytest.raises(type(wrong)):
        HalvingBatch(4).run(work)
    assert not is_oom(wrong)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_the_batch_is_halved_once_and_stays_halved(error):
    seen = []

    def work(size):
        seen.append(size)
        if size > 3:
            raise error
        return size

    batches = HalvingBatch(7)
    assert [batches.run(work), batches.run(work)] == [3, 3]
    assert seen == [7, 3, 3]
    with pytest.raises(OutOfMemory, match="tried 8 and 4"):
        HalvingBatch(8).run(work)


def test_images_are_the_same_after_memory_ran_out(device):
    whole, _ = drawn(capacity=6, device=device)
    halved, network = drawn(capacity=3, device=device)
    assert (whole.batch_size, halved.batch_size, halved.reason) == (6, 3, "")
    assert network.sizes[:2] == [6, 3]
    assert max(network.sizes[1:]) == 3
    assert halved.network_evaluations == whole.network_evaluations
    assert int((whole.images.int() - halved.images.int()).abs().max()) <= 1  # kernels round by batch size


@pytest.mark.parametrize(
    ("capacity", "batch_size", "n", "tried", "fix"),
    [(2, 6, 10, "6 and 3", "lower it"), (0, 1, 2, "1", "use a device with more memory"), (1, 6, 4, "4 and 2", "lower")],
)
def test_out_of_memory_at_half_the_batch_is_a_failure_with_a_reason(capacity, batch_size, n, tried, fix):
    found, _ = drawn(capacity, batch_size=batch_size, n=n)
    assert (len(found.images), found.batch_size) == (0, 0)
    assert re.match(OUT.format(batch_size, tried, fix), found.reason)


def test_the_batch_is_halved_if_memory_runs_out_midway():
    """Images sampled before are kept."""
    found, network = drawn(capacity=6)
    calls = len(network.sizes)

    class Later(Hungry):
        def forward(self, x, *others):
            self.capacity = 6 if len(self.sizes) < calls // 2 else 2
            return super().forward(x, *others)

    later = Later(network.network, 6)
    denoiser = build_denoiser(later, small_model(), TRAININGS["ncsn"]())
    settings = build(SamplerSettings, SAMPLER, "sampler")
    again = sample_images(denoiser, settings, small_model(), DATASET, 10, 4, 3)
    assert again.batch_size == 2
    assert set(later.sizes) == {4, 2}
    assert int((found.images.int() - again.images.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    ("capacity", "fits", "sizes", "batch_size"),
    [
        *((9, 7, [2, 7, 1], 7), (9, 99, [2, 8], 10), (4, 7, [2, 7, 3, 3, 2], 3)),
        (2, 7, [2, 7, 3, 2, 2, 2, 2], 2),  # half does not fit either: as many as before
    ],
)
def test_after_the_first_batch_memory_is_filled(monkeypatch, capacity, fits, sizes, batch_size):
    """With images that are the same; an estimate that was too high is halved."""
    monkeypatch.setattr(sampling, "images_that_fit", lambda device, at_once: fits)
    whole, _ = drawn(capacity=10, batch_size=10)
    network = Hungry(build_network(small_model(), seed=1).eval(), capacity)
    denoiser = build_denoiser(network, small_model(), TRAININGS["ncsn"]())
    settings = build(SamplerSettings, SAMPLER, "sampler")
    found = sample_images(denoiser, settings, small_model(), DATASET, 10, 2, 3, fill_memory=True)
    assert [size for size, _ in itertools.groupby(network.sizes)] == [size for size, _ in itertools.groupby(sizes)]
    assert found.batch_size == batch_size
    assert int((whole.images.int() - found.images.int()).abs().max()) <= 1


def test_a_gpu_holds_as_many_images_as_the_first_ones_leave_room_for(monkeypatch):
    """Eight images took 4 of 100 GB, of which 60 are free and 10 more reserved, 2 of these in use."""
    for name, value in (("memory_reserved", 10), ("memory_allocated", 2), ("max_memory_allocated", 4)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value * 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * 10**9, 100 * 10**9))
    assert images_that_fit(torch.device("cuda"), 8) == int(0.7 * 68 / 4 * 8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 100 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * 10**9)
    assert images_that_fit(torch.device("cuda"), 8) == 8
    assert images_that_fit(torch.device("cpu"), 8) == 8


class Graph(Backend):
    """A body with fixed batch sizes whose memory suffices for fewer images after preparation."""

    fixed_batch = True

    def __init__(self):
        self.seen = []

    def prepare(self, x, embedding):
        """Do nothing."""

    def __call__(self, x, embedding):
        self.seen.append(len(x))
        if len(self.seen) > 1 and len(x) > 3:
            exhaust(x.device)
        return x


def test_an_engine_does_not_pad_a_halved_batch():
    graph = Graph()
    embedder = nn.Module()
    embedder.forward = lambda noise_level, labels: noise_level
    network = EngineNetwork(
        embedder, graph, Runtime("openvino", "fp32"), Placement(torch.device("cpu")), (1, 4, 4), (1, 1)
    )
    batches = HalvingBatch(6)
    found = batches.run(lambda size: network(torch.ones(size, 1, 4, 4), torch.ones(size)))
    assert (len(found), batches.size, graph.seen) == (3, 3, [6, 6, 3, 3])


@pytest.fixture
def hungry(monkeypatch):
    """Return a function that limits the batch of every model loaded afterwards."""

    def starve(capacity):
        load = model.load

        def loading(*arguments):
            loaded = load(*arguments)
            network = loaded.denoiser.network
            forward = network.forward

            def limited(x, *others):
                if len(x) > capacity:
                    exhaust(x.device)
                return forward(x, *others)

            network.forward = limited
            return loaded

        monkeypatch.setattr(model, "load", loading)
        monkeypatch.setattr("slimdiff.profiling.profile.load", loading)

    return starve


@pytest.mark.parametrize(("capacity", "batch_size", "status"), [(4, 2, "ok"), (2, 2, "ok"), (1, None, "failed")])
def test_a_profile_measures_half_the_batch_and_says_so(tmp_path, hungry, capacity, batch_size, status):
    path = tmp_path / "model.safetensors"
    write_small_model(path)
    hungry(capacity)
    requested = 2 if capacity == 4 else 4
    settings = {"batch_size": requested, "repeats": 1, "warmup": 0, "seed": 0}
    found = profile(path, settings, torch.device("cpu"), path)
    assert (found["status"], found.get("batch_size")) == (status, batch_size)
    assert found["size_bytes"] == path.stat().st_size
    if status == "failed":
        assert found["reason"] == "out of memory: sampling.batch_size is 4 (tried 4 and 2); lower it"
        assert "inference_ms_per_image" not in found
    else:
        assert found["inference_ms_per_image"] > 0


def test_interleaved_timing_never_times_a_halved_batch(tmp_path, hungry):
    write_small_model(tmp_path / "model.safetensors")
    hungry(2)
    loaded = model.load(tmp_path / "model.safetensors", "cpu")
    with pytest.raises(OutOfMemory):
        time_interleaved(loaded, None, 4, 1, 0, 0, torch.device("cpu"))
    assert len(time_interleaved(loaded, None, 2, 1, 0, 0, torch.device("cpu")).ms) == 1


@pytest.mark.parametrize(("capacity", "batch_size", "reason"), [(2, 2, None), (1, 0, "sample: out of memory: ")])
def test_stage_and_row_record_the_halved_batch(tmp_path, hungry, capsys, capacity, batch_size, reason):
    write_small_model(tmp_path / "model.safetensors")
    hungry(capacity)
    settings = json.dumps({"n_samples": 5, "batch_size": 4, "seed": 1})
    paths = {"model": "model.safetensors", "out": "samples.npz", "out-grid": "grid.png"}
    options = [part for name, file in paths.items() for part in (f"--{name}", str(tmp_path / file))]
    sample_stage.main(["--settings", settings, *options])
    assert f"memory ran out; {batch_size} images at once" in capsys.readouterr().out
    samples = read_samples(tmp_path / "samples.npz")
    assert samples.batch_size == batch_size
    score = {"status": samples.status, "reason": samples.reason}
    found = row.first_failure({"train": {"status": "ok"}, "score": score, "profile": {"status": "ok"}})
    assert found is None if reason is None else found.startswith(reason)
