"""Draw the tables and figures of the matrix, with the report's numbers beside ours and the verdicts on its claims."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimdiff.analysis import matrix as results
from slimdiff.io import records
from slimdiff.report.figures import samples, timeline
from slimdiff.report.figures.write import write_figures
from slimdiff.report.tables.write import write_tables
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = argparse.ArgumentParser(description=__doc__)
    stage.add_argument("--matrix", required=True, type=Path, help="matrix.parquet")
    stage.add_argument("--paper", required=True, type=Path, help="the report's numbers: paper_reference.csv")
    stage.add_argument("--claims", required=True, type=Path, help="claims.json")
    stage.add_argument("--cells", required=True, type=Path, help="folder of the cells, with the samples of each")
    stage.add_argument("--trainings", required=True, type=Path, help="folder of the trainings, with the record of each")
    stage.add_argument("--benchmarks", required=True, type=Path, help="folder of what the jobs took; it may be missing")
    stage.add_argument("--out-tables", required=True, type=Path, help="folder of the tables, CSV and Markdown")
    stage.add_argument("--out-figures", required=True, type=Path, help="folder of the figures, SVG, PNG and HTML")
    stage.add_argument("--code", help="fingerprint of the code; not recorded")
    arguments = stage.parse_args(argv)

    matrix = results.read_matrix(arguments.matrix)
    paper = results.read_paper(arguments.paper)
    write_tables(matrix, paper, records.read_json(arguments.claims), arguments.out_tables)
    write_figures(matrix, paper, arguments.out_figures)
    samples.write_all(matrix, arguments.cells, arguments.out_figures)
    timeline.write(timeline.read_jobs(arguments.benchmarks, arguments.trainings, matrix), arguments.out_figures)


if __name__ == "__main__":
    command.run(main)
