"""The benchmark of the resolution of FID and KID: its scores are the package's, its counts those of plain loops."""

import importlib
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats

from slimdiff.data import sources
from slimdiff.data.sources import DataSettings
from slimdiff.io.samples import Samples
from slimdiff.metrics import reference
from slimdiff.metrics.evaluator import Evaluator
from slimdiff.metrics.networks.classifier import Classifier
from slimdiff.metrics.networks.extractors import Extractor
from slimdiff.metrics.score import score

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "results" / "resolution"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def resolution() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks" / "scores"))
    return importlib.import_module("resolution")


@pytest.mark.parametrize("conditional", [True, False])
def test_scores_are_those_of_the_package(resolution: ModuleType, conditional: bool) -> None:
    digits = sources.load(DataSettings(name="digits", source="digits"), Path("none"))
    train, test = (digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = [Extractor(digits.image_shape, 10).double().eval().requires_grad_(False) for _ in range(3)]
        classifier = Classifier(digits.image_shape, 10).eval().requires_grad_(False)
    real = reference.measure(train, test, networks, "digits", "", "", CPU)
    images, labels = 255 - digits.test_images[:150], digits.test_labels[: 150 if conditional else 0]
    shares = torch.full((10,), 0.1, dtype=torch.float64)
    whole = Evaluator(real, networks, classifier, "", digits.train_images, shares, [])
    wanted = score(Samples(images.numpy(), labels.numpy(), (), {}, 0.0), 150, whole, CPU)
    found = resolution.scores(images, labels, real, networks)
    ranked = importlib.import_module("rankings").measure(images, labels, (real, networks), (real, networks))
    assert {name: ranked[name] for name in ("kid", "mind")} == {
        name: pytest.approx(wanted[name], rel=1e-12) for name in ("kid", "mind")
    }
    assert [found[f"fid_{index}"] for index in range(3)] == wanted["fid_indomain_extractors"]
    assert sum(found[f"kid_{index}"] for index in range(3)) / 3 == pytest.approx(wanted["kid"], rel=1e-12)


def made(sets: int, extractors: int, population: str = "spoilt") -> pd.DataFrame:
    """Return scores that differ by set, and less by extractor; one KID is below 0."""
    generator = np.random.default_rng(0)
    truth = generator.uniform(0, 1.5, (sets, 1))
    columns = {
        f"{metric}_{index}": values
        for metric in ("fid", "kid")
        for index, values in enumerate(np.exp(truth + 0.3 * generator.standard_normal((sets, extractors))).T)
    }
    frame = pd.DataFrame({"population": population, "kind": ["noise", "blur", "double"] * (sets // 3), **columns})
    frame.loc[0, "kid_0"] = -100.0
    return frame


def plain_rates(frame: pd.DataFrame, metric: str, edges: Any, k: int, mixed: bool) -> list[tuple[float, float]]:
    """Return pairs and rate of each bin by loops over pairs of sets and of triples."""
    trials, swaps = [0] * len(edges), [0] * len(edges)
    triples = list(itertools.combinations(range(k), 3))
    ordered = [(a, b) for a in triples for b in triples if not set(a) & set(b)]
    for one, other in itertools.combinations(frame.to_dict("records"), 2):
        if mixed and one["kind"] == other["kind"]:
            continue
        for a, b in ordered:
            means = {
                (name, triple, side): sum(row[f"{name}_{index}"] for index in triple) / 3
                for name in ("fid", "kid")
                for triple in (a, b)
                for side, row in enumerate((one, other))
            }
            used = ("fid", "kid") if metric == "both" else (metric,)
            if any(means[name, triple, side] <= 0 for name in used for triple in (a, b) for side in (0, 1)):
                continue
            first, second = (
                [math.log(means[name, triple, 0] / means[name, triple, 1]) for name in used] for triple in (a, b)
            )
            if len({value > 0 for value in first}) > 1:
                continue
            place = max(i for i, edge in enumerate(edges) if math.exp(min(map(abs, first))) >= edge)
            trials[place] += 1
            swaps[place] += all(x * y < 0 for x, y in zip(first, second, strict=True))
    return [(n / len(ordered), swapped / n if n else math.nan) for n, swapped in zip(trials, swaps, strict=True)]


@pytest.mark.parametrize("metric", ["fid", "kid", "both"])
@pytest.mark.parametrize("population", ["spoilt", "cells"])
def test_swap_rates_are_those_of_plain_loops(resolution: ModuleType, metric: str, population: str) -> None:
    frame = made(9, 7, population)
    rates = resolution.swap_rates(frame, metric)
    wanted = plain_rates(frame, metric, resolution.EDGES, 7, mixed=population == "spoilt")
    for side, name in enumerate(("pairs", "rate")):
        assert [getattr(rate, name) for rate in rates] == pytest.approx([pair[side] for pair in wanted], nan_ok=True)
    assert any(rate.rate > 0 for rate in rates)
    assert [rate.low for rate in rates] == list(resolution.EDGES)


def test_intervals_are_exact(resolution: ModuleType) -> None:
    for swaps, n in ((0, 80), (3, 40), (40, 40)):
        exact = stats.binomtest(swaps, n).proportion_ci(0.95, method="exact")
        assert resolution.interval(5 * swaps, 5 * n, 5) == pytest.approx((exact.low, exact.high))
    assert resolution.interval(0, 0, 5) == (0.0, 1.0)


def test_the_threshold_is_the_end_of_the_last_bin_that_is_not_resolved(resolution: ModuleType) -> None:
    def rates(*uppers: float) -> list[Any]:
        edges = [1.0, 1.1, 1.2, math.inf]
        return [resolution.Rate(edges[i], edges[i + 1], 9.0, 0.0, 0.0, upper) for i, upper in enumerate(uppers)]

    assert resolution.threshold(rates(0.5, 0.04, 0.01)) == 1.1
    assert resolution.threshold(rates(0.04, 0.06, 0.01)) == 1.2
    assert resolution.threshold(rates(0.04, 0.04, 0.01)) == 1.0
    assert resolution.threshold(rates(0.5, 0.04, 0.05)) == math.inf


def test_the_margins_of_the_config_are_the_published_thresholds(resolution: ModuleType) -> None:
    assert (PUBLISHED / "resolution.md").read_text(encoding="utf-8") == resolution.page(PUBLISHED)
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    measured = {
        path.stem: resolution.dataset_threshold(pd.read_csv(path))
        for path in PUBLISHED.glob("*.csv")
        if not path.stem.endswith("-cells")
    }
    assert config["verdicts"]["margins"]["quality"] == measured
    shipped = [name for name, options in config["datasets"].items() if "extractors" in options]
    assert set(shipped) <= set(measured)
