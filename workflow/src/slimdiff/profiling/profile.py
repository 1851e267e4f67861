"""The cost of a model: parameters, arithmetic, bytes, and the time and memory of a full sampling run.

Latency is the wall time of sampling a batch, from drawing the noise to pixels on the CPU, divided by its images. A
speedup is the ratio of two interleaved latencies (slimdiff.profiling.latency).
"""

import gzip
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimdiff.compression import arithmetic
from slimdiff.compression.restore import restore_shapes
from slimdiff.data import image_set
from slimdiff.engines.network import EngineNetwork, count_parameters
from slimdiff.errors import UserError
from slimdiff.inference.deepcache import CachedUNet
from slimdiff.inference.model import LoadedModel, load
from slimdiff.models.registry import build_on_meta
from slimdiff.profiling.contention import TOLERATED_PCT, Contention
from slimdiff.profiling.energy import Counter, joules_per_image, open_rapl
from slimdiff.profiling.latency import Latencies, most, sample_at_once, time_interleaved
from slimdiff.profiling.nvml import Nvml, open_device
from slimdiff.runtime.devices import autotuned_kernels, kernels_of, synchronize
from slimdiff.runtime.memory import HalvingBatch, OutOfMemory
from slimdiff.runtime.memory import reason as memory_reason
from slimdiff.runtime.usage import MAXRSS_UNIT
from slimdiff.training.losses import denoising_losses

GZIP_LEVEL = 6  # the default of the command-line tool
TIMED = (  # columns that are null without timing
    "inference_ms_per_image",
    "inference_ms_per_image_iqr",
    "inference_ms_per_image_batch_1",
    "inference_ms_per_image_batch_1_iqr",
    *(f"{name}{end}" for name in ("speedup", "speedup_batch_1") for end in ("", "_low", "_high")),
    "batch_size",
    "peak_memory_bytes",
    "gpu_allocated_bytes",
    "gpu_reserved_bytes",
    "gpu_process_bytes",
    "energy_j_per_image",
    "energy_source",
    "timed_kernels",
    "compile_s",
    "load_s",
    "other_cpu_pct",
    "other_gpu_processes",
    "disturbed",
)
TRIES = 2  # timings of a model at most, if other processes disturb the first
THIRDS = ("low", "middle", "high")  # parts of the noise levels of the denoising loss, as in the columns' names


def profile(
    path: Path,
    settings: Mapping[str, Any],
    device: torch.device,
    baseline: Path | None = None,
    images: Path | None = None,
    guide: Path | None = None,
) -> dict[str, Any]:
    """Measure the model in `path` on `device`.

    If memory runs out, everything is measured again with half the batch, once, and `batch_size` says so. If it runs
    out again, the profile fails and contains only the sizes of the file.

    Args:
        settings: `batch_size` of the sampling run, `repeats` and `warmup` runs of each measurement, `seed`. Without
            repeats, the columns of time and memory are null.
        baseline: model whose speed is compared, interleaved; comparing the model with itself shows the noise.
        images: file of the data set, whose test images measure the denoising loss; None: no loss.
        guide: model of the sampler's `guide`. Times, memory and `macs_per_image` are of both networks; sizes, other
            counts and the loss are of the model in `path`.

    Returns:
        The profile's columns of the matrix (units in the names).
    """
    sizes = {"size_bytes": path.stat().st_size, "size_gzip_bytes": gzip_bytes(path)}
    batches = HalvingBatch(settings["batch_size"])
    try:
        return batches.run(lambda size: _measure(path, size, settings, device, baseline, images, guide)) | sizes
    except OutOfMemory as error:
        return {
            "status": "failed",
            "reason": memory_reason("sampling.batch_size", settings["batch_size"], error),
            **sizes,
        }


def _measure(
    path: Path,
    batch_size: int,
    settings: Mapping[str, Any],
    device: torch.device,
    baseline: Path | None,
    images: Path | None,
    guide: Path | None,
) -> dict[str, Any]:
    """Return a profile without the sizes of the file; raise OutOfMemory if `batch_size` images do not fit."""
    with tempfile.TemporaryDirectory() as empty:  # an empty cache, so that compiling takes as long as on a new machine
        start = time.perf_counter()
        loaded = load(path, device, empty, guide)
        synchronize(device)
        load_s = time.perf_counter() - start
        timed = dict.fromkeys(TIMED)
        if settings["repeats"]:
            timed = {"load_s": load_s, **_timed(loaded, batch_size, settings, device, baseline, empty)}
    params, nonzero = count_parameters(loaded.network)
    return {
        "status": loaded.settings["status"],
        "reason": loaded.settings["reason"],
        "params": params,
        "params_nonzero": nonzero,
        "macs": count_macs(loaded),
        "macs_per_image": count_macs_per_image(loaded, settings["seed"]),
        **timed,
        "output_error": loaded.settings.get("output_error"),
        **_denoising(loaded, images, batch_size, device),
    }


def _timed(
    loaded: LoadedModel,
    batch_size: int,
    settings: Mapping[str, Any],
    device: torch.device,
    baseline: Path | None,
    cache: str,
) -> dict[str, Any]:
    """Return time, memory and energy of a sampling run: the columns TIMED except `load_s`."""
    nvml, on_gpu = open_device(device), device.type == "cuda"
    with autotuned_kernels():
        compile_s = loaded.prepare(batch_size)
        if on_gpu:
            sample_at_once(loaded, batch_size, settings["seed"])  # kernels that autotuning tries take memory, too
        reset_peak_memory(device)
        sample_at_once(loaded, batch_size, settings["seed"])
        memory = peak_memory(device, nvml)  # before loading a second model
        other = load(baseline, device, cache) if baseline else None
        rounds = (settings["repeats"], settings["warmup"], settings["seed"], device, nvml)
        batch = _least_disturbed(lambda: time_interleaved(loaded, other, batch_size, *rounds))
        single = _least_disturbed(lambda: time_interleaved(loaded, other, 1, *rounds))
        energy = _energy(loaded, batch_size, settings["seed"], nvml if on_gpu else open_rapl())
        kernels = kernels_of(device)
    others_pct = _others_pct(batch.contention, single.contention)
    gpu_processes = most((batch.gpu_processes, single.gpu_processes))
    return {
        "inference_ms_per_image": batch.median(),
        "inference_ms_per_image_iqr": batch.spread(),
        "inference_ms_per_image_batch_1": single.median(),
        "inference_ms_per_image_batch_1_iqr": single.spread(),
        **_speedups(batch.speedups(), "speedup"),
        **_speedups(single.speedups(), "speedup_batch_1"),
        "batch_size": batch_size,
        **memory,
        **energy,
        "timed_kernels": kernels,
        "compile_s": compile_s,
        "other_cpu_pct": others_pct,
        "other_gpu_processes": gpu_processes,
        "disturbed": is_disturbed(others_pct, gpu_processes, device),
    }


def is_disturbed(others_pct: float | None, gpu_processes: int | None, device: torch.device) -> bool | None:
    """Return whether times do not count, for another process took cores or was on the GPU; None: unknown."""
    cores = None if others_pct is None else others_pct > TOLERATED_PCT
    gpu = (None if gpu_processes is None else gpu_processes > 0) if device.type == "cuda" else False
    return True if cores or gpu else None if None in (cores, gpu) else False


def _energy(loaded: LoadedModel, batch_size: int, seed: int, counter: Counter | None) -> dict[str, float | str | None]:
    joules = None
    if counter is not None:
        joules = joules_per_image(counter, lambda: sample_at_once(loaded, batch_size, seed), batch_size)
    return {"energy_j_per_image": joules, "energy_source": counter.source if counter and joules else None}


def _others_pct(batch: Contention | None, single: Contention | None) -> float | None:
    """Return the larger share that others took of the two timings, so that neither hides what disturbed the other.

    One that is too short to tell counts with the other. None: unknown.
    """
    if batch is None or single is None:
        return None
    known = [each.percent for each in (batch, single, batch + single) if each.percent is not None]
    return max(known, default=None)


def _least_disturbed(run: Callable[[], Latencies]) -> Latencies:
    """Time again while others disturb it, TRIES times at most; return the least disturbed run, whatever its times."""
    runs = [run()]
    while len(runs) < TRIES and (own := runs[-1].contention) and own.disturbs:
        runs.append(run())
    return min(runs, key=lambda run: run.contention.taken_s / run.contention.needed_s if run.contention else 0.0)


def _denoising(
    loaded: LoadedModel, images: Path | None, batch_size: int, device: torch.device
) -> dict[str, float | None]:
    """Return the mean denoising loss on test images, over all noise levels and over thirds of them, as columns.

    Null without images, for a failed training, and for infinite or NaN losses. The images are read here, after time
    and memory of sampling have been measured.
    """
    names = ["denoising_loss", *(f"denoising_loss_{third}" for third in THIRDS)]
    if images is None or loaded.settings["status"] != "ok":
        return dict.fromkeys(names)
    data, own = image_set.read(images), loaded.settings["dataset"]
    if (data.dataset, list(data.classes)) != (own["name"], list(own["classes"])):
        raise UserError(
            f"{images} holds images of {data.dataset}, but the model was trained on {own['name']}: pass --images of "
            f"{own['name']}"
        )
    network = loaded.denoiser.network
    sizes = network.sizes if isinstance(network, EngineNetwork) else []  # smaller batches would be padded to these
    precision, size = loaded.settings["sampler"]["precision"], max([*sizes, batch_size])
    inputs = (data.test_images, data.test_labels, loaded.settings["model"])
    losses = denoising_losses(loaded.denoiser, *inputs, device, precision, size)
    third = len(losses) // len(THIRDS)
    parts = [losses, *(losses[start : start + third] for start in range(0, len(losses), third))]
    means = [math.fsum(part) / len(part) if all(map(math.isfinite, part)) else None for part in parts]
    return dict(zip(names, means, strict=True))


def _speedups(ratios: Sequence[float], name: str) -> dict[str, float | None]:
    """Return median and range of the rounds' ratios as columns; null without a baseline."""
    if not ratios:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: statistics.median(ratios), f"{name}_low": ratios[0], f"{name}_high": ratios[-1]}


def count_macs(loaded: LoadedModel) -> int:
    """Count the multiply-accumulates of one network evaluation of one image.

    They are those of the float network after channels and blocks were removed. Zeros count, since they are multiplied,
    too; quantization does not change the count.
    """
    return _count_macs(loaded, lambda network, x: network(x, torch.zeros(1)))


def count_macs_per_image(loaded: LoadedModel, seed: int) -> int | None:
    """Count the multiply-accumulates of sampling one image, the first of a run with this seed.

    All evaluations count, guidance's second passes included; those of a guide, and shallow ones of DeepCache, with
    their own arithmetic. None if sampling failed.
    """
    sampled = loaded.sample(1, seed=seed, batch_size=1)
    if not sampled.network_evaluations:
        return None
    macs = count_macs(loaded)
    whole = round((sampled.network_evaluations - sampled.shallow_evaluations - sampled.guide_evaluations) * macs)
    if loaded.guide:
        whole += round(sampled.guide_evaluations * count_macs(loaded.guide))
    if not sampled.shallow_evaluations:
        return whole

    def twice(network: nn.Module, x: torch.Tensor) -> None:
        caching = CachedUNet(network, 2, "euler")  # the first evaluation is whole, the second one shallow
        for _ in range(2):
            caching(x, torch.zeros(1))

    return whole + round(sampled.shallow_evaluations * (_count_macs(loaded, twice) - macs))


def _count_macs(loaded: LoadedModel, evaluate: Callable[[nn.Module, torch.Tensor], Any]) -> int:
    model = loaded.settings["model"]
    network = build_on_meta(model, loaded.settings["training"]["groups"])
    with torch.device("meta"):
        restore_shapes(network, loaded.settings["structure"])
    network.to_empty(device="cpu")  # operators of the meta device import torch's compiler, which takes a second
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.zero_()
    x = torch.zeros(1, model["channels"], model["image_size"], model["image_size"])
    return arithmetic.count_macs(network, lambda network: evaluate(network, x))


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what earlier work reserved
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak resident set size (man 5 proc)


def peak_memory(device: torch.device, nvml: Nvml | None) -> dict[str, int | None]:
    """Return the peaks since the last reset as columns; those of a GPU are null on a CPU."""
    if device.type != "cuda":
        gpu = dict.fromkeys(("gpu_allocated_bytes", "gpu_reserved_bytes", "gpu_process_bytes"))
        return {"peak_memory_bytes": _peak_resident_bytes(), **gpu}
    allocated = torch.cuda.max_memory_allocated(device) + _graph_bytes()
    return {
        "peak_memory_bytes": allocated,
        "gpu_allocated_bytes": allocated,
        "gpu_reserved_bytes": torch.cuda.max_memory_reserved(device),
        "gpu_process_bytes": nvml.process_bytes() if nvml else None,
    }


def _graph_bytes() -> int:
    """Return the memory that CUDA graphs keep for values between their kernels.

    A replay allocates nothing, so torch's peak lacks it; it lies in memory pools of their own, out of use.
    """
    segments = torch.cuda.memory_snapshot()
    return sum(each["total_size"] - each["allocated_size"] for each in segments if any(each["segment_pool_id"]))


def _peak_resident_bytes() -> int:
    """Return the peak resident memory of the process since the last reset."""
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def gzip_bytes(path: Path) -> int:
    """Return the size of the gzipped file, the paper's measure of size."""
    return len(gzip.compress(path.read_bytes(), compresslevel=GZIP_LEVEL))
