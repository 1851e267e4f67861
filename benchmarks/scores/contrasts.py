"""Questions between recipes of a finished run that no finding answers, since a finding has one reference.

    python benchmarks/scores/contrasts.py samplers results/matrix.parquet --out docs/results/compression-sampler
    python benchmarks/scores/contrasts.py curves results/matrix.parquet --out docs/results/learning-curves
    python benchmarks/scores/contrasts.py data-sets docs/results/fashion-twin/matrix.parquet results/matrix.parquet \\
        --out docs/results/fashion
    python benchmarks/scores/contrasts.py guides results/matrix.parquet --out docs/results/autoguidance

`samplers`: how much more, or less, a recipe costs with another sampler than with the model's own. `curves`: by how much
what it costs changes whenever training is twice as long. `data-sets`: does a recipe cost as much on another data set?
`guides`: what a compressed copy is worth as a guide. Each effect is a ratio of one seed to its reference, or a ratio of
two such ratios; intervals and tests are over seeds, in logarithms.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

from slimdiff.analysis import statistics
from slimdiff.analysis.matrix import read_matrix
from slimdiff.analysis.references import references
from slimdiff.analysis.statistics import Recipe
from slimdiff.config.cells import BASELINE
from slimdiff.io import files
from slimdiff.report.figures import style
from slimdiff.report.tables.markdown import grid, interval, p_value

METRICS = ("fid_indomain", "kid")
DENSE = "dense"  # prefix of the uncompressed recipes of learning curves
HEADER = ("model", "recipe", "reference", "against", "metric", "seeds", "ratio", "low", "high", "p")
UNGUIDED = "unguided-20"  # as many evaluations as a guided recipe
Logs = Mapping[int, float]  # seed → log ratio of a recipe to its reference


def log_ratios(values: Mapping[Recipe, Mapping[int, float]], recipe: Recipe, reference: Recipe) -> Logs:
    """Return seed → ln(`recipe` / `reference`) of the seeds at which both are above 0."""
    own, base = values.get(recipe, {}), values.get(reference, {})
    return {seed: math.log(own[seed] / base[seed]) for seed in own if own[seed] > 0 and base.get(seed, 0) > 0}


def row(recipe: Recipe, reference: str, against: str, metric: str, logs: Logs) -> dict[str, object]:
    """Return a row of HEADER: the geometric mean of effects that are given as logarithms, its interval and p-value."""
    effect = statistics.paired({seed: math.exp(log) for seed, log in logs.items()}, dict.fromkeys(logs, 1.0))
    head = (recipe[1], recipe[2], reference, against, metric)
    return dict(zip(HEADER, (*head, effect.n, effect.mean, effect.low, effect.high, effect.p), strict=True))


def samplers(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield, for each recipe and sampler, (recipe / reference with it) / (recipe / reference with the model's own).

    RECIPE+SAMPLER is the recipe with the sampler, SAMPLER alone the baseline with it.
    """
    own = references(frame)
    names = dict.fromkeys(name for *_, name in own)
    methods = [method for method in names if any(name.endswith(f"+{method}") for name in names)]
    for metric in METRICS:
        values = statistics.by_seed(frame, metric)
        for (data, model, name), reference in own.items():
            if name == BASELINE or reference is None or any(name.endswith(method) for method in methods):
                continue
            plain = log_ratios(values, (data, model, name), (data, model, reference))
            for method in methods:
                base = method if reference == BASELINE else f"{reference}+{method}"
                other = log_ratios(values, (data, model, f"{name}+{method}"), (data, model, base))
                logs = {seed: other[seed] - plain[seed] for seed in other if seed in plain}
                if logs:
                    yield row((data, model, name), reference, method, metric, logs)


def curves(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield, for each RECIPE-EPOCHS, its ratio to dense-EPOCHS; then what each doubling of the epochs multiplies.

    That is the ratio, and the score of the recipe itself, dense ones, too.
    """
    recipes = list(references(frame))
    for metric in METRICS:
        values = statistics.by_seed(frame, metric)
        ratios: dict[Recipe, dict[str, Logs]] = {}
        scores: dict[Recipe, dict[str, Logs]] = {}
        for data, model, name in recipes:
            match = re.fullmatch(r"(.+)-(\d+(?:\.\d+)?)", name)
            dense = (data, model, f"{DENSE}-{match[2]}") if match else (data, model, "")
            if match and dense in values:
                own, recipe = values[data, model, name], (data, model, match[1])
                scores.setdefault(recipe, {})[match[2]] = {s: math.log(own[s]) for s in own if own[s] > 0}
                if match[1] != DENSE:
                    ratios.setdefault(recipe, {})[match[2]] = log_ratios(values, (data, model, name), dense)
        for recipe, by_epochs in ratios.items():
            for epochs, logs in by_epochs.items():
                yield row(recipe, f"{DENSE}-{epochs}", f"{epochs} epochs", metric, logs)
            if slopes := per_doubling(by_epochs):
                yield row(recipe, DENSE, "each doubling", metric, slopes)
        for recipe, by_epochs in scores.items():
            if slopes := per_doubling(by_epochs):
                yield row(recipe, "none", "each doubling, its score", metric, slopes)


def per_doubling(by_epochs: Mapping[str, Logs]) -> Logs:
    """Return seed → slope over doublings of the epochs, by least squares; none of a single length."""
    doublings = np.log2([float(epochs) for epochs in by_epochs])
    seeds = set.intersection(*(set(logs) for logs in by_epochs.values())) if len(by_epochs) > 1 else set()
    return {s: float(np.polyfit(doublings, [logs[s] for logs in by_epochs.values()], 1)[0]) for s in seeds}


def data_sets(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield, for each recipe of both matrices, its ratio on `other` / that on `one`, of equal seeds."""
    sides = [
        {(model, name): (data, reference) for (data, model, name), reference in references(f).items()}
        for f in (one, other)
    ]
    for metric in METRICS:
        values = [statistics.by_seed(frame, metric) for frame in (one, other)]
        for (model, name), (data, reference) in sides[1].items():
            if sides[0].get((model, name), ("", ""))[1] != reference or reference in (None, name):
                continue
            first, second = (
                log_ratios(known, (side[model, name][0], model, name), (side[model, name][0], model, str(reference)))
                for known, side in zip(values, sides, strict=True)
            )
            logs = {seed: second[seed] - first[seed] for seed in second if seed in first}
            if logs:
                yield row((data, model, name), str(reference), sides[0][model, name][0], metric, logs)


def guides(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield, for each copy, by-COPY-SCALE / UNGUIDED; the scale of a seed is the best one of the other seeds."""
    copies: dict[Recipe, dict[str, Recipe]] = {}
    for data, model, name in references(frame):
        if match := re.fullmatch(r"by-(.+)-([\d.]+)", name):
            copies.setdefault((data, model, match[1]), {})[match[2]] = (data, model, name)
    for metric in METRICS:
        values = statistics.by_seed(frame, metric)
        for copy, scales in copies.items():
            by_scale = {s: log_ratios(values, own, (*copy[:2], UNGUIDED)) for s, own in scales.items()}
            seeds = set.intersection(*(set(logs) for logs in by_scale.values()))
            chosen = {}
            for seed in sorted(seeds) if len(seeds) > 1 else ():
                others = seeds - {seed}
                best = min(by_scale, key=lambda scale: math.fsum(by_scale[scale][other] for other in others))
                chosen[seed] = by_scale[best][seed]
            if chosen:
                yield row(copy, UNGUIDED, "best scale", metric, chosen)


def rank_correlations(one: pd.DataFrame, other: pd.DataFrame) -> list[list[str]]:
    """Return, by model and metric, Spearman's correlation of the mean log ratios of the recipes in both matrices."""
    lines = []
    for metric in METRICS:
        ratios = [statistics.ratios(frame, metric, references(frame)) for frame in (one, other)]
        means = [{(m, name): ratio.mean for (_, m, name), ratio in side.items() if ratio.n} for side in ratios]
        for model in dict.fromkeys(model for model, _ in means[1]):
            shared = [key for key in means[1] if key[0] == model and key[1] != BASELINE and key in means[0]]
            if len(shared) > 2:
                found = stats.spearmanr(*([side[key] for key in shared] for side in means))
                lines.append([model, metric, str(len(shared)), f"{found.statistic:.2f}", p_value(found.pvalue)])
    return lines


def table(frame: pd.DataFrame) -> str:
    """Return the rows in Markdown."""
    lines = [
        [
            *(str(line[name]) for name in HEADER[:6]),
            interval(line["ratio"], line["low"], line["high"], 2),
            p_value(line["p"]),
        ]
        for line in frame.to_dict("records")
    ]
    return grid([*HEADER[:6], "ratio [95 %]", "p, corrected"], lines)


def intervals(block: pd.DataFrame, recipe: str, value: str, title: str, colour: alt.Color) -> list[alt.Chart]:
    """Return bars from `low` to `high` and points at `value`, on a logarithmic axis with this title.

    A line for each value of the column `recipe`, and within it one for each colour.
    """
    y, offset = alt.Y(f"{recipe}:N", title=None, sort=None), alt.YOffset(colour.shorthand, sort=None)
    x = alt.X(f"{value}:Q", title=title, scale=alt.Scale(type="log"))
    base = alt.Chart(block)
    bars = base.mark_rule().encode(x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=offset, color=colour)
    return [bars, base.mark_point(filled=True, size=70).encode(x=x, y=y, yOffset=offset, color=colour)]


def figure(frame: pd.DataFrame, title: str) -> alt.VConcatChart:
    """Return a panel per model: the effect of each recipe, FID alone."""
    colour = alt.Color("against:N", title=None, sort=None)
    panels = [
        alt.LayerChart(
            layer=[style.dashed(1.0).encode(x="value:Q"), *intervals(block, "recipe", "ratio", "ratio", colour)],
            width=600,
            title=style.panel_title(str(model)),
        )
        for model, block in frame[frame["metric"] == METRICS[0]].groupby("model", sort=False)
    ]
    return style.vconcat(panels, title, style.wrap("FID; bars: 95 % intervals over seeds."))


def lines(frame: pd.DataFrame, title: str) -> alt.VConcatChart:
    """Return a panel per model: the effect of each recipe over epochs, FID alone."""
    frame = frame.assign(epochs=frame["against"].str.extract(r"^([\d.]+) epochs$", expand=False).astype(float)).dropna()
    aside = 2 ** (0.05 * pd.factorize(frame["recipe"])[0])  # bars side by side
    frame, values = frame.assign(x=frame["epochs"] * aside), sorted(set(frame["epochs"]))
    colour = alt.Color("recipe:N", title=None, sort=None)
    axis = alt.Axis(values=values, format="~g")
    x = alt.X("x:Q", title="epochs", scale=alt.Scale(type="log", base=2, nice=False), axis=axis)
    panels = []
    for model, block in frame[frame["metric"] == METRICS[0]].groupby("model", sort=False):
        base = alt.Chart(block).encode(x=x, color=colour)
        y = alt.Y("ratio:Q", title="ratio to dense", scale=alt.Scale(type="log", nice=False))
        marks = [base.mark_line(point=True).encode(y=y), base.mark_rule().encode(y="low:Q", y2="high:Q")]
        panels.append(alt.LayerChart(layer=marks, width=400, height=260, title=style.panel_title(str(model))))
    return style.vconcat(panels, title, style.wrap("FID; bars: 95 % intervals over seeds."))


# Name of a question → what yields its rows, the number of matrices that it takes, its figure, and the figure's title.
Question = tuple[Callable[..., Iterator[dict[str, object]]], int, Callable[..., alt.VConcatChart], str]
QUESTIONS: dict[str, Question] = {
    "samplers": (samplers, 1, figure, "The cost of a recipe with another sampler / with the model's own"),
    "curves": (curves, 1, lines, "What compression costs as training goes on"),
    "data-sets": (data_sets, 2, figure, "The cost of a recipe on the second data set / on the first"),
    "guides": (guides, 1, figure, "Guided by a copy / unguided with as many evaluations"),
}


def answer(question: str, *frames: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a question on these matrices; p-values are corrected for all of a metric."""
    rows = pd.DataFrame(list(QUESTIONS[question][0](*frames)), columns=list(HEADER))
    by_metric = rows.groupby("metric")["p"]
    return rows.assign(p=by_metric.transform(lambda p: statistics.benjamini_hochberg(p.to_list())))


def main() -> None:
    """Write contrasts.md, contrasts.csv and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("matrix", type=Path, nargs="+", help="matrix.parquet; data-sets: the one to compare with first")
    parser.add_argument("--out", type=Path, required=True, help="folder")
    given = parser.parse_args()
    _, matrices, draw, title = QUESTIONS[given.question]
    if len(given.matrix) != matrices:
        parser.error(f"{given.question} takes {matrices} of matrix, not {len(given.matrix)}")
    frames = [read_matrix(path).frame for path in given.matrix]
    frame = answer(given.question, *frames)
    if frame.empty:
        parser.error(f"{' and '.join(map(str, given.matrix))}: no recipes that {given.question} compares")
    parts = ["# Contrasts", table(frame)]
    if given.question == "data-sets":
        parts += ["## Ranks", grid(["model", "metric", "recipes", "Spearman", "p"], rank_correlations(*frames))]
    given.out.mkdir(parents=True, exist_ok=True)
    files.write_text(given.out / "contrasts.csv", frame.to_csv(index=False, float_format="%.6g"))
    files.write_text(given.out / "contrasts.md", "\n\n".join(parts) + "\n")
    style.save(draw(frame, title), given.out / "contrasts.svg")


if __name__ == "__main__":
    main()
