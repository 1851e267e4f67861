"""Findings: the file round-trips, and covers every table and figure."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic

from slimdiff.analysis import findings, statistics
from slimdiff.analysis.matrix import Matrix, read_matrix
from slimdiff.errors import UserError
from slimdiff.io import records
from slimdiff.report import contents

RESULTS = Path(__file__).parents[2] / "docs" / "results"
MATRICES = {
    "three seeds": synthetic.full(3),
    "one seed": synthetic.full(1),
    "a failure": synthetic.matrix([synthetic.row(), synthetic.row("ema", status="failed")]),
    "nothing but failures": synthetic.matrix([synthetic.row(status="failed")]),
    "published ablations": read_matrix(RESULTS / "sensitivity" / "matrix.parquet"),
    "published guidance": read_matrix(RESULTS / "open-questions" / "matrix.parquet"),
}


def assert_same(left: Any, right: Any) -> None:
    """Assert equality to the last digit; NaN equals NaN."""
    if isinstance(left, pd.DataFrame):
        pd.testing.assert_frame_equal(left, right, check_exact=True)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, float) and math.isnan(left):
        assert math.isnan(right)
    elif hasattr(left, "__dataclass_fields__"):
        for field in fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    else:
        assert left == right


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())
def test_the_file_returns_what_was_computed(tmp_path: Path, matrix: Matrix) -> None:
    path = tmp_path / "findings.json"
    computed = findings.find(matrix, synthetic.MARGINS)
    records.write_json(path, findings.to_json(computed))
    assert_same(findings.read(path), computed)


def test_findings_are_the_statistics_of_the_frame() -> None:
    matrix = synthetic.full(3)
    computed = findings.find(matrix, synthetic.MARGINS)
    recipe = ("mnist", "ncsn", "groups-2")
    frame = matrix.frame
    assert computed.summary("fid_indomain", recipe) == statistics.by_recipe(frame, "fid_indomain")[recipe]
    assert computed.ratio("size_gzip_bytes", recipe) == statistics.ratios(frame, "size_gzip_bytes", "baseline")[recipe]
    assert computed.references[recipe] == computed.differences["reference"][recipe].reference == "baseline"
    assert set(computed.differences) == set(findings.COMPARED)
    assert computed.summary("fid_indomain", ("mnist", "ncsn", "absent")).n == 0
    assert computed.ratio("fid_indomain", ("mnist", "ncsn", "absent")).n == 0


def test_findings_cover_the_tables() -> None:
    assert {spec.baseline for spec in contents.TABLES} <= set(findings.COMPARED) | {"baseline"}
    assert {measure.column for spec in contents.TABLES for measure in spec.measures} <= set(findings.COLUMNS)


@pytest.mark.parametrize(
    "change",
    [{"groups": None}, {"margins": {"quality": 1.25}}, {"summaries": {"fid_indomain": {"mnist": {}}}}, {"outcomes": 3}],
)
def test_a_file_of_another_version_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "findings.json"
    path.write_text(json.dumps(findings.to_json(findings.find(synthetic.full(1), synthetic.MARGINS)) | change))
    with pytest.raises(UserError, match=r"findings\.json .*run again"):
        findings.read(path)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"findings\.json .*run again"):
        findings.read(path)
