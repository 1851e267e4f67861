"""`slimdiff sample`: new images from a cell's model. The command that loads torch to draw."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from slimdiff.catalog.families import SAMPLER_CONSTANTS
from slimdiff.cli.cells import RESULTS, CellName, Results, find_model
from slimdiff.cli.config import Plugins, load_plugins
from slimdiff.cli.console import progress_bar
from slimdiff.errors import UserError

RANGE = re.compile(r"(\d+)-(\d+)")


def sample(
    cell: CellName,
    out: Annotated[Path, typer.Option("--out", help="The picture to write (.png).")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many images.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Image i depends on this and on i alone.")] = 0,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="Another sampler than the cell's own.", show_default=False)
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Another number of steps.", show_default=False)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", min=0.0, help="Another scale of classifier-free guidance.", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", help="A class to ask for, by name or number; several take turns.", show_default="all"),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="Several at once: 0-9, 1,3,5 or cat,dog; after those of --label."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.", show_default="cuda if present")] = None,
    plugin: Plugins = None,
    results: Results = RESULTS,
) -> None:
    """Draw new images from a cell's model.

    They go into one picture: a column for each class, or a grid as square as may be.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out} must end in .png")
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device is {device!r}; allowed: cpu, cuda")
    model = find_model(cell, results)

    import torch

    from slimdiff.inference.images import write_png
    from slimdiff.inference.model import load
    from slimdiff.inference.sampling import grid
    from slimdiff.runtime.devices import pick_device

    chosen = pick_device(gpu=int(device != "cpu"), threads=torch.get_num_threads())
    if device == "cuda" and chosen.type != "cuda":
        raise UserError("--device cuda: torch finds no CUDA device here; leave --device out to use the CPU")
    load_plugins(plugin)
    loaded = load(model, chosen)
    own = loaded.settings["sampler"]["method"]
    if steps is None and sampler not in (None, own) and "steps" in SAMPLER_CONSTANTS.get(sampler, ()):
        raise UserError(f"--sampler {sampler} needs --steps: how many {own} takes in this cell says nothing about it")
    classes = loaded.settings["dataset"]["classes"]
    names = [*find_labels(label or (), classes), *parse_labels(labels or "", classes)] or None
    start = time.perf_counter()
    with progress_bar(f"drawing {n} images on {chosen.type}") as progress:
        drawn = loaded.sample(
            n, seed=seed, sampler=sampler, steps=steps, guidance=guidance, labels=names, progress=progress
        )
    seconds = time.perf_counter() - start
    if len(drawn.images):
        # One column for each class that takes its turn, else as square as may be.
        turns = len(names) if names else loaded.classes
        write_png(out, grid(drawn.images, columns=min(n, turns) if turns > 1 else round(n**0.5)))
    if drawn.reason:
        raise UserError(f"{model}: {drawn.reason}" + (f"; the images are in {out}" if len(drawn.images) else ""))
    print(
        f"{out}: {n} images on {chosen.type} in {seconds:.1f} s, {drawn.network_evaluations:g} network evaluations each"
    )


def parse_labels(text: str, classes: Sequence[str]) -> list[int]:
    """The numbers of the classes in a list such as "0-4,7" or "cat,dog"; a name may itself hold a comma or a dash.

    Raises:
        UserError: there is no such class, or a range runs backwards.
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
    """The numbers of the classes `asked` for by name or number.

    Raises:
        UserError: there is no such class.
    """
    numbers = {**{str(index): index for index in range(len(classes))}, **{name: i for i, name in enumerate(classes)}}
    for label in names:
        if label not in numbers:
            known = ", ".join(f"{index} {name}" if name != str(index) else name for index, name in enumerate(classes))
            raise UserError(f"{option} {label} is no class of this model; allowed: {known}")
    return [numbers[label] for label in names]
