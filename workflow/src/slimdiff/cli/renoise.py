"""`slimdiff renoise`: choose the noise levels between the steps of sampler consistency."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimdiff.cli.cells import RESULTS, CellName, Results, find_model
from slimdiff.cli.config import BASE, Plugins, load_plugins, read_config
from slimdiff.cli.console import console, table
from slimdiff.errors import UserError

if TYPE_CHECKING:
    import torch

    from slimdiff.inference.model import LoadedModel
    from slimdiff.metrics.networks.extractors import Extractor

SEED = 1_000_000  # of the noise: that of no cell


def renoise(
    cell: CellName,
    grid: Annotated[
        list[float] | None,
        typer.Option("--level", help="Noise level to try; repeatable.", show_default="0.1, 0.2, 0.4, 0.8, 1.6"),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Number of steps.")] = 2,
    n: Annotated[int, typer.Option("--n", min=64, help="Images per trial.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the noise; differ from the seeds of cells.")] = SEED,
    extractors: Annotated[
        Path | None, typer.Option("--extractors", help="Those of the reference.", show_default="the data set's")
    ] = None,
    plugin: Plugins = None,
    results: Results = RESULTS,
) -> None:
    """Search the noise levels `renoise` of a cell whose sampler is consistency, and print the best for the config.

    Each choice draws images from noise that no cell draws, and is compared with at most 10,000 training images by the
    Fréchet distance in the extractors' features. The cell's own samples and score, and test images, are not used.
    """
    from slimdiff.catalog.limits import MAX_KEPT
    from slimdiff.inference.model import load
    from slimdiff.io import files
    from slimdiff.metrics import reference
    from slimdiff.metrics.networks import extractors as networks

    load_plugins(plugin)
    loaded = load(find_model(cell, results))
    if (method := loaded.settings["sampler"]["method"]) != "consistency":
        raise UserError(
            f"the sampler of {cell} is {method}; allowed: consistency, which alone has noise levels between"
        )
    levels = sorted(set(grid or (0.1, 0.2, 0.4, 0.8, 1.6)), reverse=True)
    if len(levels) < steps - 1 or levels[-1] <= 0:
        raise UserError(f"--level is {levels}; allowed with --steps {steps}: {steps - 1} levels or more, above 0")
    dataset = loaded.settings["dataset"]["name"]
    folder = results / "data" / dataset
    if extractors is None:
        shipped = read_config([BASE])["datasets"].get(dataset, {}).get("extractors") if BASE.exists() else None
        extractors = Path(shipped) if shipped else folder / "extractors.safetensors"
    real = reference.read(folder / "reference.safetensors")
    if (digest := files.digest(extractors)) != real.extractors_sha256:
        raise UserError(
            f"--extractors {extractors} has the SHA-256 {digest}; allowed: those of {folder}/reference.safetensors, "
            f"{real.extractors_sha256}"
        )
    training = real.train_features[:, :MAX_KEPT].double()
    found = list(search(loaded, training, networks.read(extractors), levels, steps, n, seed))
    shown = table("renoise", "Fréchet distance")
    for distance, chosen in found:
        shown.add_row(str(list(chosen)), f"{distance:.2f}")
    console().print(shown)
    _, best = min(found)
    print(f"sampler: {{method: consistency, steps: {steps}, renoise: {list(best)}}}")


def search(
    loaded: "LoadedModel",
    training: "torch.Tensor",
    extractors: "Sequence[Extractor]",
    levels: Sequence[float],
    steps: int,
    n: int,
    seed: int,
) -> Iterator[tuple[float, tuple[float, ...]]]:
    """Yield each choice of `steps` - 1 falling noise levels, after its distance from the training images.

    Args:
        training: features (extractors, N, d) of training images.
        levels: falling.
        n: images per choice, of noise `seed`.

    Raises:
        UserError: sampling failed.
    """
    from slimdiff.metrics.frechet import frechet_distance, statistics
    from slimdiff.metrics.networks.extractors import features

    real = [statistics(each) for each in training]
    for chosen in itertools.combinations(levels, steps - 1):
        sampler = {**loaded.settings["sampler"], "steps": steps, "renoise": list(chosen)}
        sampled = replace(loaded, settings={**loaded.settings, "sampler": sampler}).sample(n, seed)
        if sampled.reason:
            raise UserError(f"with renoise {list(chosen)}, {sampled.reason}: leave these levels out")
        drawn = [statistics(features(extractor, sampled.images)) for extractor in extractors]
        distances = [frechet_distance(a, b) for a, b in zip(real, drawn, strict=True)]
        yield sum(distances) / len(distances), chosen
