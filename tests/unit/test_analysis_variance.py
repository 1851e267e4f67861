"""Components of variance: each source alone, whatever the names of the recipes."""

import itertools
import json
import math
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from slimdiff.analysis import variance
from slimdiff.report.tables.variance import NONE, to_markdown

PRUNE = {"prune": {"method": "random", "amount": 0.1}}
SD = {"training": 0.1, "fine-tuning": 0.05, "mask": 0.4, "sampling": 0.02}


def cell(
    training: int, mask: int, sampling: int, fid: float, finetune: int | None = None, step: Any = PRUNE, **values: Any
) -> dict[str, Any]:
    """A row of a recipe whose settings hold these seeds."""
    train = {"training": {"epochs": 1}, "seed": training}
    starts = {}
    if finetune is not None:
        starts = {"starts": [train]}
        train = {**train, "start": {"training": "plain"}}
        train |= {"finetune_seed": finetune} if finetune != training else {}
    settings = {
        **starts,
        "train": train,
        "compress": {"steps": [step] if step else [], "seed": mask},
        "sample": {"n_samples": 100, "seed": sampling},
        "score": {"n_samples": 100},
    }
    name = values.pop("name", f"mine+mask-{mask}+sampling-{sampling}")
    return synthetic.row(name, training, fid_indomain=fid, kid=fid / 100, settings=json.dumps(settings), **values)


def table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    return variance.table(synthetic.frame(rows))


def effects(source: str, count: int) -> list[float]:
    generator = random.Random(source)
    return [generator.gauss(0.0, SD[source]) for _ in range(count)]


def test_each_source_of_an_additive_model_is_found() -> None:
    """The pooled deviation of effects that only add is that of the effects; KID is FID / 100, so it has the same."""
    drawn = {source: effects(source, 4) for source in SD}
    rows = [
        cell(
            t,
            m,
            s,
            math.exp(3 + sum(drawn[x][i] for x, i in zip(SD, (t, f, m, s), strict=True))),
            f,
            name=f"{t}{f}{m}{s}",
        )
        for t, f, m, s in itertools.product(range(4), repeat=4)
    ]
    frame = table(rows)
    fid = frame[frame["metric"] == "fid_indomain"].set_index("redrawn")
    assert list(fid.index) == [*variance.SOURCES, variance.ALL]
    expected = {source: np.std(values, ddof=1) for source, values in drawn.items()}
    for source in variance.SOURCES:
        row = fid.loc[source]
        assert row["sd"] == pytest.approx(expected[source])
        assert (row["sets"], row["cells"], row["df"]) == (64, 256, 192)
        assert row["share"] == pytest.approx(expected[source] ** 2 / sum(value**2 for value in expected.values()))
        reach = [math.sqrt(192 / stats.chi2.ppf(p, 192)) for p in (0.975, 0.025)]
        assert [row["low"], row["high"]] == pytest.approx([row["sd"] * end for end in reach])
    together = [sum(drawn[source][seed] for source in SD) for seed in range(4)]
    assert fid.loc[variance.ALL, "sd"] == pytest.approx(np.std(together, ddof=1))
    assert math.isnan(fid.loc[variance.ALL, "share"])
    kid = frame[frame["metric"] == "kid"].set_index("redrawn")
    assert kid["sd"].tolist() == pytest.approx(fid["sd"].tolist())


def test_intervals_hold_the_truth() -> None:
    """Of 400 recipes with three masks each on two trainings, 95 % of the intervals hold the mask's deviation."""
    generator, rows = random.Random(0), []
    for recipe, t, m in itertools.product(range(400), range(2), range(3)):
        name, step = f"r{recipe}+mask-{m}", {"prune": {"method": "random", "amount": recipe / 1000}}
        rows.append(cell(t, m, 0, math.exp(generator.gauss(t, 0.3)), step=step, name=name))
    found = table(rows)
    masks = found[(found["redrawn"] == "mask") & (found["metric"] == "fid_indomain")]
    assert (len(masks), set(masks["df"])) == (400, {4})
    assert ((masks["low"] <= 0.3) & (masks["high"] >= 0.3)).mean() == pytest.approx(0.95, abs=0.025)


def test_one_seed_for_everything_is_all_that_a_plain_matrix_has() -> None:
    """Masks of a recipe that draws none are no source: `l1` cells of three seeds differ in training and sampling."""
    plain = [cell(seed, seed, seed, 20 + seed, name="random-10") for seed in range(3)]
    l1 = [cell(seed, seed, 0, 30 + seed, step={"prune": {"method": "l1"}}, name="l1-10") for seed in range(3)]
    found = table([*plain, *l1])
    assert set(zip(found["optimization"], found["redrawn"], strict=True)) == {
        ("random-10", "all"),
        ("l1-10", "training"),
    }
    assert found["df"].tolist() == [2] * 4
    assert found["share"].isna().all()


def test_names_do_not_matter_and_settings_do() -> None:
    """An instance under another name is one of the recipe; the same cell twice is one cell; other steps are another."""
    rows = [cell(0, mask, 0, 20 + mask, name=name) for mask, name in enumerate(("random-10", "mine+mask-1", "hers"))]
    rows += [cell(0, 0, 0, 20, name="random-10-again"), cell(0, 3, 0, 50, step={"low-rank": {}}, name="other")]
    found = table(rows)
    assert set(found["optimization"]) == {"random-10"}
    assert found["cells"].tolist() == [3, 3]
    assert set(found["redrawn"]) == {"mask"}
    assert set(table(rows[1:3])["optimization"]) == {"mine"}


def test_failures_and_values_that_have_no_logarithm_do_not_count() -> None:
    rows = [cell(0, mask, 0, 20 + mask) for mask in range(4)]
    rows[1] |= {"status": "failed", "reason": "sample: black", "fid_indomain": None, "kid": None}
    rows[2]["kid"] = -0.001
    found = table(rows).set_index("metric")
    assert found["cells"].to_dict() == {"fid_indomain": 3, "kid": 2}
    assert table([cell(0, 0, 0, 20.0), synthetic.row()]).empty
    assert list(table([synthetic.row()]).columns) == list(variance.TABLE)


def test_the_table_has_a_line_per_recipe_and_source() -> None:
    rows = [cell(t, m, s, 20 + t + 3 * m + s / 10) for t, m, s in itertools.product(range(2), repeat=3)]
    text = to_markdown(table(rows))
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if "| `mine`" in line]
    assert [line[1:4] for line in lines] == [
        ["training", "8", "4"],
        ["mask", "8", "4"],
        ["sampling", "8", "4"],
        ["all", "2", "1"],
    ]
    shares = [int(line[-1].removesuffix(" %")) for line in lines[:-1]]
    assert sum(shares) in (99, 100, 101)
    assert shares[1] > 80
    assert lines[-1][-1] == "–"
    assert NONE in to_markdown(table([synthetic.row()]))
