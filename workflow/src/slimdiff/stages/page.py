"""Write the page that a reviewer is sent: one HTML file with the answer, charts, images and tables of the matrix."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimdiff.analysis import matrix as results
from slimdiff.io import files, records
from slimdiff.report.page import build
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = argparse.ArgumentParser(description=__doc__)
    stage.add_argument("--matrix", required=True, type=Path, help="matrix.parquet")
    stage.add_argument("--paper", required=True, type=Path, help="the report's numbers: paper_reference.csv")
    stage.add_argument("--claims", required=True, type=Path, help="claims.json")
    stage.add_argument("--tables", required=True, type=Path, help="folder of the tables in Markdown")
    stage.add_argument("--cells", required=True, type=Path, help="folder of the cells, with the samples of each")
    stage.add_argument("--trainings", required=True, type=Path, help="folder of the trainings, with the record of each")
    stage.add_argument("--benchmarks", required=True, type=Path, help="folder of what the jobs took; it may be missing")
    stage.add_argument("--out", required=True, type=Path, help="report.html")
    stage.add_argument("--code", help="fingerprint of the code; not recorded")
    arguments = stage.parse_args(argv)

    matrix = results.read_matrix(arguments.matrix)
    paper = results.read_paper(arguments.paper)
    claims = records.read_json(arguments.claims)
    folders = (arguments.tables, arguments.cells, arguments.trainings, arguments.benchmarks)
    html = build.build(matrix, paper, claims, *folders)
    files.write_text(arguments.out, html)
    print(f"{arguments.out}: {len(html.encode()) / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    command.run(main)
