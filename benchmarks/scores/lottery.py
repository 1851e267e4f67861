"""How many seeds does a difference need, and how often does one seed rank two recipes wrongly? From a finished matrix.

    python benchmarks/scores/lottery.py --matrix results/matrix.parquet --out docs/results/lottery

Each recipe is compared with `baseline` and, if it trains on, with its fair reference: what it is paired with decides
how much the log ratio of FID varies over seeds. Seeds needed are those of a two-sided paired t-test at 5 % with a power
of 80 %. A ranking is wrong if one seed orders two recipes against the geometric mean of all other seeds.
"""

import argparse
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
from contrasts import intervals
from scipy import special

from slimdiff.analysis import statistics
from slimdiff.analysis.matrix import read_matrix
from slimdiff.analysis.references import references
from slimdiff.analysis.statistics import CONFIDENCE, Recipe
from slimdiff.config.cells import BASELINE
from slimdiff.io import files
from slimdiff.report.figures import style
from slimdiff.report.tables.markdown import grid

METRIC = "fid_indomain"
POWER, MAX_SEEDS = 0.8, 1000
DIFFERENCES = (1.1, 1.25)  # ratios to find
MIN_SEEDS = 3
CRITERIA = ("channels-50", "channels-50-taylor", "channels-50-diff", "channels-50-random")


def seeds_needed(sd: float, ratio: float) -> int:
    """Return the smallest number of seeds, at least 2, whose paired t-test finds `ratio` with the power POWER.

    The log ratio of a seed is normal with mean ln(`ratio`) and standard deviation `sd`. The test is two-sided at 5 %,
    so its statistic has a noncentral t-distribution; a finding of the wrong sign does not count. MAX_SEEDS if that
    many do not suffice.
    """
    for n in range(2, MAX_SEEDS):
        limit = special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)
        if special.nctdtr(n - 1, abs(math.log(ratio)) / sd * math.sqrt(n), limit) <= 1.0 - POWER:
            return n
    return MAX_SEEDS


def spreads(matrix: pd.DataFrame) -> pd.DataFrame:
    """Return one row per recipe and reference: sd of the log ratio over seeds, and seeds needed, with intervals."""
    values, rows = statistics.by_seed(matrix, METRIC), []
    for (dataset, model, recipe), fair in references(matrix).items():
        for reference in dict.fromkeys((BASELINE, fair)):
            base = values.get((dataset, model, reference or ""))
            ratio = statistics.paired(values[dataset, model, recipe], base or {})
            if recipe == reference or ratio.n < MIN_SEEDS:
                continue
            low, high = interval(ratio.sd, ratio.n - 1)
            needed: dict[str, object] = {
                f"seeds for {difference}": f"{seeds_needed(ratio.sd, difference)} "
                f"[{seeds_needed(low, difference)}, {seeds_needed(high, difference)}]"
                for difference in DIFFERENCES
            }
            head = {"dataset": dataset, "model": model, "optimization": recipe, "reference": reference}
            rows.append(
                head | {"seeds": ratio.n, "ratio": ratio.mean, "sd": ratio.sd, "low": low, "high": high} | needed
            )
    return pd.DataFrame(rows)


def interval(sd: float, df: int) -> tuple[float, float]:
    """Return the 95 % interval of a standard deviation with `df` degrees of freedom (chi-squared)."""
    tail = (1 - CONFIDENCE) / 2
    low, high = (sd * math.sqrt(df / special.chdtri(df, p)) for p in (tail, 1 - tail))
    return low, high


def wrong_rankings(
    values: Mapping[Recipe, Mapping[int, float]], recipes: Sequence[Recipe]
) -> Iterator[dict[str, object]]:
    """Yield, for each pair of recipes, how many seeds order it against the geometric mean of all other seeds."""
    for one, other in itertools.combinations(recipes, 2):
        shared = sorted(values[one].keys() & values[other].keys())
        if len(shared) < MIN_SEEDS:
            continue
        logs = np.log([values[one][seed] / values[other][seed] for seed in shared])
        rest = (logs.sum() - logs) / (len(logs) - 1)
        wrong = int((logs * rest < 0).sum())
        yield {
            **dict(zip(("dataset", "model", "one"), one, strict=True)),
            "other": other[2],
            "ratio": math.exp(logs.mean()),
            "seeds": len(shared),
            "wrong": wrong,
        }


def figure(frame: pd.DataFrame) -> alt.VConcatChart:
    """Return a panel per model: the spread of each recipe's log ratio to both references."""
    colour = alt.Color("reference:N", title="compared with", scale=alt.Scale(range=["#1b9e77", "#d95f02", "#7570b3"]))
    title = "standard deviation of ln FID ratio over seeds"
    panels = [
        alt.LayerChart(
            layer=intervals(block, "optimization", "sd", title, colour),
            width=600,
            title=style.panel_title(str(model)),
        )
        for (_, model), block in frame.groupby(["dataset", "model"], sort=False)
    ]
    subtitle = style.wrap(
        "What a recipe is paired with decides how many seeds a difference needs; bars: 95 % intervals."
    )
    return style.vconcat(panels, "The compression lottery", subtitle)


def tables(frame: pd.DataFrame, wrong: pd.DataFrame) -> str:
    """Return both tables in Markdown."""
    head = [*frame.columns[:4], "seeds", "ratio", "sd [95 %]", *frame.columns[-len(DIFFERENCES) :]]
    spread = [
        [
            *(str(row[name]) for name in frame.columns[:4]),
            str(row["seeds"]),
            f"{row['ratio']:.3f}",
            f"{row['sd']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            *(str(row[name]) for name in head[-len(DIFFERENCES) :]),
        ]
        for _, row in frame.iterrows()
    ]
    pairs = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in wrong.itertuples(index=False)]
    return "\n\n".join(
        [
            "# Seeds that a difference needs",
            grid(head, spread),
            "# Seeds that rank a pair of criteria against the mean of the others",
            grid(list(wrong.columns), pairs),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrix", type=Path, required=True, help="matrix.parquet of a run with three seeds or more")
    parser.add_argument("--out", type=Path, required=True, help="folder for lottery.md, lottery.csv and the figure")
    given = parser.parse_args()
    matrix = read_matrix(given.matrix).frame
    frame, values = spreads(matrix), statistics.by_seed(matrix, METRIC)
    groups = itertools.groupby((recipe for recipe in values if recipe[2] in CRITERIA), key=lambda recipe: recipe[:2])
    wrong = pd.DataFrame([row for _, recipes in groups for row in wrong_rankings(values, list(recipes))])
    if frame.empty or wrong.empty:
        parser.error(
            f"{given.matrix} has no two of {', '.join(CRITERIA)} with {MIN_SEEDS} seeds: run config/lottery.yaml"
        )
    given.out.mkdir(parents=True, exist_ok=True)
    files.write_text(given.out / "lottery.csv", frame.to_csv(index=False, float_format="%.6g"))
    files.write_text(given.out / "lottery.md", tables(frame, wrong) + "\n")
    style.save(figure(frame), given.out / "lottery.svg")


if __name__ == "__main__":
    main()
