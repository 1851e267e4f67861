"""Rows of the matrix: their columns, what is refused, and the schema."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import synthetic

from slimdiff.analysis import columns
from slimdiff.analysis import row as rows
from slimdiff.errors import UserError
from slimdiff.io.records import read_json
from slimdiff.stages import row as stage

SCHEMAS = Path(__file__).parents[2] / "workflow" / "schemas"
CELL = {
    "dataset": "mnist",
    "model": "ncsn",
    "optimization": "l1-30",
    "training": "plain",
    "seed": 1,
    "engine": "torch",
    "engine_precision": "fp32",
    "settings": {"train": {"epochs": 3}},
}


def records() -> dict[str, dict[str, Any]]:
    """Return records as three stages write them for CELL."""
    return {
        "train": {
            "status": "ok",
            "reason": "",
            "train_s": 180.5,
            "train_ms_per_epoch": 60_000.0,
            "started_at": "2026-01-02T03:04:05+00:00",
            "epochs": [{"epoch": 1, "loss": 0.5}],
            "code": "aaa",
            "device": "cuda",
        },
        "score": {
            "status": "ok",
            "reason": "",
            "fid_indomain": 21.5,
            "fid_indomain_pct": 5.25,
            "fid_indomain_extractors": [21.0, 21.5, 22.0],
            "n_samples": 2000,
            "network_evaluations": 19.0,
            "sampler": {"method": "heun", "steps": 10},
            "code": "bbb",
        },
        "profile": {
            "status": "ok",
            "reason": "",
            "params": 1_115_297,
            "size_gzip_bytes": 4_000_000,
            "inference_ms_per_image": 16,
            "threads": 2,
            "device": "cpu",
            "code": "ccc",
        },
    }


def test_a_row_has_exactly_the_columns_each_from_its_stage() -> None:
    row = rows.merge(CELL, records())
    assert list(row) == [column.name for column in columns.COLUMNS]
    assert (row["fid_indomain"], row["params"], row["train_s"], row["seed"]) == (21.5, 1_115_297, 180.5, 1)
    assert row["device"] == "cpu", "the device is that of the profile, not of the training"
    assert row["sampler"] == "heun"
    assert json.loads(row["settings"]) == CELL["settings"]
    assert json.loads(row["code"]) == {"train": "aaa", "score": "bbb", "profile": "ccc"}
    assert (row["status"], row["reason"]) == ("ok", None)


def test_columns_that_were_not_requested_are_null_never_zero() -> None:
    row = rows.merge(CELL, records())
    assert row["kid"] is None
    assert row["size_packed_bytes"] is None


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (("train", "score"), "train: loss became nan in epoch 2"),
        (("score",), "sample: loss became nan in epoch 2"),
        (("profile",), "profile: loss became nan in epoch 2"),
    ],
)
def test_the_first_failing_stage_gives_the_reason(failing: tuple[str, ...], reason: str) -> None:
    given = records()
    for name in failing:
        given[name] |= {"status": "failed", "reason": "loss became nan in epoch 2"}
    given["score"] |= {"fid_indomain": None, "fid_indomain_pct": None}
    row = rows.merge(CELL, given)
    assert (row["status"], row["reason"], row["fid_indomain"]) == ("failed", reason, None)


def test_a_value_of_the_wrong_type_is_refused_by_name() -> None:
    given = records()
    given["profile"]["params"] = "many"
    with pytest.raises(UserError, match=r"mnist/ncsn/l1-30/seed1.*params must be an integer or null, not 'many'"):
        rows.merge(CELL, given)


def test_the_stage_writes_the_row(tmp_path: Path) -> None:
    arguments = ["--cell", json.dumps(CELL), "--code", "fff", "--out", str(tmp_path / "row.json")]
    for name, record in records().items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
        arguments += [f"--{name}", str(tmp_path / f"{name}.json")]
    stage.main(arguments)
    assert read_json(tmp_path / "row.json") == rows.merge(CELL, records())


def test_column_names_are_unique() -> None:
    for group in (columns.COLUMNS, columns.PAPER_COLUMNS):
        names = [column.name for column in group]
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "document"), [("row.schema.json", columns.row_schema), ("paper.schema.json", columns.paper_schema)]
)
def test_the_published_schema_matches_the_columns(name: str, document: Callable[[], dict[str, Any]]) -> None:
    published = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    assert published == document(), "run `make schemas`"
    jsonschema.Draft202012Validator.check_schema(published)


BROKEN = {
    "missing column": lambda row: row.pop("fid_indomain"),
    "unknown column": lambda row: row.update(fidd=1.0),
    "text for a number": lambda row: row.update(fid_indomain="21"),
    "fraction for a count": lambda row: row.update(params=1.5),
    "truth for a count": lambda row: row.update(params=True),
    "count for a truth": lambda row: row.update(disturbed=1),
    "no name": lambda row: row.update(dataset=None),
    "unknown status": lambda row: row.update(status="fine"),
    "failed without a reason": lambda row: row.update(status="failed"),
    "ok with a reason": lambda row: row.update(reason="train: none"),
}


@pytest.mark.parametrize("breaks", BROKEN.values(), ids=BROKEN.keys())
def test_check_and_schema_refuse_the_same_rows(breaks: Callable[[dict[str, Any]], object]) -> None:
    validator = jsonschema.Draft202012Validator(columns.row_schema())
    row = synthetic.row(disturbed=False)
    assert columns.check_row(row) is None
    assert validator.is_valid(row)
    breaks(row)
    assert columns.check_row(row) is not None
    assert not validator.is_valid(row)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(value: float) -> None:
    assert "finite" in str(columns.check_row(synthetic.row(fid_indomain=value)))
