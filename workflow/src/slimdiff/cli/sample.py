"""`slimdiff sample`: new images from a cell's model."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from slimdiff.catalog.samplers import SAMPLER_FACTS
from slimdiff.cli.cells import RESULTS, CellName, Results, find_model
from slimdiff.cli.config import Plugins, load_plugins
from slimdiff.cli.console import progress_bar
from slimdiff.errors import UserError

RANGE = re.compile(r"(\d+)-(\d+)")


def sample(
    cell: CellName,
    out: Annotated[Path, typer.Option("--out", help="PNG file to write.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of images.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Image i depends on the seed and i only.")] = 0,
    sampler: Annotated[str | None, typer.Option("--sampler", help="Sampler.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Number of steps.", show_default=False)] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", min=0.0, help="Scale of classifier-free guidance.", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", help="Class to sample, by name or number; repeatable, classes take turns.", show_default="all"
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="Classes to sample: 0-9, 1,3,5 or cat,dog; after those of --label."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.", show_default="cuda if present")] = None,
    plugin: Plugins = None,
    results: Results = RESULTS,
) -> None:
    """Sample new images from a cell's model into one PNG.

    A class-conditional model gets one column per class; other models get a square grid.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out} must end in .png")
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device is {device!r}; allowed: cpu, cuda")
    model = find_model(cell, results)

    import torch

    from slimdiff.inference.images import contact_sheet, write_png
    from slimdiff.inference.model import load
    from slimdiff.runtime.devices import pick_device

    chosen = pick_device(gpu=int(device != "cpu"), threads=torch.get_num_threads())
    if device == "cuda" and chosen.type != "cuda":
        raise UserError("--device cuda: torch finds no CUDA device; omit --device to use the CPU")
    load_plugins(plugin)
    loaded = load(model, chosen)
    own = loaded.settings["sampler"]["method"]
    if steps is None and sampler in SAMPLER_FACTS.keys() - {own} and SAMPLER_FACTS[sampler].takes_steps:
        raise UserError(f"--sampler {sampler} needs --steps: the cell's number is for {own}")
    classes = loaded.settings["dataset"]["classes"]
    requested = [*find_labels(label or (), classes), *parse_labels(labels or "", classes)] or None
    start = time.perf_counter()
    with progress_bar(f"sampling {n} images on {chosen.type}") as progress:
        sampled = loaded.sample(
            n, seed=seed, sampler=sampler, steps=steps, guidance=guidance, labels=requested, progress=progress
        )
    seconds = time.perf_counter() - start
    if len(sampled.images):
        turns = len(requested) if requested else loaded.classes
        write_png(out, contact_sheet(sampled.images, columns=min(n, turns) if turns > 1 else round(n**0.5)))
    if sampled.reason:
        raise UserError(f"{model}: {sampled.reason}" + (f"; the images are in {out}" if len(sampled.images) else ""))
    evaluations = f"{sampled.network_evaluations:g} network evaluations each"
    print(f"{out}: {n} images on {chosen.type} in {seconds:.1f} s, {evaluations}")


def parse_labels(text: str, classes: Sequence[str]) -> list[int]:
    """Return the indices of the classes in a list such as "0-4,7" or "cat,dog"; a name may hold a comma or a dash.

    Raises:
        UserError: a class is unknown, or a range runs backwards.
    """
    if text in classes:
        return [classes.index(text)]
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = RANGE.fullmatch(part)
        if match is None or part in classes:
            names.append(part)
            continue
        first, last = int(match[1]), int(match[2])
        if first > last:
            raise UserError(f"--labels {part} runs backwards; write {last}-{first}")
        names += map(str, range(first, min(last, first + len(classes)) + 1))
    return find_labels(names, classes, "--labels")


def find_labels(names: Sequence[str], classes: Sequence[str], option: str = "--label") -> list[int]:
    """Return the indices of the classes given by name or number.

    Raises:
        UserError: a class is unknown.
    """
    numbers = {**{str(index): index for index in range(len(classes))}, **{name: i for i, name in enumerate(classes)}}
    for label in names:
        if label not in numbers:
            allowed = ", ".join(f"{index} {name}" if name != str(index) else name for index, name in enumerate(classes))
            raise UserError(f"{option} {label} is not a class of this model; allowed: {allowed}")
    return [numbers[label] for label in names]
