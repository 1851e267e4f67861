"""False rates and power of the findings, by simulation at the spreads of the published matrices.

    python benchmarks/scores/power.py --out docs/results/verdicts/power.md

Log ratios of FID and KID are drawn from a bivariate normal distribution: the truth, plus the spread over seeds that the
published matrices have. Each draw is decided by slimdiff.analysis.decisions, as a run's findings are.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import special

from slimdiff.analysis import statistics
from slimdiff.analysis.decisions import DISTURBED, FINDINGS, Evidence, Margins, decide
from slimdiff.analysis.matrix import read_matrix
from slimdiff.analysis.references import references
from slimdiff.analysis.statistics import CONFIDENCE, Ratio, paired

ROOT = Path(__file__).parents[2]
MATRICES = ("slim", "open-questions", "paper-cpu")  # in docs/results; those with three seeds and scored alike
SEEDS = (3, 5, 8)
MARGINS = Margins(**yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["verdicts"]["margins"])
QUALITY, EQUIVALENCE, SPEED = MARGINS.of_images("mnist"), MARGINS.of_equivalence("mnist"), MARGINS.speed
TRUTHS = sorted({1.0, 1.1, 1.25, 1.5, 2.0, QUALITY, EQUIVALENCE})
TRIALS, TABLES, RECIPES = 4000, 500, 12
FAMILIES, FOUND = (RECIPES, 30), 2.0  # sizes of tables, and the effect to find in them
NEAR = 2.0  # recipes whose FID ratio is beyond this are ruined, and have other spreads
COLUMNS = ("fid_indomain", "kid")
RECIPE = ("dataset", "model", "recipe")


@dataclass(frozen=True)
class Spread:
    """Standard deviations of log ratios over seeds, and the correlation of the two metrics."""

    name: str
    fid: float
    kid: float
    correlation: float


def measured() -> list[Spread]:
    """Return the median and the 90th percentile of the spreads of FID and KID in the published matrices, by model."""
    found: dict[str, list[tuple[float, float]]] = {}
    residuals: list[tuple[float, float]] = []
    for name in MATRICES:
        frame = read_matrix(ROOT / "docs" / "results" / name / "matrix.parquet").frame
        own = references(frame)
        fids, kids = (statistics.by_seed(frame, column) for column in COLUMNS)
        for recipe, reference in own.items():
            base = (*recipe[:2], reference or "")
            if recipe[1] not in ("ncsn", "ddpm") or base == recipe or base not in fids:
                continue
            pairs = [
                (math.log(fids[recipe][seed] / fids[base][seed]), math.log(kids[recipe][seed] / kids[base][seed]))
                for seed in fids[recipe]
                if seed in fids[base] and min(kids[recipe].get(seed, 0), kids[base].get(seed, 0)) > 0
            ]
            logs = np.array(pairs)
            if len(pairs) < 3 or abs(logs[:, 0].mean()) > math.log(NEAR):
                continue
            spread = logs.std(axis=0, ddof=1)
            if (spread > 0).all():  # equal settings under two names have none
                found.setdefault(recipe[1], []).append((float(spread[0]), float(spread[1])))
                residuals += [tuple(row) for row in ((logs - logs.mean(axis=0)) / spread).tolist()]
    correlation = float(np.corrcoef(np.array(residuals).T)[0, 1])
    spreads = []
    for model, values in found.items():
        for word, share in (("median", 0.5), ("90th percentile", 0.9)):
            fid, kid = (float(np.quantile([pair[side] for pair in values], share)) for side in (0, 1))
            spreads.append(Spread(f"{model}, {word} of {len(values)}", fid, kid, correlation))
    return spreads


def draw(
    spread: Spread, truths: Sequence[float], seeds: int, count: int, generator: np.random.Generator
) -> Iterator[tuple[Ratio, ...]]:
    """Yield the ratios of FID and KID of `count` recipes with the true ratios `truths`."""
    first, second = generator.standard_normal((2, count, seeds))
    second = spread.correlation * first + math.sqrt(1 - spread.correlation**2) * second
    logs = (math.log(truths[0]) + spread.fid * first, math.log(truths[1]) + spread.kid * second)
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
        drawn = draw(spread, (truth, truth), seeds, RECIPES, generator)
        evidence = {("d", "m", str(n)): Evidence(pair, COLUMNS, QUALITY, EQUIVALENCE) for n, pair in enumerate(drawn)}
        for finding in {found.finding for found in decide(evidence).values()}:
            counts[finding] += 1
    return {finding: count / tables for finding, count in counts.items()}


def among(
    spread: Spread, truth: float, seeds: int, recipes: int, tables: int, generator: np.random.Generator
) -> dict[str, float]:
    """Return finding → its share for one recipe in `tables` of `recipes`; the others' true ratio is 1."""
    counts = dict.fromkeys(FINDINGS, 0)
    for _ in range(tables):
        pairs = list(draw(spread, (truth, truth), seeds, 1, generator))
        pairs += draw(spread, (1.0, 1.0), seeds, recipes - 1, generator)
        evidence = {("d", "m", str(n)): Evidence(pair, COLUMNS, QUALITY, EQUIVALENCE) for n, pair in enumerate(pairs)}
        counts[decide(evidence)["d", "m", "0"].finding] += 1
    return {finding: count / tables for finding, count in counts.items()}


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
    return "| " + " | ".join([*cells, *(f"{100 * found[finding]:.1f}" for finding in FINDINGS)]) + " |"


def table(heads: Sequence[str], lines: Sequence[str]) -> str:
    """Return a Markdown table with a column per finding after `heads`."""
    header = [*heads, *FINDINGS]
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
        row([spread.name, f"{truth:g}", str(recipes), str(seeds)], found)
        for spread in spreads
        for truth in (QUALITY, FOUND)
        for recipes in FAMILIES
        for seeds in SEEDS
        for found in [among(spread, truth, seeds, recipes, tables, generator)]
    ]
    used = [f"| {s.name} | {s.fid:.3f} | {s.kid:.3f} |" for s in spreads]
    return "\n\n".join(
        [
            "# False rates and power of the findings",
            f"`python benchmarks/scores/power.py --out docs/results/verdicts/power.md`, seed {seed}: {trials:,} "
            f"recipes a line, {tables:,} tables of {RECIPES} recipes. Shares in percent. Spreads are standard "
            f"deviations of log ratios to the reference over three seeds in {', '.join(MATRICES)}; FID and KID "
            f"correlate by {spreads[0].correlation:.2f}. The margin of quality is {QUALITY:g}, that of equivalence "
            f"{EQUIVALENCE:g}.",
            "\n".join(["| spread | FID | KID |", "|---|---|---|", *used]),
            "## One recipe, tested alone",
            "A true ratio of 1 makes every *better* and *worse* false. A true ratio of "
            f"{EQUIVALENCE:g} makes every *equivalent* false. *Worse* is the power; it counts beyond {QUALITY:g}.",
            table(["spread", "true ratio", "seeds"], alone),
            "## FID 1.5 times, KID divided by 1.5",
            "Every finding but *unresolved* is false.",
            table(["spread", "seeds"], disagreeing),
            f"## Tables of {RECIPES} recipes",
            "Shares of tables in which at least one recipe has the finding, after Holm's correction. At 1, *better* "
            f"and *worse* are false; at {EQUIVALENCE:g}, *equivalent* is.",
            table(["spread", "true ratio", "seeds"], families),
            "## One recipe among others",
            "Shares of tables in which one recipe has the finding, after Holm's correction; the true ratio of all "
            "others is 1. *Worse* is the power.",
            table(["spread", "true ratio", "recipes", "seeds"], effects),
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
