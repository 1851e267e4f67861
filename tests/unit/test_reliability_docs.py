"""docs/reliability.md: every row names tests that exist, and every test of a fault has a row."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "::" in line]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
FAULTS = ("tests/workflow/test_faults.py", "tests/workflow/test_disturbed.py", "tests/unit/test_disk_full.py")


def names_in(path: str) -> set[str]:
    """Names of the test functions in a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_a_row_says_everything_and_names_its_tests(row: list[str]) -> None:
    assert len(row) == 5
    assert all(cell.strip() for cell in row)
    named = NAMED.findall(row[-1])
    assert named, "a row without a test"
    assert row[-1].count("`") == 2 * len(named), "something is named that is no test"
    for path, name in named:
        assert name in names_in(path), f"{path} has no {name}"


@pytest.mark.parametrize("path", FAULTS)
def test_every_test_of_a_fault_has_a_row(path: str) -> None:
    named = {name for row in ROWS for found, name in NAMED.findall(row[-1]) if found == path}
    assert names_in(path) == named
