"""Stage claims: a verdict for each claim, and the findings of the matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.analysis import findings
from slimdiff.analysis.claims import file, verdicts
from slimdiff.analysis.decisions import Margins
from slimdiff.analysis.matrix import read_matrix, read_paper
from slimdiff.io import records
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.SettingsArguments):
    """Test the claims against the matrix, and compute every statistic that the report shows."""

    matrix: Annotated[Path, "matrix.parquet"]
    paper: Annotated[Path, "the paper's numbers: paper_reference.csv"]
    claims: Annotated[tuple[str, ...], "files of claims, such as workflow/resources/claims.yaml"]
    out: Annotated[Path, "claims.json"]
    out_findings: Annotated[Path, "findings.json"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    matrix, margins = read_matrix(args.matrix), Margins(**args.settings["margins"])
    claims = verdicts.evaluate_claims(matrix, read_paper(args.paper), file.read(args.claims), margins)
    record = verdicts.to_json(matrix, claims, margins)
    records.write_json(args.out, record)
    records.write_json(args.out_findings, findings.to_json(findings.find(matrix, margins)))
    print(f"{args.out}: " + ", ".join(f"{n} {verdict}" for verdict, n in record["verdicts"].items()), flush=True)


if __name__ == "__main__":
    command.run(main)
