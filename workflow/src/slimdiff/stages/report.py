"""Stage report: tables and figures of the matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.analysis import findings
from slimdiff.analysis.matrix import read_matrix, read_paper
from slimdiff.io import records
from slimdiff.report.figures import samples, timeline
from slimdiff.report.figures.write import write_figures
from slimdiff.report.tables.write import write_tables
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.MatrixArguments):
    """Write the tables and figures of the matrix, with the paper's numbers and the verdicts on its claims."""

    out_tables: Annotated[Path, "folder of the tables, CSV and Markdown"]
    out_figures: Annotated[Path, "folder of the figures, SVG, PNG and HTML"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    matrix, found, paper = read_matrix(args.matrix), findings.read(args.findings), read_paper(args.paper)
    write_tables(matrix, found, paper, records.read_json(args.claims), args.out_tables)
    write_figures(matrix, found, paper, args.out_figures)
    samples.write_all(matrix, args.cells, args.out_figures)
    timeline.write(timeline.read_jobs(args.benchmarks, args.trainings, matrix.frame), args.out_figures)


if __name__ == "__main__":
    command.run(main)
