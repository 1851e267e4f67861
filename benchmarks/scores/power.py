"""False rates and power of the findings, by simulation at the spreads of the published matrices.

    python benchmarks/scores/power.py --out docs/results/verdicts/power.md

Log ratios of FID and KID are drawn from a bivariate normal distribution: the truth, plus the spread over seeds that the
published matrices have. Each draw is decided by slimdiff.analysis.decisions, as a run's findings are.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import special

from slimdiff.analysis import statistics
from slimdiff.analysis.decisions import (
    BETTER,
    DISTURBED,
    EQUIVALENT,
    FINDINGS,
    WORSE,
    Evidence,
    Margins,
    decide,
)
from slimdiff.analysis.matrix import read_matrix
from slimdiff.analysis.references import references
from slimdiff.analysis.statistics import CONFIDENCE, Ratio, Recipe, paired

ROOT = Path(__file__).parents[2]
MATRICES = ("slim", "open-questions", "paper-cpu")  # in docs/results; those with three seeds and scored alike
SEEDS = (3, 5, 8)
MARGINS = Margins(**yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["verdicts"]["margins"])
QUALITY, EQUIVALENCE, SPEED = MARGINS.of_images("mnist"), MARGINS.of_equivalence("mnist"), MARGINS.speed
TRUTHS = sorted({1.0, 1.1, 1.25, 1.5, 2.0, QUALITY, EQUIVALENCE})
TRIALS, TABLES, RECIPES = 4000, 500, 12
FAMILIES, FOUND = ((RECIPES, 6), (30, 1), (30, 15)), 2.0  # recipes of a table and those that differ; a ratio to find
REFERENCE = 0.5  # share of the reference in a log ratio's variance: the recipes of a table have one reference
RUINED = 4.0  # recipes whose FID ratio is beyond this count in no spread
COLUMNS = ("fid_indomain", "kid")
RECIPE = ("dataset", "model", "recipe")
MODELS = ("ncsn", "ddpm")
DECIDED, FALSE = (BETTER, WORSE, EQUIVALENT), "false"


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the log ratios of FID and KID over seeds, and the correlation of the two metrics.

    Recipes that differ from their reference spread more than those that do not.
    """

    name: str
    equal: tuple[float, float]  # of FID and KID; FID ratios within the margin of equivalence
    different: tuple[float, float]  # beyond it, up to RUINED
    counts: tuple[int, int]  # of the recipes of both
    correlation: float

    def of(self, truths: Iterable[float]) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Return the standard deviations (recipes, 2) of recipes with these true ratios."""
        return np.array([self.different if _is_different(truth) else self.equal for truth in truths])


def measured() -> list[Spread]:
    """Return the median and the 90th percentile of the spreads in the published matrices, by model."""
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    residuals: list[tuple[float, float]] = []
    for name in MATRICES:
        frame = read_matrix(ROOT / "docs" / "results" / name / "matrix.parquet").frame
        own = references(frame)
        fids, kids = (statistics.by_seed(frame, column) for column in COLUMNS)
        for recipe, reference in own.items():
            base = (*recipe[:2], reference or "")
            if recipe[1] not in MODELS or base == recipe or base not in fids:
                continue
            pairs = [
                (math.log(fids[recipe][seed] / fids[base][seed]), math.log(kids[recipe][seed] / kids[base][seed]))
                for seed in fids[recipe]
                if seed in fids[base] and min(kids[recipe].get(seed, 0), kids[base].get(seed, 0)) > 0
            ]
            if len(pairs) < 3:
                continue
            logs = np.array(pairs)
            spread, ratio = logs.std(axis=0, ddof=1), math.exp(logs[:, 0].mean())
            if (spread > 0).all() and max(ratio, 1 / ratio) <= RUINED:  # equal settings under two names have none
                found.setdefault((recipe[1], _is_different(ratio)), []).append((float(spread[0]), float(spread[1])))
                residuals += [tuple(row) for row in ((logs - logs.mean(axis=0)) / spread).tolist()]
    correlation = float(np.corrcoef(np.array(residuals).T)[0, 1])
    spreads = []
    for model in MODELS:
        for word, share in (("median", 0.5), ("90th percentile", 0.9)):
            kinds = [found[model, different] for different in (False, True)]
            equal, different = (
                (float(np.quantile(np.array(own)[:, 0], share)), float(np.quantile(np.array(own)[:, 1], share)))
                for own in kinds
            )
            spreads.append(Spread(f"{model}, {word}", equal, different, (len(kinds[0]), len(kinds[1])), correlation))
    return spreads


def _is_different(ratio: float) -> bool:
    return max(ratio, 1 / ratio) > EQUIVALENCE


def draw(
    spread: Spread, truths: Sequence[float], seeds: int, count: int, generator: np.random.Generator
) -> Iterator[tuple[Ratio, ...]]:
    """Yield the ratios of FID and KID of `count` recipes, each with a reference of its own.

    Args:
        truths: the true ratios of FID and KID.
    """
    first, second = generator.standard_normal((2, count, seeds))
    yield from _ratios(spread, np.array([truths]), first, second)


def draw_table(
    spread: Spread, truths: Sequence[float], seeds: int, generator: np.random.Generator
) -> dict[Recipe, Evidence]:
    """Return recipes with one reference and these true ratios, alike for FID and KID."""
    own = generator.standard_normal((2, len(truths), seeds))
    first, second = math.sqrt(1 - REFERENCE) * own + math.sqrt(REFERENCE) * generator.standard_normal((2, 1, seeds))
    pairs = _ratios(spread, np.array([truths, truths]).T, first, second)
    return {("d", "m", str(n)): Evidence(pair, COLUMNS, QUALITY, EQUIVALENCE) for n, pair in enumerate(pairs)}


def _ratios(
    spread: Spread,
    truths: "np.ndarray[Any, np.dtype[np.float64]]",
    first: "np.ndarray[Any, np.dtype[np.float64]]",
    second: "np.ndarray[Any, np.dtype[np.float64]]",
) -> Iterator[tuple[Ratio, ...]]:
    """Yield ratios of FID and KID from their true ones (recipes, 2) and two draws (recipes, seeds) of variance 1."""
    second = spread.correlation * first + math.sqrt(1 - spread.correlation**2) * second
    fid, kid = np.log(truths).T[:, :, None]
    fid_sd, kid_sd = spread.of(truths[:, 0]).T[:, :, None]
    logs = (fid + fid_sd * first, kid + kid_sd * second)
    yield from zip(*map(ratios_of, logs), strict=True)


def ratios_of(logs: "np.ndarray[Any, np.dtype[np.float64]]") -> list[Ratio]:
    """Return `statistics.paired` for each row of log ratios (count, seeds), all at once."""
    seeds = logs.shape[1]
    means, sds = logs.mean(axis=1), logs.std(axis=1, ddof=1)
    errors = sds / math.sqrt(seeds)
    p_values = 2 * special.stdtr(seeds - 1, -abs(means) / errors)
    reach = special.stdtrit(seeds - 1, (1 + CONFIDENCE) / 2) * errors
    columns = (np.exp(means), np.exp(means - reach), np.exp(means + reach), p_values, sds)
    return [Ratio(seeds, *row) for row in np.stack(columns, axis=1).tolist()]


def shares(
    spread: Spread, truths: Sequence[float], seeds: int, trials: int, generator: np.random.Generator
) -> dict[str, float]:
    """Return finding → its share among `trials` recipes that are each tested alone."""
    counts = dict.fromkeys(FINDINGS, 0)
    for pair in draw(spread, truths, seeds, trials, generator):
        counts[decide({RECIPE: Evidence(pair, COLUMNS, QUALITY, EQUIVALENCE)})[RECIPE].finding] += 1
    return {finding: count / trials for finding, count in counts.items()}


def in_tables(
    spread: Spread, truth: float, seeds: int, tables: int, generator: np.random.Generator
) -> dict[str, float]:
    """Return finding → the share of `tables` of RECIPES recipes, all with one truth, in which some recipe has it."""
    counts = dict.fromkeys(FINDINGS, 0)
    for _ in range(tables):
        evidence = draw_table(spread, [truth] * RECIPES, seeds, generator)
        for finding in {found.finding for found in decide(evidence).values()}:
            counts[finding] += 1
    return {finding: count / tables for finding, count in counts.items()}


def among(
    spread: Spread, truth: float, seeds: int, recipes: int, differ: int, tables: int, generator: np.random.Generator
) -> dict[str, float]:
    """Return finding → its share among the `differ` recipes of `tables` of `recipes` that have the true ratio `truth`.

    That of the others is 1. FALSE is the mean share of false findings among all findings of a table.
    """
    counts = dict.fromkeys(FINDINGS, 0)
    truths = [truth] * differ + [1.0] * (recipes - differ)
    false_shares = []
    for _ in range(tables):
        found = [each.finding for each in decide(draw_table(spread, truths, seeds, generator)).values()]
        for finding in found[:differ]:
            counts[finding] += 1
        false = sum(is_false(finding, own) for finding, own in zip(found, truths, strict=True))
        false_shares.append(false / max(1, sum(finding in DECIDED for finding in found)))
    shared = {finding: count / (tables * differ) for finding, count in counts.items()}
    return shared | {FALSE: math.fsum(false_shares) / tables}


def is_false(finding: str, truth: float) -> bool:
    """Whether a finding is false, given the true ratio (1 or more)."""
    return finding == BETTER or (finding == WORSE and truth == 1) or (finding == EQUIVALENT and truth >= EQUIVALENCE)


def timed(
    truth: float, sd: float, disturbed: float, seeds: int, trials: int, generator: np.random.Generator, marked: bool
) -> dict[str, float]:
    """Return finding → share for times whose profiles are disturbed with a probability, which makes them 1.5 × as long.

    Args:
        marked: whether the rows say so; then they do not count.
    """
    counts = dict.fromkeys(FINDINGS, 0)
    for _ in range(trials):
        hit = generator.random(seeds) < disturbed
        times = truth * np.exp(sd * generator.standard_normal(seeds)) * np.where(hit, 1.5, 1.0)
        own = {seed: float(time) for seed, time in enumerate(times) if not (marked and hit[seed])}
        if own:
            ratio = paired(own, dict.fromkeys(own, 1.0))
            counts[decide({RECIPE: Evidence((ratio,), ("time",), SPEED, SPEED)})[RECIPE].finding] += 1
        else:
            counts[DISTURBED] += 1
    return {finding: count / trials for finding, count in counts.items()}


def row(cells: Sequence[str], found: Mapping[str, float]) -> str:
    """Return a line of a Markdown table: `cells`, then the share of each finding in percent."""
    return "| " + " | ".join([*cells, *(f"{100 * share:.1f}" for share in found.values())]) + " |"


def table(heads: Sequence[str], lines: Sequence[str], more: Sequence[str] = ()) -> str:
    """Return a Markdown table with a column per finding after `heads`, and `more`."""
    header = [*heads, *FINDINGS, *more]
    return "\n".join(["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *lines])


def page(spreads: Sequence[Spread], trials: int, tables: int, seed: int) -> str:
    """Return the page of all simulations."""
    generator = np.random.default_rng(seed)
    alone, disagreeing, families = [], [], []
    for spread in spreads:
        for truth in TRUTHS:
            for seeds in SEEDS:
                found = shares(spread, (truth, truth), seeds, trials, generator)
                alone.append(row([spread.name, f"{truth:g}", str(seeds)], found))
        for seeds in SEEDS:
            found = shares(spread, (1.5, 1 / 1.5), seeds, trials, generator)
            disagreeing.append(row([spread.name, str(seeds)], found))
        for truth in (1.0, EQUIVALENCE):
            for seeds in SEEDS:
                found = in_tables(spread, truth, seeds, tables, generator)
                families.append(row([spread.name, f"{truth:g}", str(seeds)], found))
    times = [
        row([f"{truth:g}", f"{chance:g}", "yes" if marked else "no", str(seeds)], found)
        for truth, chance, marked in ((1.0, 0.0, True), (1.5, 0.0, True), (1.0, 0.5, True), (1.0, 0.5, False))
        for seeds in SEEDS
        for found in [timed(truth, 0.03, chance, seeds, trials, generator, marked)]
    ]
    effects = [
        row([spread.name, f"{truth:g}", str(recipes), str(differ), str(seeds)], found)
        for spread in spreads
        for truth in (EQUIVALENCE, QUALITY, FOUND)
        for recipes, differ in FAMILIES
        for seeds in SEEDS
        for found in [among(spread, truth, seeds, recipes, differ, tables, generator)]
    ]
    used = [
        f"| {spread.name} | {spread.counts[kind]} | {ratios} | {own[0]:.3f} | {own[1]:.3f} |"
        for spread in spreads
        for kind, (ratios, own) in enumerate(
            ((f"within {EQUIVALENCE:g}", spread.equal), (f"{EQUIVALENCE:g} to {RUINED:g}", spread.different))
        )
    ]
    return "\n\n".join(
        [
            "# False rates and power of the findings",
            f"`python benchmarks/scores/power.py --out docs/results/verdicts/power.md`, seed {seed}: {trials:,} "
            f"recipes a line, {tables:,} tables of {RECIPES} recipes. Shares in percent. The margin of quality is "
            f"{QUALITY:g}, that of equivalence {EQUIVALENCE:g}. Spreads are standard deviations of log ratios to the "
            f"reference over three seeds in {', '.join(MATRICES)}: for a true ratio within {EQUIVALENCE:g} those of "
            f"the recipes that have one, for others those of the recipes from {EQUIVALENCE:g} to {RUINED:g}. FID and "
            f"KID correlate by {spreads[0].correlation:.2f}.",
            "\n".join(["| spread | recipes | FID ratio | FID | KID |", "|---|---|---|---|---|", *used]),
            "## One recipe, tested alone",
            "A true ratio of 1 makes every *better* and *worse* false. A true ratio of "
            f"{EQUIVALENCE:g} makes every *equivalent* false. *Worse* is the power; it counts beyond {QUALITY:g}.",
            table(["spread", "true ratio", "seeds"], alone),
            "## FID 1.5 times, KID divided by 1.5",
            "Every finding but *unresolved* is false.",
            table(["spread", "seeds"], disagreeing),
            f"## Tables of {RECIPES} recipes",
            "Shares of tables in which at least one recipe has the finding, corrected for all of them. At 1, *better* "
            f"and *worse* are false; at {EQUIVALENCE:g}, *equivalent* is. The reference, which all recipes of a table "
            f"have in common, makes {REFERENCE:g} of a log ratio's variance.",
            table(["spread", "true ratio", "seeds"], families),
            "## Some recipes differ",
            "Shares of the findings among the recipes that differ, corrected for all recipes of their table; the true "
            "ratio of the others is 1. *Worse* is the power. The last column has the mean share of false findings "
            "among all findings of a table.",
            table(["spread", "true ratio", "recipes", "differ", "seeds"], effects, [FALSE]),
            "## Times",
            "Spread 0.03, margin 1.1. A disturbed profile takes 1.5 times as long. If rows say so they do not count, "
            "and without any other row the finding is *disturbed*. At a ratio of 1 *worse* is false.",
            table(["true ratio", "share disturbed", "marked", "seeds"], times),
        ]
    )


def main() -> None:
    """Write the page."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True, help="Markdown file")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page(measured(), TRIALS, TABLES, given.seed) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
