"""Resolution of in-domain FID and KID: how often other extractors order two sets of images the other way round.

    python benchmarks/scores/resolution.py --dataset mnist --work work --out docs/results/resolution

Trains FRESH extractors with other seeds, exactly as the workflow trains them, and scores spoilt images, or the samples
of a finished run if --results names one. Writes DATASET.csv or DATASET-cells.csv, with the scores of every set under
every extractor, and resolution.md, with the tables of every CSV in the folder. Images, extractors and reference in
--work are reused. --config adds files with a data set of your own.
"""

import argparse
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from blind_spots import Spoilt, Strengths, sets
from numpy.typing import NDArray
from scipy import special

from slimdiff.cli.config import read_config
from slimdiff.config import resolve
from slimdiff.data import image_set
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.samples import read_samples
from slimdiff.metrics import reference
from slimdiff.metrics.composition import compose
from slimdiff.metrics.networks import extractors
from slimdiff.metrics.networks.extractors import Extractor
from slimdiff.metrics.reference import Reference, on_grid
from slimdiff.metrics.score import canonical_order, compare_pairs
from slimdiff.report.tables.markdown import grid
from slimdiff.runtime.devices import pick_device

ROOT = Path(__file__).parents[2]
FRESH = 5  # extractors, in addition to those of the data set
TOGETHER = 3  # extractors whose mean is a score
BOTH = "both"
METRICS = ("fid", "kid", BOTH)
NAMES = {"fid": "FID", "kid": "KID", BOTH: "both"}
EDGES = (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0, 3.0)  # of bins of ratios; the last one is open
CONFIDENCE, ALLOWED = 0.95, 0.05  # of the intervals; the swap rate that a threshold excludes
LEVELS = 20  # strengths of each kind of damage


def levels(least: float, most: float) -> list[float]:
    """Return LEVELS numbers in equal ratios."""
    return [float(f"{value:.3g}") for value in np.geomspace(least, most, LEVELS)]


STRENGTHS = Strengths(
    noise=levels(3, 80),
    blur=levels(0.25, 1.6),
    missing=levels(0.2, 7),
    double=levels(2, 100),
    copies=list(range(2, 2 + LEVELS)),
)


def stage(name: str, settings: Mapping[str, Any], *arguments: str) -> None:
    """Run a stage by hand."""
    command = [sys.executable, "-m", f"slimdiff.stages.{name}", "--settings", json.dumps(settings), *arguments]
    subprocess.run(command, check=True)


def networks(config: Mapping[str, Any], dataset: str, images: Path, work: Path) -> list[Extractor]:
    """Return the extractors of a data set, shipped or trained, followed by FRESH ones of other seeds."""
    settings, shipped = resolve.extractors_settings(config, dataset), config["datasets"][dataset].get("extractors")
    seeds = [1 + max(settings["seeds"]) + index for index in range(FRESH)]
    path = work / f"{dataset}-extractors.safetensors"
    if not path.exists():
        trained = seeds if shipped else [*settings["seeds"], *seeds]
        stage("extractors", settings | {"seeds": trained}, "--gpu=0", f"--images={images}", f"--out={path}")
    return [*(extractors.read(ROOT / shipped) if shipped else ()), *extractors.read(path)]


def scores(
    images: torch.Tensor, labels: torch.Tensor, real: Reference, own: Sequence[Extractor]
) -> dict[str, float | None]:
    """Return fid_0 to fid_k and kid_0 to kid_k, the scores under each extractor that `slimdiff.metrics.score` averages.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,); (0,) of an unconditional model.
    """
    order = canonical_order(images, labels)
    images, labels = images[order], labels[order] if len(labels) else labels
    composed = compose(real, labels)
    factors = [composed.scale(index) for index in range(len(own))]
    points = [
        on_grid(extractors.features(extractor, images), factor) for extractor, factor in zip(own, factors, strict=True)
    ]
    found = reference.distance(composed, [point / factor for point, factor in zip(points, factors, strict=True)])
    record: dict[str, float | None] = {f"fid_{index}": fid for index, fid in enumerate(found.fid_indomain_extractors)}
    _, kids = compare_pairs(composed, points, factors, labels)
    return record | {f"kid_{index}": kid for index, kid in enumerate(kids)}


def cells(results: Path, dataset: str) -> Iterator[Spoilt]:
    """Yield the samples of the cells of a run that did not fail."""
    paths = sorted((results / "cells" / dataset).glob("*/*/seed*/samples.npz"))
    if not paths:
        raise UserError(f"--results {results} holds no samples of {dataset}: name the folder of a run that has them")
    for path in paths:
        samples = read_samples(path)
        if samples.status == "ok":
            model, recipe, seed = path.parent.parts[-3:]
            images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
            yield Spoilt(model, f"{model}/{recipe}/{seed}", images, labels)


def measure(config: Mapping[str, Any], dataset: str, n: int, results: Path | None, work: Path) -> pd.DataFrame:
    """Return a row for each set of images: its population, kind, name, size, and scores.

    Args:
        n: images of each spoilt set.
        results: the folder of a run, whose samples are the sets; None: spoilt images.
        work: holds images, extractors and reference, or gets them.
    """
    images, measured = (work / f"{dataset}-{kind}.safetensors" for kind in ("images", "reference"))
    if not images.exists():
        settings = resolve.data_settings(config, dataset)
        stage("data", settings, f"--data-dir={config['data_dir']}", f"--out={images}")
    own, data = networks(config, dataset, images, work), image_set.read(images)
    if not measured.exists():
        train, test = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
        reference.write(measured, reference.measure(train, test, own, dataset, "", "", torch.device("cpu")))
    real = reference.read(measured)
    rows = []
    for one in cells(results, dataset) if results else sets(data, n, STRENGTHS):
        if one.kind != "real":  # at the floor, or copies of another
            row = {"population": "cells" if results else "spoilt", "kind": one.kind, "set": one.name}
            rows.append(row | {"n": len(one.images)} | scores(one.images, one.labels, real, own))
            print(f"{dataset}: {one.name}, FID {rows[-1]['fid_0']:.3g}", flush=True)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Rate:
    """How often two disjoint sets of extractors order images differently, if the ratio under the first is in a bin."""

    low: float  # of the ratios
    high: float
    pairs: float  # pairs of image sets, mean over the sets of extractors
    rate: float
    lower: float  # Clopper-Pearson, counting each pair of image sets once
    upper: float


def splits(k: int) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Return all sets of TOGETHER of k extractors, and the ordered pairs of disjoint ones, by index."""
    groups = list(itertools.combinations(range(k), TOGETHER))
    disjoint = [(a, b) for a, b in itertools.permutations(range(len(groups)), 2) if not {*groups[a]} & {*groups[b]}]
    return np.array(groups), disjoint


def log_ratios(frame: pd.DataFrame, metric: str, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log ratios of every two sets of images under each of `groups`: (pairs, groups).

    NaN if a score is 0 or below. Of METRICS, `both` is the smaller ratio of FID and KID, and 0 if the two disagree.

    Args:
        frame: sets of one population. Two sets with one kind of damage are no pair: the extractors agree on which is
            damaged more. Two cells of a model are.
    """
    if metric == BOTH:
        fid, kid = (log_ratios(frame, name, groups) for name in METRICS if name != BOTH)
        smaller = np.where(np.abs(fid) < np.abs(kid), fid, kid)
        return np.where(np.isnan(fid + kid), np.nan, np.where(fid * kid > 0, smaller, 0.0))
    columns = [f"{metric}_{index}" for index in range(groups.max() + 1)]
    values = frame[columns].to_numpy(float)[:, groups].mean(axis=2)
    first, second = np.triu_indices(len(frame), 1)
    kinds = frame["kind"].to_numpy()
    paired = (kinds[first] != kinds[second]) | (frame["population"] == "cells").to_numpy()[first]
    logs = np.log(np.where(values > 0, values, np.nan))
    return np.asarray(logs[first[paired]] - logs[second[paired]])


def swap_rates(frame: pd.DataFrame, metric: str) -> list[Rate]:
    """Return the swap rate in each bin of EDGES, by the ratio under the first of two disjoint sets of extractors."""
    groups, disjoint = splits(frame.filter(regex=r"^fid_\d+$").shape[1])
    logs = log_ratios(frame, metric, groups)
    counts, swaps = np.zeros(len(EDGES)), np.zeros(len(EDGES))
    for a, b in disjoint:
        known = ~np.isnan(logs[:, a] + logs[:, b]) & (logs[:, a] != 0)
        places = np.searchsorted(np.log(EDGES), np.abs(logs[known, a]), side="right") - 1
        counts += np.bincount(places, minlength=len(EDGES))
        swaps += np.bincount(places, logs[known, a] * logs[known, b] < 0, minlength=len(EDGES))
    highs = (*EDGES[1:], math.inf)
    return [
        Rate(low, high, n / len(disjoint), swapped / n if n else math.nan, *interval(swapped, n, len(disjoint)))
        for low, high, n, swapped in zip(EDGES, highs, counts.tolist(), swaps.tolist(), strict=True)
    ]


def interval(swaps: float, trials: float, repeats: int) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of swaps / trials, of which only trials / repeats are independent."""
    hits, n, tail = swaps / repeats, trials / repeats, (1 - CONFIDENCE) / 2
    lower = float(special.betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    return lower, float(special.betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0


def threshold(rates: Sequence[Rate]) -> float:
    """Return the smallest ratio beyond which no bin's interval reaches ALLOWED; infinite if the last one does."""
    return next((rate.high for rate in reversed(rates) if not rate.upper < ALLOWED), EDGES[0])


def dataset_threshold(frame: pd.DataFrame) -> float:
    """Return the threshold of a data set: that of FID, of spoilt images."""
    return threshold(swap_rates(frame, "fid"))


def page(folder: Path) -> str:
    """Return the tables of every CSV in `folder`."""
    blocks, lines = [], []
    for path in sorted(folder.glob("*.csv")):
        frame = pd.read_csv(path)
        found = {metric: swap_rates(frame, metric) for metric in METRICS}
        lines.append(
            [
                path.stem,
                str(len(frame)),
                *(f"{ratio:g}" if math.isfinite(ratio := threshold(rates)) else "–" for rates in found.values()),
            ]
        )
        head = ["ratio", *(f"{NAMES[metric]} {what}" for metric in METRICS for what in ("pairs", "swapped, %"))]
        rows = [
            [label(same[0]), *(text for rate in same for text in (f"{rate.pairs:.0f}", percent(rate)))]
            for same in zip(*found.values(), strict=True)
        ]
        blocks += [f"## {path.stem}", grid(head, rows)]
    head = ["images", "sets", *(f"threshold of {NAMES[metric]}" for metric in METRICS)]
    return "\n\n".join([grid(head, lines), *blocks]) + "\n"


def label(rate: Rate) -> str:
    return f"{rate.low:g} to {rate.high:g}" if math.isfinite(rate.high) else f"above {rate.low:g}"


def percent(rate: Rate) -> str:
    return f"{100 * rate.rate:.1f} [{100 * rate.lower:.1f}, {100 * rate.upper:.1f}]" if rate.pairs else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a name under datasets: in the config")
    parser.add_argument("--config", type=Path, nargs="*", default=[], help="files merged over config.yaml")
    parser.add_argument("--n", type=int, default=1_000, help="images of each spoilt set")
    parser.add_argument("--results", type=Path, help="folder of a run: score its samples, not spoilt images")
    parser.add_argument("--work", type=Path, required=True, help="folder of images, extractors and reference")
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSV and resolution.md")
    given = parser.parse_args()
    config = read_config([ROOT / "config.yaml", *given.config])
    if given.dataset not in config["datasets"]:
        raise UserError(
            f"--dataset is {given.dataset!r}; allowed: {', '.join(config['datasets'])}, or add it by --config"
        )
    pick_device(0, torch.get_num_threads())
    given.work.mkdir(parents=True, exist_ok=True)
    frame = measure(config, given.dataset, given.n, given.results, given.work)
    name = f"{given.dataset}{'-cells' if given.results else ''}.csv"
    files.write_text(given.out / name, frame.to_csv(index=False, float_format="%.6g"))
    files.write_text(given.out / "resolution.md", page(given.out))


if __name__ == "__main__":
    main()
