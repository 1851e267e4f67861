"""The picture of the rules: drawn from Snakemake's graph, complete, and readable."""

import importlib.util
import itertools
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOT = """digraph snakemake_dag {
	0[label = "all", color = "0.04 0.6 0.85", style="rounded"];
	1[label = "last", color = "0.04 0.6 0.85", style="rounded"];
	2[label = "first", color = "0.04 0.6 0.85", style="rounded"];
	3[label = "upper", color = "0.04 0.6 0.85", style="rounded"];
	4[label = "lower", color = "0.04 0.6 0.85", style="rounded"];
	5[label = "lowest", color = "0.04 0.6 0.85", style="rounded"];
	1 -> 0
	2 -> 1
	2 -> 3
	2 -> 4
	4 -> 5
	5 -> 1
	3 -> 1
}
"""


@pytest.fixture(scope="module")
def drawer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_dag", ROOT / "docs" / "draw_dag.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_what_a_longer_way_implies_is_left_out(drawer: ModuleType) -> None:
    edges = drawer.reduced(drawer.read(DOT))
    assert edges == {
        "last": {"upper", "lowest"},
        "first": set(),
        "upper": {"first"},
        "lower": {"first"},
        "lowest": {"lower"},
    }
    assert drawer.columns(edges) == {"first": 0, "upper": 1, "lower": 1, "lowest": 2, "last": 3}


def test_lines_pass_between_boxes_and_do_not_cross(drawer: ModuleType) -> None:
    edges = drawer.reduced(drawer.read(DOT))
    rows = drawer.places(edges)
    assert len(set(zip(rows.values(), (column for _, column in rows), strict=True))) == len(rows) == 6
    assert ("upper → last", 2) in rows, "a line that passes a column has a place of its own there"
    steps = {(one, two) for way in drawer.ways(edges).values() for one, two in itertools.pairwise(way)}
    assert drawer.crossings(steps, rows) == 0
    upper, lower = rows["upper", 1], rows["lower", 1]
    crossed = rows | {("upper", 1): lower, ("lower", 1): upper}
    assert drawer.crossings(steps, crossed) == 1


def test_nothing_to_draw_is_said(drawer: ModuleType) -> None:
    with pytest.raises(SystemExit, match="error: no rules"):
        drawer.read("Building DAG of jobs...\n")


def test_the_picture_has_the_rules_of_a_default_run() -> None:
    """Those of the rule files, but for what a default run has shipped or does not ask for."""
    shown = set(re.findall(r"<text[^>]*>(\w+)</text>", (ROOT / "docs" / "dag.svg").read_text(encoding="utf-8")))
    files = (ROOT / "workflow" / "rules").glob("*.smk")
    rules = {name for path in files for name in re.findall(r"^rule (\w+):", path.read_text(encoding="utf-8"), re.M)}
    assert shown == rules - {"extractors", "classifier", "inception", "inception_weights"}
