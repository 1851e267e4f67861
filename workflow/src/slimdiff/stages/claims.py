"""Hold the claims against the matrix."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimdiff.analysis import matrix as results
from slimdiff.analysis.claims import file, verdicts
from slimdiff.io import records
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = argparse.ArgumentParser(description=__doc__)
    stage.add_argument("--matrix", required=True, type=Path, help="matrix.parquet")
    stage.add_argument("--paper", required=True, type=Path, help="the report's numbers: paper_reference.csv")
    stage.add_argument("--claims", required=True, nargs="*", help="files of claims, as workflow/resources/claims.yaml")
    stage.add_argument("--code", help="fingerprint of the code; not recorded")
    stage.add_argument("--out", required=True, type=Path, help="claims.json")
    arguments = stage.parse_args(argv)

    matrix = results.read_matrix(arguments.matrix)
    found = verdicts.evaluate_claims(matrix, results.read_paper(arguments.paper), file.read(arguments.claims))
    record = verdicts.to_json(matrix, found)
    records.write_json(arguments.out, record)
    print(f"{arguments.out}: " + ", ".join(f"{n} {verdict}" for verdict, n in record["verdicts"].items()), flush=True)


if __name__ == "__main__":
    command.run(main)
