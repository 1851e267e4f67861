"""What a model costs: parameters, arithmetic, bytes, time and memory of a full sampling run.

Latency is the wall time of sampling a whole batch divided by its images: from drawing the noise to pixels on the CPU.
"""

import gzip
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slimdiff import checkpoint
from slimdiff.checkpoint import Loaded
from slimdiff.compression.linears import dense_weight
from slimdiff.devices import synchronize
from slimdiff.models.registry import build_network
from slimdiff.models.unet import UNet
from slimdiff.quietbnb import is_quantized
from slimdiff.reuse import outermost

GZIP_LEVEL = 6  # gzip's own default, as the command line tool has it


def profile(path: Path, settings: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Measure the model in `path` on `device`.

    Args:
        settings: `batch_size` of the sampling run, `repeats` and `warmup` runs of each measurement, `seed`.

    Returns:
        The profile's columns of the matrix (units in the names).
    """
    loaded = checkpoint.load(path, device)
    params, nonzero = count_parameters(loaded.network)
    batch_size = settings["batch_size"]
    reset_peak_memory(device)
    whole = latency_ms_per_image(loaded, batch_size, settings, device)
    memory = peak_memory_bytes(device)
    single = latency_ms_per_image(loaded, 1, settings, device)
    return {
        "status": loaded.settings["status"],
        "reason": loaded.settings["reason"],
        "params": params,
        "params_nonzero": nonzero,
        "macs": count_macs(loaded),
        "macs_per_image": count_macs_per_image(loaded, settings["seed"]),
        "size_bytes": path.stat().st_size,
        "size_gzip_bytes": gzip_bytes(path),
        "inference_ms_per_image": whole[0],
        "inference_ms_per_image_iqr": whole[1],
        "inference_ms_per_image_batch_1": single[0],
        "inference_ms_per_image_batch_1_iqr": single[1],
        "batch_size": batch_size,
        "peak_memory_bytes": memory,
        "compile_s": None,
    }


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Parameters and non-zero ones of the network that the layers stand for: quantized weights count as the floats
    that they encode, and scales, code books and fixed frequencies are no parameters."""
    params = nonzero = 0
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            quantized = is_quantized(module) and name == "weight"
            values = dense_weight(module) if quantized else parameter
            params += values.numel()
            nonzero += int(torch.count_nonzero(values))
    return params, nonzero


def count_macs(loaded: Loaded) -> int:
    """Multiply-accumulates of one network evaluation of one image, counted by torch's FlopCounterMode on the float
    network without weights (zeros are multiplied like any number, and quantizing does not change the arithmetic)."""
    return _count_macs(loaded, lambda network, x: network(x, torch.empty(1)))


def count_macs_per_image(loaded: Loaded, seed: int) -> int | None:
    """Multiply-accumulates of drawing one image, the first of a run with this seed: those of all its evaluations,
    guidance's second passes included. Evaluations that use features again count what they compute. None: it failed."""
    drawn = loaded.sample(1, seed=seed, batch_size=1)
    if not drawn.network_evaluations:
        return None
    whole = round((drawn.network_evaluations - drawn.reused_evaluations) * count_macs(loaded))
    if not drawn.reused_evaluations:
        return whole

    def shallow(network: nn.Module, x: torch.Tensor) -> None:
        assert isinstance(network, UNet)
        width = network.up3.conv1.conv1.in_channels - network.inc.conv2.out_channels
        features = torch.empty(1, width, x.shape[2] // 2, x.shape[3] // 2)
        outermost(network, x, torch.empty(1), None, features)

    return whole + round(drawn.reused_evaluations * _count_macs(loaded, shallow))


def _count_macs(loaded: Loaded, evaluate: Callable[[nn.Module, torch.Tensor], Any]) -> int:
    model = loaded.settings["model"]
    with torch.device("meta"):
        network = build_network(model, loaded.settings["training"]["groups"])
        x = torch.empty(1, model["channels"], model["image_size"], model["image_size"])
        with FlopCounterMode(display=False) as counter:
            evaluate(network, x)
    return counter.get_total_flops() // 2


def latency_ms_per_image(
    loaded: Loaded, batch_size: int, settings: Mapping[str, Any], device: torch.device
) -> tuple[float, float]:
    """Median and interquartile range of `repeats` sampling runs of one batch, after `warmup` runs that do not count."""
    times = []
    for run in range(settings["warmup"] + settings["repeats"]):
        synchronize(device)
        start = time.perf_counter()
        loaded.sample(batch_size, seed=settings["seed"], batch_size=batch_size)
        synchronize(device)
        if run >= settings["warmup"]:
            times.append((time.perf_counter() - start) * 1000.0 / batch_size)
    if len(times) < 2:
        return times[0], 0.0
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return median, high - low


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak resident set size, man 5 proc


def peak_memory_bytes(device: torch.device) -> int:
    """Peak since the last reset: allocated on a GPU; resident in the whole process, libraries included, on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def gzip_bytes(path: Path) -> int:
    """Size of the file after gzip: the report's measure of size."""
    return len(gzip.compress(path.read_bytes(), compresslevel=GZIP_LEVEL))
