"""`slimdiff sample`: new images from a cell's model."""

import time
from pathlib import Path
from typing import Annotated

import typer

from slimdiff.catalog.samplers import SAMPLER_FACTS
from slimdiff.cli.cells import RESULTS, CellName, Results, find_model
from slimdiff.cli.config import Plugins, load_plugins
from slimdiff.cli.console import progress_bar
from slimdiff.errors import UserError


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
    guide: Annotated[
        str | None,
        typer.Option("--guide", help="Cell of the recipe that the sampler's guide names.", show_default=False),
    ] = None,
    class_names: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Name of a class to sample; repeatable, classes take turns.",
            show_default="all, in the training set's shares",
        ),
    ] = None,
    class_index: Annotated[
        list[str] | None,
        typer.Option("--class-index", help="Position of a class, from 0, or several: 0-3,7; repeatable."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="Older name of --class.", hidden=True)] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="Several names, such as cat,dog or 0-9.", hidden=True)
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

    from slimdiff.inference.classes import parse_labels, parse_positions
    from slimdiff.inference.images import class_sheet, contact_sheet, write_png
    from slimdiff.inference.model import load
    from slimdiff.runtime.devices import pick_device

    chosen = pick_device(gpu=int(device != "cpu"), threads=torch.get_num_threads())
    if device == "cuda" and chosen.type != "cuda":
        raise UserError("--device cuda: torch finds no CUDA device; omit --device to use the CPU")
    load_plugins(plugin)
    loaded = load(model, chosen, guide=None if guide is None else find_model(guide, results))
    own = loaded.settings["sampler"]["method"]
    if steps is None and sampler in SAMPLER_FACTS.keys() - {own} and SAMPLER_FACTS[sampler].takes_steps:
        raise UserError(f"--sampler {sampler} needs --steps: the cell's number is for {own}")
    classes = loaded.settings["dataset"]["classes"]
    names, older = class_names or [], [*(label or ()), *(() if labels is None else parse_labels(labels, classes))]
    positions = [position for text in class_index or () for position in parse_positions(text, classes)]
    start = time.perf_counter()
    with progress_bar(f"sampling {n} images on {chosen.type}") as progress:
        sampled = loaded.sample(
            n,
            seed=seed,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            labels=older,
            progress=progress,
            classes=names,
            class_index=positions,
        )
    seconds = time.perf_counter() - start
    if len(sampled.images):
        # In the order that they were named in; without, in the data set's.
        found = [] if sampled.labels is None else list(dict.fromkeys(sampled.labels.tolist()))
        columns = found if names or positions or older else sorted(found)
        if sampled.labels is None or len(columns) == 1:
            sheet = contact_sheet(sampled.images, round(n**0.5))
        else:
            sheet = class_sheet(sampled.images, sampled.labels, columns)
        write_png(out, sheet)
    if sampled.reason:
        raise UserError(f"{model}: {sampled.reason}" + (f"; the images are in {out}" if len(sampled.images) else ""))
    evaluations = f"{sampled.network_evaluations:g} network evaluations each"
    print(f"{out}: {n} images on {chosen.type} in {seconds:.1f} s, {evaluations}")
