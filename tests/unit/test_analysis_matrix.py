"""The matrix as a frame and as a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic

from slimdiff.analysis import matrix
from slimdiff.analysis.columns import COLUMNS
from slimdiff.config.cells import Cell
from slimdiff.errors import UserError
from slimdiff.stages import aggregate

TRAININGS = {name: recipe["training"] for name, recipe in synthetic.OPTIMIZATIONS.items()}
CELLS = [Cell("mnist", "ncsn", "baseline", 0), Cell("mnist", "ncsn", "groups-2", 0)]


def write_rows(folder: Path, *changed: dict[str, Any]) -> None:
    """Write the rows of CELLS below `folder`, each with its changes."""
    for cell, changes in zip(CELLS, changed or ({}, {}), strict=True):
        path = matrix.row_path(folder, cell)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(synthetic.row(cell.optimization, cell.seed) | changes))


def test_dtypes_do_not_depend_on_the_values() -> None:
    whole = matrix.to_frame([synthetic.row()])
    empty = matrix.to_frame([synthetic.row() | {c.name: None for c in COLUMNS if not c.required}])
    none = matrix.to_frame([])
    expected = {column.name: column.dtype for column in COLUMNS}
    for frame in (whole, empty, none):
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == expected


def test_the_file_keeps_rows_units_and_provenance(tmp_path: Path) -> None:
    rows = [synthetic.row(), synthetic.row("l1-30", status="failed")]
    frame = matrix.to_frame(rows)
    path = tmp_path / "matrix.parquet"
    matrix.write_matrix(path, frame, matrix.provenance(synthetic.CONFIG, "abc"))
    back = matrix.read_matrix(path)
    pd.testing.assert_frame_equal(back.frame, frame)
    assert back.units["size_bytes"] == "bytes"
    assert back.units["train_s"] == "s"
    source = back.provenance
    assert source["config"] == synthetic.CONFIG
    assert source["code"] == "abc"
    assert {"git_commit", "machine", "slimdiff", "versions", "written_at"} <= set(source)
    assert pd.isna(back.frame["fid_indomain"].iloc[1]), "a metric of a failed cell is null"


def test_other_parquet_readers_see_units_and_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "matrix.parquet"
    matrix.write_matrix(path, matrix.to_frame([synthetic.row()]), {})
    field = pq.read_schema(path).field("inference_ms_per_image")
    assert field.metadata[b"unit"] == b"ms"
    assert b"sampling time per image" in field.metadata[b"meaning"]
    plain = pd.read_parquet(path)
    assert str(plain["params"].dtype) == "Int64"
    assert str(plain["kid"].dtype) == "Float64"


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    pd.DataFrame({"fid_indomain": [1.0]}).to_parquet(path)
    with pytest.raises(UserError, match=r"old\.parquet has other columns"):
        matrix.read_matrix(path)
    path.write_text("no parquet")
    with pytest.raises(UserError, match=r"old\.parquet is not readable Parquet.* If a run wrote it, delete"):
        matrix.read_matrix(path)  # any file can be named by mistake, and a good one must not be deleted
    with pytest.raises(UserError, match=r"none\.parquet does not exist"):
        matrix.read_matrix(tmp_path / "none.parquet")


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a matrix of one cell and change its file."""
    matrix.write_matrix(path, matrix.to_frame([synthetic.row()]), {"config": synthetic.CONFIG})
    pq.write_table(change(pq.read_table(path)), path)


def test_a_file_of_an_older_slimdiff_is_read_with_nulls(tmp_path: Path) -> None:
    """It lacks newer columns; its own values are kept."""
    later = ["fid_indomain_min", "fid_indomain_sampling_sd", "class_tv", "nearest_ratio"]
    path = tmp_path / "old.parquet"
    footer = {matrix.FOOTER_KEY: json.dumps({"config": synthetic.CONFIG})}  # which had no digests
    rewrite(path, lambda table: table.drop_columns(later).replace_schema_metadata(footer))
    back = matrix.read_matrix(path)
    assert back.frame[later].isna().all(axis=None)
    assert {name: str(dtype) for name, dtype in back.frame.dtypes.items()} == {c.name: c.dtype for c in COLUMNS}
    assert back.frame["fid_indomain"].tolist() == [synthetic.row()["fid_indomain"]]
    assert back.provenance["config"] == synthetic.CONFIG


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.append_column("taste", pa.array(["sweet"])),
        lambda table: table.drop_columns(["seed"]),
        lambda table: table.set_column(0, "dataset", pa.array([1])),
    ],
    ids=["unknown column", "no seed", "other type"],
)
def test_a_file_with_unknown_columns_is_refused(tmp_path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    path = tmp_path / "foreign.parquet"
    rewrite(path, change)
    with pytest.raises(UserError, match=r"foreign\.parquet has other columns"):
        matrix.read_matrix(path)


def test_the_committed_matrices_can_be_read() -> None:
    for path in sorted((Path(__file__).parents[2] / "docs" / "results").glob("*/matrix.parquet")):
        assert len(matrix.read_matrix(path).frame), path


def test_rows_follow_the_order_of_the_matrix_and_no_others_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path)
    stray = matrix.row_path(tmp_path, Cell("mnist", "ncsn", "ema", 0))
    stray.parent.mkdir(parents=True)
    stray.write_text("not even JSON")
    rows = matrix.read_rows(tmp_path, reversed(CELLS), TRAININGS)
    assert [row["optimization"] for row in rows] == ["groups-2", "baseline"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fid_indomain": "21"}, "fid_indomain must be a finite number or null, not '21'"),
        ({"seed": 7}, "seed is 7, expected 0"),
        ({"training": "plain"}, "training is 'plain', expected 'groups-2'"),
        ({"new": 1}, "unknown column 'new'"),
    ],
)
def test_a_broken_row_is_refused_with_its_file(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    write_rows(tmp_path, {}, changes)
    with pytest.raises(UserError) as caught:
        matrix.read_rows(tmp_path, CELLS, TRAININGS)
    assert str(matrix.row_path(tmp_path, CELLS[1])) in str(caught.value)
    assert complaint in str(caught.value)


def test_a_truncated_or_missing_row_is_refused_with_its_file(tmp_path: Path) -> None:
    write_rows(tmp_path)
    path = matrix.row_path(tmp_path, CELLS[0])
    path.write_text(path.read_text()[:40])
    with pytest.raises(UserError, match=r"baseline/seed0/row\.json is not readable JSON"):
        matrix.read_rows(tmp_path, CELLS, TRAININGS)
    path.unlink()
    with pytest.raises(UserError, match=r"baseline/seed0/row\.json does not exist"):
        matrix.read_rows(tmp_path, CELLS, TRAININGS)


def test_a_cell_listed_twice_is_refused() -> None:
    with pytest.raises(UserError, match="mnist/ncsn/baseline/0 is listed twice"):
        matrix.to_frame([synthetic.row(), synthetic.row()])


def test_ten_thousand_cells_fit_into_a_short_argument(tmp_path: Path) -> None:
    write_rows(tmp_path)
    names = [f"recipe-{number:04}" for number in range(2000)]
    given = {"matrix": [{"dataset": "mnist", "model": "ncsn", "optimizations": names, "seeds": [0, 1, 2, 3, 4]}]}
    given["trainings"] = dict.fromkeys(names, "plain")  # type: ignore[assignment]
    assert len(json.dumps(given)) < 100_000
    given = {
        "matrix": [{"dataset": "mnist", "model": "ncsn", "optimizations": ["baseline", "groups-2"], "seeds": [0]}],
        "trainings": TRAININGS,  # type: ignore[dict-item]
    }
    out = tmp_path / "matrix.parquet"
    config = json.dumps(synthetic.CONFIG)
    aggregate.main(
        [
            "--matrix",
            json.dumps(given),
            "--config",
            config,
            "--code",
            "abc",
            "--cells",
            str(tmp_path),
            "--out",
            str(out),
        ]
    )
    back = matrix.read_matrix(out)
    assert back.frame["optimization"].tolist() == ["baseline", "groups-2"]
    assert back.provenance["config"] == synthetic.CONFIG
