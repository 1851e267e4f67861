"""Stage page: results/report.html."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.analysis import findings
from slimdiff.analysis.matrix import read_matrix, read_paper
from slimdiff.io import files, records
from slimdiff.report.page import build
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.MatrixArguments):
    """Write one HTML file with the summary, charts, images and tables of the matrix."""

    tables: Annotated[Path, "folder of the tables in Markdown"]
    out: Annotated[Path, "report.html"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    matrix, paper = read_matrix(args.matrix), read_paper(args.paper)
    folders = (args.tables, args.cells, args.trainings, args.benchmarks)
    html = build.build(matrix, findings.read(args.findings), paper, records.read_json(args.claims), *folders)
    files.write_text(args.out, html)
    print(f"{args.out}: {len(html.encode()) / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    command.run(main)
