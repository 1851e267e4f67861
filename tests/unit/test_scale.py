"""Code that reads all cells scales linearly with their number; counted in calls, since times are noisy."""

import cProfile
import json
import os
import pstats
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import synthetic
from pagefolder import CLAIMS, PAPER

from slimdiff.analysis import findings
from slimdiff.analysis import matrix as results
from slimdiff.analysis.claims import file, verdicts
from slimdiff.report.figures import timeline
from slimdiff.report.page import build, summary
from slimdiff.report.tables import write as tables

SEEDS = 4
FOUND: dict[int, findings.Findings] = {}  # the findings of this many recipes


def matrix(recipes: int, path: Path) -> results.Matrix:
    """Return a matrix of `n` pruned recipes with SEEDS seeds each, read from its file as the stages do."""
    names = ["baseline", *(f"l1-{index:04}" for index in range(1, recipes))]
    known = {name: {"training": "plain", "prune": {"method": "l1", "amount": 0.1}} for name in names[1:]}
    config = synthetic.CONFIG | {"optimizations": synthetic.OPTIMIZATIONS | known}
    rows = [synthetic.row(name, seed, training="plain") for name in names for seed in range(SEEDS)]
    results.write_matrix(path, results.to_frame(rows), {"config": config})
    return results.read_matrix(path)


def calls(work: Callable[[], Any]) -> int:
    profile = cProfile.Profile()
    profile.runcall(work)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def claims_of(frame: results.Matrix) -> dict[str, Any]:
    return verdicts.to_json(
        frame,
        verdicts.evaluate_claims(frame, results.read_paper(PAPER), file.read([str(CLAIMS)]), synthetic.MARGINS),
        synthetic.MARGINS,
    )


@pytest.mark.parametrize("part", ["read", "claims", "findings", "tables", "answer"])
def test_four_times_the_cells_take_no_more_than_four_times_the_calls(tmp_path: Path, part: str) -> None:
    found = []
    for recipes in (60, 60, 240):  # the first run fills caches
        path = tmp_path / f"{recipes}.parquet"
        frame = matrix(recipes, path)
        if part in ("tables", "answer") and recipes not in FOUND:
            FOUND[recipes] = findings.find(frame, synthetic.MARGINS)
        paper, record = results.read_paper(PAPER), claims_of(frame) if part == "tables" else {}
        work: dict[str, Callable[[], Any]] = {
            "read": partial(results.read_matrix, path),
            "claims": partial(claims_of, frame),
            "tables": partial(tables.write_tables, frame, FOUND.get(recipes), paper, record, tmp_path / "tables"),
            "findings": partial(findings.find, frame, synthetic.MARGINS),
            "answer": partial(summary.answer, frame.frame, FOUND.get(recipes)),
        }
        found.append(calls(work[part]))
    assert found[2] < 4.4 * found[1]


def test_a_timeline_of_many_jobs_has_few_bars(tmp_path: Path) -> None:
    frame = matrix(150, tmp_path / "matrix.parquet")
    for name in ("sample", "score"):
        for index, row in enumerate(frame.frame.to_dict("records")):
            path = tmp_path / "benchmarks" / name / "mnist/ncsn" / row["optimization"] / f"seed{row['seed']}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"s": 9.0, "cpu_time": 5.0, "max_rss": 100.0 + index}))
            os.utime(path, (1e9 + 10 * index, 1e9 + 10 * index))
    jobs = timeline.read_jobs(tmp_path / "benchmarks", tmp_path / "train", frame.frame)
    assert len(jobs) == 2 * 150 * SEEDS > timeline.MAX_BARS
    drawn = timeline.panel(jobs, 0).data
    assert len(drawn) <= 2 * (timeline.MAX_BINS + 1)
    assert drawn["seconds"].sum() == pytest.approx(jobs["seconds"].sum())
    assert drawn["memory_mb"].max() == jobs["memory_mb"].max()
    assert drawn["job"].str.contains(" and 1 more| and 2 more").any()
    few = jobs.head(30)
    few.attrs = jobs.attrs
    assert len(timeline.panel(few, 0).data) == 30


def test_a_long_table_on_the_page_says_how_much_it_leaves_out(tmp_path: Path) -> None:
    lines = [f"| recipe-{index} | 1 |" for index in range(build.MAX_ROWS + 100)]
    text = "\n".join(["# All cells", "", "Caption.", "", "| recipe | FID |", "|---|---|", *lines, ""])
    (tmp_path / "cells.md").write_text(text, encoding="utf-8")
    body = build._table(tmp_path / "cells.md")["body"]
    assert body.count("<tr>") == build.MAX_ROWS - 1, "with its heading, without the rule below it"
    assert "102 more lines are in tables/cells.md" in body
    assert "recipe-0<" in body
    short = "\n".join(text.split("\n")[:20])
    (tmp_path / "cells.md").write_text(short, encoding="utf-8")
    assert "more lines" not in build._table(tmp_path / "cells.md")["body"]
