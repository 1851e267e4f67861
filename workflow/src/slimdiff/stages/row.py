"""Stage row: the records of one cell → row.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from slimdiff.analysis import row
from slimdiff.checkpoints.identity import check_identity, check_settings
from slimdiff.io.records import read_json, write_json
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.Arguments):
    """Merge the records of one cell's stages into one flat row."""

    cell: Annotated[dict[str, Any], "JSON: dataset, model, optimization, training, seed, engine, settings"]
    train: Annotated[Path, "train.json of the cell's training"]
    score: Annotated[Path, "score.json of the cell"]
    profile: Annotated[Path, "profile.json of the cell"]
    identity: command.Identity = None
    out: Annotated[Path, "row.json"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    paths = {"train": args.train, "score": args.score, "profile": args.profile}
    records = {name: read_json(path) for name, path in paths.items()}
    for name in ("score", "profile"):
        check_identity(paths[name], records[name].get("identity"), args.identity)
    if args.identity is not None:
        check_settings(args.train, records["train"], args.cell["settings"]["train"])
    write_json(args.out, row.merge(args.cell, records))


if __name__ == "__main__":
    command.run(main)
