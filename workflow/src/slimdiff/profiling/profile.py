"""What a model costs: parameters, arithmetic, bytes, time and memory of a full sampling run.

Latency is the wall time of sampling a whole batch divided by its images: from drawing the noise to pixels on the CPU.
A speedup is the ratio of two latencies measured in turns (slimdiff.profiling.latency).
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
from torch.utils.flop_counter import FlopCounterMode

from slimdiff.compression.linear_quant import dense_weight, is_quantized
from slimdiff.compression.restore import restore_shapes
from slimdiff.data import image_set
from slimdiff.engines.network import EngineNetwork
from slimdiff.errors import UserError
from slimdiff.inference import model as checkpoint
from slimdiff.inference.deepcache import shallow_pass
from slimdiff.inference.model import LoadedModel
from slimdiff.models.registry import build_on_meta
from slimdiff.models.unet import UNet
from slimdiff.profiling.latency import sample_at_once, time_interleaved
from slimdiff.runtime.devices import synchronize
from slimdiff.runtime.memory import HalvingBatch, OutOfMemory
from slimdiff.runtime.memory import reason as memory_reason
from slimdiff.training.losses import denoising_losses

GZIP_LEVEL = 6  # gzip's own default, as the command line tool has it
TIMED = (  # columns that are null where nothing is timed
    "inference_ms_per_image",
    "inference_ms_per_image_iqr",
    "inference_ms_per_image_batch_1",
    "inference_ms_per_image_batch_1_iqr",
    *(f"{name}{end}" for name in ("speedup", "speedup_batch_1") for end in ("", "_low", "_high")),
    "batch_size",
    "peak_memory_bytes",
    "compile_s",
    "load_s",
)
THIRDS = ("low", "middle", "high")  # of the noise levels that losses are measured at, as columns name them


def profile(
    path: Path,
    settings: Mapping[str, Any],
    device: torch.device,
    reference: Path | None = None,
    images: Path | None = None,
) -> dict[str, Any]:
    """Measure the model in `path` on `device`.

    Where memory runs out everything is measured again with half the batch, once, and `batch_size` says so. Where it
    runs out again the profile has failed, and the size of the file is all that it holds.

    Args:
        settings: `batch_size` of the sampling run, `repeats` and `warmup` runs of each measurement, `seed`. With no
            repeats neither time nor memory is measured, and their columns are null.
        reference: model that this one's speed is held against, in turns; the model itself shows what is noise.
        images: the data set's, whose test images the denoising loss is measured on; None: it is not measured.

    Returns:
        The profile's columns of the matrix (units in the names).
    """
    sizes = {"size_bytes": path.stat().st_size, "size_gzip_bytes": gzip_bytes(path)}
    batches = HalvingBatch(settings["batch_size"])
    try:
        return batches.run(lambda size: _measure(path, size, settings, device, reference, images)) | sizes
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
    reference: Path | None,
    images: Path | None,
) -> dict[str, Any]:
    """A profile without the sizes of the file; raises OutOfMemory where `batch_size` images are too many at once."""
    with tempfile.TemporaryDirectory() as empty:  # so that compiling is timed as on a new machine
        start = time.perf_counter()
        loaded = checkpoint.load(path, device, empty)
        synchronize(device)
        load_s = time.perf_counter() - start
        timed = dict.fromkeys(TIMED)
        if settings["repeats"]:
            timed = {"load_s": load_s, **_timed(loaded, batch_size, settings, device, reference, empty)}
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
    reference: Path | None,
    cache: str,
) -> dict[str, Any]:
    """What a sampling run takes, in time and memory: the columns TIMED but for `load_s`."""
    compile_s = loaded.prepare(batch_size)
    reset_peak_memory(device)
    sample_at_once(loaded, batch_size, settings["seed"])
    memory = peak_memory_bytes(device)  # before there is a second model
    other = checkpoint.load(reference, device, cache) if reference else None
    rounds = (settings["repeats"], settings["warmup"], settings["seed"], device)
    whole = time_interleaved(loaded, other, batch_size, *rounds)
    single = time_interleaved(loaded, other, 1, *rounds)
    return {
        "inference_ms_per_image": whole.median(),
        "inference_ms_per_image_iqr": whole.spread(),
        "inference_ms_per_image_batch_1": single.median(),
        "inference_ms_per_image_batch_1_iqr": single.spread(),
        **_speedups(whole.speedups(), "speedup"),
        **_speedups(single.speedups(), "speedup_batch_1"),
        "batch_size": batch_size,
        "peak_memory_bytes": memory,
        "compile_s": compile_s,
    }


def _denoising(
    loaded: LoadedModel, images: Path | None, batch_size: int, device: torch.device
) -> dict[str, float | None]:
    """The mean denoising loss on test images, over all noise levels and over thirds of them, as columns.

    Null where no images are given, where the training failed, and where a loss is no finite number. The images are read
    here, when time and memory of sampling have been measured.
    """
    names = ["denoising_loss", *(f"denoising_loss_{third}" for third in THIRDS)]
    if images is None or loaded.settings["status"] != "ok":
        return dict.fromkeys(names)
    found, own = image_set.read(images), loaded.settings["dataset"]
    if (found.dataset, list(found.classes)) != (own["name"], list(own["classes"])):
        raise UserError(f"{images} holds images of {found.dataset}, but the model is of {own['name']}: name its images")
    network = loaded.denoiser.network
    sizes = network.sizes if isinstance(network, EngineNetwork) else []  # smaller batches would be filled up to these
    precision, size = loaded.settings["sampler"]["precision"], max([*sizes, batch_size])
    given = (found.test_images, found.test_labels, loaded.settings["model"])
    losses = denoising_losses(loaded.denoiser, *given, device, precision, size)
    third = len(losses) // len(THIRDS)
    parts = [losses, *(losses[start : start + third] for start in range(0, len(losses), third))]
    means = [math.fsum(part) / len(part) if all(map(math.isfinite, part)) else None for part in parts]
    return dict(zip(names, means, strict=True))


def _speedups(ratios: Sequence[float], name: str) -> dict[str, float | None]:
    """Median and range of the rounds' ratios as columns; null where there was no reference."""
    if not ratios:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: statistics.median(ratios), f"{name}_low": ratios[0], f"{name}_high": ratios[-1]}


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Parameters and non-zero ones of the network that the layers stand for: quantized weights count as the floats
    that they encode, and scales, code books and fixed frequencies are no parameters."""
    if isinstance(network, EngineNetwork):  # it holds a graph, and knows what that was made of
        return network.source_params
    params = nonzero = 0
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            quantized = is_quantized(module) and name == "weight"
            values = dense_weight(module) if quantized else parameter
            params += values.numel()
            nonzero += int(torch.count_nonzero(values))
    return params, nonzero


def count_macs(loaded: LoadedModel) -> int:
    """Multiply-accumulates of one network evaluation of one image, counted by torch's FlopCounterMode.

    On the float network without weights: as narrow as the pruning of channels left it, but with its zeros, which are
    multiplied like any number, and before quantizing, which does not change the arithmetic.
    """
    return _count_macs(loaded, lambda network, x: network(x, torch.empty(1)))


def count_macs_per_image(loaded: LoadedModel, seed: int) -> int | None:
    """Multiply-accumulates of drawing one image, the first of a run with this seed: those of all its evaluations,
    guidance's second passes included. Evaluations that use features again count what they compute. None: it failed."""
    drawn = loaded.sample(1, seed=seed, batch_size=1)
    if not drawn.network_evaluations:
        return None
    whole = round((drawn.network_evaluations - drawn.shallow_evaluations) * count_macs(loaded))
    if not drawn.shallow_evaluations:
        return whole

    def shallow(network: nn.Module, x: torch.Tensor) -> None:
        assert isinstance(network, UNet)
        width = network.up3.conv1.conv1.in_channels - network.inc.conv2.out_channels
        features = torch.empty(1, width, x.shape[2] // 2, x.shape[3] // 2)
        shallow_pass(network, x, torch.empty(1), None, features)

    return whole + round(drawn.shallow_evaluations * _count_macs(loaded, shallow))


def _count_macs(loaded: LoadedModel, evaluate: Callable[[nn.Module, torch.Tensor], Any]) -> int:
    model = loaded.settings["model"]
    network = build_on_meta(model, loaded.settings["training"]["groups"])
    with torch.device("meta"):
        restore_shapes(network, loaded.settings["structure"])
        x = torch.empty(1, model["channels"], model["image_size"], model["image_size"])
        with FlopCounterMode(display=False) as counter:
            evaluate(network, x)
    return counter.get_total_flops() // 2


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
    """Size of the file after gzip: the paper's measure of size."""
    return len(gzip.compress(path.read_bytes(), compresslevel=GZIP_LEVEL))
