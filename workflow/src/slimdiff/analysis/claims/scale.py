"""The scale of a run in words: what a verdict holds for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from slimdiff.analysis.references import recipe_settings

PAPER_EPOCHS = 50  # of both families


def scale_of(frame: pd.DataFrame, families: Mapping[str, str], cells: Iterable[str]) -> str:
    """Return epochs, preconditioning, sampler and images of the models behind `cells`, DATASET/MODEL/RECIPE each.

    The settings are those of the first of the cells in the matrix. Empty if no cell ran.
    """
    named = dict.fromkeys(tuple(cell.split("/")) for cell in cells)
    ran = frame[["dataset", "model"]].drop_duplicates().itertuples(index=False, name=None)
    models = [model for model in ran if any(name[:2] == model for name in named)]
    texts = []
    for dataset, model in models:
        own = frame[(frame["dataset"] == dataset) & (frame["model"] == model)]
        chosen = own[own["optimization"].isin([name[2] for name in named if name[:2] == (dataset, model)])]
        if chosen.empty:
            continue
        settings = next(iter(recipe_settings(chosen).values()))
        texts.append(f"{model}: {', '.join([*_facts(settings, families[model]), *_counts(chosen)])}")
    return "; ".join(texts)


def _facts(settings: Mapping[str, Any], family: str) -> list[str]:
    train, compress = settings.get("train", {}), settings.get("compress", {})
    trainings: Sequence[Mapping[str, Any]] = [*settings.get("starts", []), train]
    if not train or not compress:
        return []
    epochs = sum(training["training"]["epochs"] for training in trainings)
    of_paper = f" of the paper's {PAPER_EPOCHS}" if family in ("ncsn", "ddpm") else ""
    sampler = compress["sampler"]
    guidance = f", guidance {sampler['guidance']:g}" if sampler.get("guidance") and _conditional(train) else ""
    steps = f" in {sampler['steps']} steps" if sampler.get("steps") else ""
    return [
        f"{epochs:g}{of_paper} epochs",
        train["training"]["preconditioning"],
        f"{sampler['method']}{steps}{guidance}",
    ]


def _conditional(train: Mapping[str, Any]) -> bool:
    return bool(train["model"]["network"].get("classes"))


def _counts(rows: pd.DataFrame) -> list[str]:
    images, seeds = rows["n_samples"].dropna().unique(), rows["seed"].nunique()
    counted = [f"{int(images[0]):,} images"] if len(images) == 1 else []
    return [*counted, f"{seeds} seed{'s' * (seeds > 1)}"]
