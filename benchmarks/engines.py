"""Every engine and precision against eager torch in float32: one evaluation of the two default networks.

Measurements are interleaved. With one thread the time is CPU time, since waiting for a busy core distorts wall time;
with all cores it is wall time. Weights and images are random unless --ncsn and --ddpm name trained cells'
model.safetensors and --images their data: errors depend on them, speed does not. Times are milliseconds per image;
`output_error` is ‖y − y32‖ / ‖y32‖; `file_share` compares the bytes of all tensors.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from _record import interleaved, keep
from torch import nn

from slimdiff.catalog.engines import ENGINES, Runtime, missing_modules
from slimdiff.checkpoints import weights
from slimdiff.checkpoints.model import read_model
from slimdiff.config.lookup import sampler_options
from slimdiff.config.resolve import train_settings
from slimdiff.data import image_set
from slimdiff.data.image_set import ImageSet
from slimdiff.engines.lowering import lower_network, start_graph, start_network
from slimdiff.engines.network import Placement
from slimdiff.models.registry import build_network
from slimdiff.runtime.devices import pick_device

ROOT = Path(__file__).parents[1]
BATCHES, ROUNDS = (1, 32), 7
CPU = torch.device("cpu")


def header_of(family: str) -> dict[str, Any]:
    """Return the header of an untrained checkpoint of the default network."""
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    settings = train_settings(config, "mnist", family, "plain", 0)
    sampler = {**sampler_options(config, family, "baseline"), "precision": "float32"}
    return {
        "model": settings["model"],
        "training": settings["training"],
        "sampler": sampler,
        "structure": [],
        "seed": 0,
    }


def made_up_images() -> ImageSet:
    """Return random images."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8, generator=draw)
    labels = torch.arange(64) % 10
    return ImageSet(images, labels, images, labels, "noise", tuple("0123456789"), "made up")


def call(network: nn.Module, header: dict[str, Any], batch: int, clock: Callable[[], float]) -> Callable[[], float]:
    """Return a function that evaluates the network once and returns milliseconds per image."""
    model, draw = header["model"], torch.Generator().manual_seed(1)
    x = torch.randn(batch, model["channels"], model["image_size"], model["image_size"], generator=draw)
    labels = (torch.arange(batch) % 10,) if model["network"].get("classes") else ()
    inputs = (x, torch.linspace(-1.0, 1.0, batch), *labels)

    def once() -> float:
        with torch.inference_mode():
            start = clock()
            network(*inputs)
            return (clock() - start) * 1000.0 / batch

    once()  # the first call selects kernels
    return once


def measure(family: str, given: Path | None, images: ImageSet, cache: Path, runtimes: list[Runtime]) -> dict[str, Any]:
    """Measure all `runtimes` of one network."""
    if given is None:
        header, network = header_of(family), build_network(header_of(family)["model"]).eval().requires_grad_(False)
    else:
        network, header = read_model(given)
        header["sampler"] = {**header["sampler"], "precision": "float32"}
        network = network.eval().requires_grad_(False)
    floats = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    cores = len(os.sched_getaffinity(0))
    found: dict[str, Any] = {}
    for runtime in runtimes:
        named = {**header, "engine": runtime.engine, "precision": runtime.precision}
        lowered = lower_network(network, named, images, Placement(CPU, cache))
        full = {**named, **lowered.header}
        entry: dict[str, Any] = {"output_error": lowered.header["output_error"]}
        entry["file_share"] = sum(t.numel() * t.element_size() for t in lowered.tensors.values()) / floats
        for threads, clock in {1: time.process_time, cores: time.perf_counter}.items():
            pick_device(0, threads)
            start = time.perf_counter()
            if "graph" in full:
                running = start_graph(full, lowered.tensors, Placement(CPU, cache))
            else:
                running = start_network(full, weights.rebuild(full, lowered.tensors), Placement(CPU, cache))
            entry[f"load_s, {threads} threads"] = time.perf_counter() - start
            for batch in BATCHES:
                entry[f"compile_s, batch {batch}, {threads} threads"] = running.prepare(batch)
                sides = call(running, header, batch, clock), call(network, header, batch, clock)
                entry[f"speed, batch {batch}, {threads} threads"] = interleaved(*sides, ROUNDS)
        found[f"{runtime.engine} {runtime.precision}"] = entry
        print(f"{family} {runtime.engine} {runtime.precision}: {_line(entry)}", flush=True)
    return found


def _line(entry: dict[str, Any]) -> str:
    ratios = (f"{name[7:]}: ×{value['ratio']:.2f}" for name, value in entry.items() if name.startswith("speed"))
    return f"error {entry['output_error']:.2g}, file {entry['file_share']:.2f}, " + "; ".join(ratios)


def main() -> None:
    """Measure the installed engines and name the skipped ones."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, required=True, help="JSON file that collects the benchmarks")
    arguments.add_argument("--ncsn", type=Path, help="model.safetensors of a trained score network")
    arguments.add_argument("--ddpm", type=Path, help="model.safetensors of a trained U-Net")
    arguments.add_argument("--images", type=Path, help="images.safetensors of the data set they were trained on")
    arguments.add_argument("--cache", type=Path, default=Path("results/state/engines"), help="of compilers")
    arguments.add_argument("--only", nargs="*", help="engines to measure; all by default")
    given = arguments.parse_args()
    runtimes = []
    for engine, facts in ENGINES.items():
        missing = missing_modules(engine)
        if missing:
            print(f"skipped {engine}, which needs {', '.join(missing)}")
        elif not given.only or engine in given.only:
            runtimes += [Runtime(engine, precision) for precision in facts.precisions]
    images = made_up_images() if given.images is None else image_set.read(given.images)
    for family in ("ncsn", "ddpm"):
        others = [runtime for runtime in runtimes if not runtime.is_eager_fp32]
        measured = measure(family, getattr(given, family), images, given.cache, others)
        keep(
            given.out, f"engines, {family}: torch fp32 / engine (ms per image)", measured, len(os.sched_getaffinity(0))
        )


if __name__ == "__main__":
    main()
