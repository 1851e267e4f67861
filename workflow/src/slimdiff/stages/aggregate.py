"""Gather the rows of the matrix's cells in one Parquet file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimdiff.analysis import matrix
from slimdiff.config.resolve import expand
from slimdiff.io import settings
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = argparse.ArgumentParser(description=__doc__)
    stage.add_argument(
        "--matrix", required=True, help='JSON: {"matrix": [entries], "trainings": {optimization: training}}'
    )
    stage.add_argument("--cells", required=True, type=Path, help="folder of DATASET/MODEL/OPTIMIZATION/seedN/row.json")
    stage.add_argument(
        "--config", required=True, help="JSON: what the config says about the matrix, kept as provenance"
    )
    stage.add_argument("--code", default="unknown", help="fingerprint of the code, kept as provenance")
    stage.add_argument("--out", required=True, type=Path, help="matrix.parquet")
    arguments = stage.parse_args(argv)

    requested = settings.parse(arguments.matrix, "--matrix")
    config = settings.parse(arguments.config, "--config")
    rows = matrix.read_rows(arguments.cells, expand(requested["matrix"]), requested["trainings"])
    matrix.write_matrix(arguments.out, matrix.to_frame(rows), matrix.provenance(config, arguments.code))
    failed = sum(row["status"] == "failed" for row in rows)
    print(f"{arguments.out}: {len(rows)} cells, {failed} of them failed", flush=True)


if __name__ == "__main__":
    command.run(main)
