"""The measurements of benchmarks/gpu.sh, one for each process: python benchmarks/_gpu_parts.py NAME --out FILE [--dry].

Each writes a flat table into FILE after every line that it has measured, so that a part that is cut off loses one line.
--dry measures tiny networks on a CPU, without a compiler.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from _published import PublishedUNet
from torch import nn

from slimdiff.catalog.engines import ENGINES, Runtime
from slimdiff.checkpoints.model import write_model
from slimdiff.compression.arithmetic import count_macs
from slimdiff.compression.linear_quant import import_bitsandbytes, quantize_linears
from slimdiff.config.lookup import sampler_options
from slimdiff.config.resolve import train_settings
from slimdiff.data import sources
from slimdiff.data.image_set import ImageSet
from slimdiff.data.sources import DataSettings
from slimdiff.errors import UserError
from slimdiff.io.files import read_json, write_json
from slimdiff.io.text import one_line
from slimdiff.models.registry import build_network
from slimdiff.models.unet import UNetSettings
from slimdiff.profiling.nvml import open_device
from slimdiff.profiling.profile import profile
from slimdiff.runtime.devices import (
    autocast,
    autotuned_kernels,
    compile_mode,
    describe_device,
    deterministic_operations,
    pick_device,
    synchronize,
)
from slimdiff.runtime.memory import is_oom
from slimdiff.training.loop import train

ROOT = Path(__file__).parents[1]
SHOWN = (  # columns of a profile
    *("inference_ms_per_image", "inference_ms_per_image_batch_1", "speedup", "speedup_batch_1", "compile_s"),
    *("gpu_allocated_bytes", "gpu_reserved_bytes", "gpu_process_bytes", "energy_j_per_image", "disturbed"),
)


class Results:
    """A table in a file, written after each line."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, dict[str, dict[str, Any]]()

    def add(self, line: str, **values: Any) -> None:
        """Add values to a line."""
        self.lines.setdefault(line, {}).update(values)
        write_json(self.path, self.lines)
        print(line, values, flush=True)


def config_of(*names: str) -> dict[str, Any]:
    """Return the config of these files, each over the ones before."""
    from snakemake.utils import update_config  # takes a second, which not every part needs

    config: dict[str, Any] = {}
    for name in names:
        update_config(config, yaml.safe_load((ROOT / name).read_text(encoding="utf-8")))
    return config


def machine(results: Results, device: torch.device, dry: bool) -> None:
    """Describe the device; exit with an error where there is none."""
    if not dry and device.type != "cuda":
        raise SystemExit("error: torch finds no CUDA device; `bash benchmarks/gpu.sh --dry` runs on a CPU")
    cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if device.type == "cuda" else {}
    nvml = open_device(device)
    others = {"other_gpu_processes": nvml.other_processes()} if nvml else {}
    results.add("machine", **describe_device(device, torch.get_num_threads()), **cuda, **others)


@dataclass(frozen=True)
class Variant:
    """A way to compute the U-Net."""

    network: str  # published | ours
    precision: str
    how: str = "eager"  # eager | graph: of eager kernels | compiled: as training.compile and engine torch-compile do
    autotuned: bool = True


VARIANTS = {  # in order of worth: compiling takes half a minute
    "ours, bfloat16": Variant("ours", "bfloat16"),
    "published, float32": Variant("published", "float32"),
    "published, bfloat16": Variant("published", "bfloat16"),
    "ours, float32": Variant("ours", "float32"),
    "ours, bfloat16, deterministic": Variant("ours", "bfloat16", autotuned=False),
    "ours, bfloat16, CUDA graph": Variant("ours", "bfloat16", "graph"),
    "ours, bfloat16, compiled": Variant("ours", "bfloat16", "compiled"),
}


def unet(results: Results, device: torch.device, dry: bool) -> None:
    """Images per second forward and in a training step, and their share of the device's measured peak in bfloat16.

    Both networks have the same weights. A step counts as three forward passes, the optimizer not at all.
    """
    size, base, batches, seconds = (16, 8, (2,), 0.0) if dry else (64, 64, (16, 64), 0.7)
    model = {"family": "ddpm", "image_size": size, "channels": 3, "network": asdict(UNetSettings(base=base))}
    inputs = torch.randn(1, 3, size, size), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    flop = 2 * count_macs(build_network(model).eval(), lambda network: network(*inputs))
    peak = matmul_peak(device, 256 if dry else 8192)
    results.add("device", bf16_peak_tflops=peak / 1e12, gflop_per_image=flop / 1e9)
    failed = False
    for batch in batches:
        for name, variant in VARIANTS.items():
            network = PublishedUNet(c=base) if variant.network == "published" else build_network(model)
            rates: dict[str, Any] = {}
            try:
                with autotuned_kernels() if variant.autotuned else deterministic_operations(device):
                    for task, passes in (("forward", 1), ("step", 3)):
                        rate = unet_rate(network, variant, task, batch, size, device, seconds, dry)
                        rates |= {f"{task}_images_per_s": rate, f"{task}_share_of_peak": rate * passes * flop / peak}
            except Exception as error:  # the other lines are worth having
                rates["note"] = "out of memory" if is_oom(error) else f"{type(error).__name__}: {one_line(error)[:200]}"
                failed = failed or not is_oom(error)
            results.add(f"{name}, batch {batch}", **rates)
    if failed:
        raise SystemExit("error: a way to compute the network failed; its line has the reason")


def unet_rate(
    network: nn.Module,
    variant: Variant,
    task: str,
    batch: int,
    size: int,
    device: torch.device,
    seconds: float,
    dry: bool,
) -> float:
    """Return the images per second of a forward pass or of a training step."""
    training = task == "step"
    network = network.to(device).train(training).requires_grad_(training)
    x, t, labels = torch.randn(batch, 3, size, size), torch.arange(batch) * 9.0, torch.arange(batch) % 10
    inputs = tuple(part.to(device) for part in (x, t, labels))
    computed: Any = network
    if variant.how == "compiled":
        options: dict[str, Any] = {"backend": "eager"} if dry else {"mode": compile_mode(device)}
        computed = torch.compile(network, dynamic=False, **options)
    elif variant.how == "graph" and not dry:
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):  # which a graph does not support
            computed = torch.cuda.make_graphed_callables(network, inputs)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True) if training else None

    def work() -> None:
        with torch.set_grad_enabled(training), autocast(device, variant.precision):
            loss = (computed(*inputs).float() - inputs[0]).square().mean()
        if optimizer is not None:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return rate_of(work, batch, device, seconds)


def rate_of(work: Callable[[], object], images: int, device: torch.device, seconds: float) -> float:
    """Return the images per second of calling `work`, which handles `images`, for `seconds`, after a warm-up."""
    warm, queued = (4, 5) if device.type == "cuda" else (1, 1)  # a graph is recorded in the second or third call
    for _ in range(warm):
        work()
    synchronize(device)
    start, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - start < seconds:
        for _ in range(queued):  # without waiting, as in a training
            work()
        calls += queued
        synchronize(device)
    return calls * images / (time.perf_counter() - start)


def matmul_peak(device: torch.device, size: int) -> float:
    """Return the operations per second of a product of bfloat16 matrices: the best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return max(rate_of(partial(torch.mm, a, b), 2 * size**3, device, 0.0) for _ in range(10))


def bitsandbytes(results: Results, device: torch.device, dry: bool) -> None:
    """Relative differences of the GPU's kernels from the CPU's, and their time in that of a float32 layer."""
    tokens, width = (8, 64) if dry else (4096, 256)
    x = torch.randn(tokens, width)
    for bits in ("8bit", "4bit", "8bit-mixed"):
        plain = nn.Sequential(nn.Linear(width, 3 * width)).requires_grad_(False)
        network = nn.Sequential(nn.Linear(width, 3 * width)).requires_grad_(False)
        network.load_state_dict(plain.state_dict())
        quantize_linears(network, bits)
        expected = network(x)
        if bits == "8bit-mixed":  # its layer, against which the emulation is held
            theirs = import_bitsandbytes().nn.Linear8bitLt(width, 3 * width).eval().requires_grad_(False)
            theirs.load_state_dict(plain[0].state_dict())
            network = nn.Sequential(theirs)
        network, plain = network.to(device), plain.to(device)
        difference = (network(x.to(device)).cpu().float() - expected).norm() / expected.norm()
        rates = [rate_of(partial(each, x.to(device)), tokens, device, 0.1) for each in (network, plain)]
        results.add(bits, relative_difference=float(difference), time_over_float32=rates[1] / rates[0])


def training(results: Results, device: torch.device, dry: bool) -> None:
    """Train the DDPM of config/paper-short.yaml, as far as time allows: SIGTERM saves it and ends here."""
    config = config_of("config.yaml", "config/paper-short.yaml")
    settings = train_settings(config, "mnist", "ddpm", "plain", 0)
    if dry:
        settings["model"] |= {"image_size": 16, "network": settings["model"]["network"] | {"base": 8}}
        settings["training"] |= {"epochs": 1}
    images = random_images(32) if dry else mnist_images(config)
    with tempfile.TemporaryDirectory() as folder:
        try:
            record: Mapping[str, Any] = train(images, settings, Path(folder), device, "gpu.sh").record
        except SystemExit:  # the end of this part's time
            status = read_json(Path(folder) / "status.json")
            record = {"steps": status["step"], "images_per_s": status["images_per_s"], "cut_off": True}
    facts: dict[str, Any] = {"images": images.source, "steps": record["steps"], "cut_off": record.get("cut_off", False)}
    facts["images_per_s"] = record.get("images_per_s") or record["epochs"][-1]["images_per_s"]
    facts["minutes_to_the_end"] = 60_000 * settings["training"]["epochs"] / facts["images_per_s"] / 60
    if device.type == "cuda":
        facts["gpu_allocated_bytes"] = torch.cuda.max_memory_allocated(device)
    results.add("ddpm", **facts)


def mnist_images(config: Mapping[str, Any]) -> ImageSet:
    """Return MNIST, or as many random images where it is out of reach; `source` says which."""
    try:
        return sources.load(DataSettings("mnist", "mnist"), ROOT / config["data_dir"])
    except (UserError, OSError) as error:
        print(error, flush=True)
        return random_images(60_000)


def random_images(n: int) -> ImageSet:
    """Return `n` random images in place of MNIST's."""
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=draw), torch.arange(n) % 10
    return ImageSet(images, labels, images[:128], labels[:128], "mnist", tuple("0123456789"), "random")


def engines(results: Results, device: torch.device, dry: bool) -> None:
    """Profile an untrained default network in each engine that the device has; speedups are over torch in fp32."""
    config = config_of("config.yaml")
    images = random_images(256)
    timing = {"batch_size": 2, "repeats": 1, "warmup": 0} if dry else {"batch_size": 200, "repeats": 3, "warmup": 1}
    runtimes = [
        Runtime(engine, precision)
        for engine, facts in ENGINES.items()
        for precision in facts.precisions
        if "cuda" in facts.devices and not (dry and engine != "torch")
    ]
    for family in ("ncsn",) if dry else ("ncsn", "ddpm"):
        with tempfile.TemporaryDirectory() as folder:
            baseline = Path(folder) / "torch-fp32.safetensors"
            for runtime in runtimes:
                path = Path(folder) / f"{runtime.engine}-{runtime.precision}.safetensors"
                write_cell(path, config, family, runtime, images)
                found = profile(path, {**timing, "seed": 0}, device, baseline)
                shown = {name: found[name] for name in SHOWN if found.get(name) is not None}
                note = {"note": found["reason"]} if found["status"] != "ok" else {}
                results.add(f"{family}, {runtime.engine} {runtime.precision}", **shown, **note)


def write_cell(path: Path, config: Mapping[str, Any], family: str, runtime: Runtime, images: ImageSet) -> None:
    """Write the file of an untrained cell; loading casts its weights to the engine's precision."""
    settings = train_settings(config, "mnist", family, "plain", 0)
    header = {
        "model": settings["model"],
        "training": settings["training"],
        "sampler": {**sampler_options(config, family, "baseline"), "precision": "float32"},
        "structure": [],
        "dataset": {
            **{"name": "mnist", "channels": 1, "height": 28, "width": 28, "saturated": 0.8},
            **{"classes": list(images.classes), "class_counts": images.train_labels.bincount().tolist()},
        },
        "seed": 0,
        "status": "ok",
        "reason": "",
        "engine": runtime.engine,
        "precision": runtime.precision,
    }
    write_model(path, build_network(settings["model"], 1, 0), header)


PARTS = {part.__name__: part for part in (machine, unet, bitsandbytes, training, engines)}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("part", choices=PARTS)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--dry", action="store_true")
    given = arguments.parse_args()
    chosen = pick_device(0, 1) if given.dry else pick_device(1, min(8, os.cpu_count() or 1))
    PARTS[given.part](Results(given.out), chosen, given.dry)
