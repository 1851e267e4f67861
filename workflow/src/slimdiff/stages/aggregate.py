"""Stage aggregate: one row.json per cell → matrix.parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from slimdiff.analysis import matrix
from slimdiff.config.cells import expand
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.Arguments):
    """Collect the rows of the matrix's cells in one Parquet file."""

    matrix: Annotated[dict[str, Any], 'JSON: {"matrix": [entries], "trainings": {optimization: training}}']
    cells: Annotated[Path, "folder of DATASET/MODEL/OPTIMIZATION/seedN/row.json"]
    config: Annotated[dict[str, Any], "JSON: what the config says about the matrix, kept as provenance"]
    out: Annotated[Path, "matrix.parquet"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    rows = matrix.read_rows(args.cells, expand(args.matrix["matrix"]), args.matrix["trainings"])
    matrix.write_matrix(args.out, matrix.to_frame(rows), matrix.provenance(args.config, args.code))
    failed = sum(row["status"] == "failed" for row in rows)
    print(f"{args.out}: {len(rows)} cells, {failed} of them failed", flush=True)


if __name__ == "__main__":
    command.run(main)
