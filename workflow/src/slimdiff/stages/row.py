"""Merge what the stages recorded about one cell into one flat row."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slimdiff.analysis import row
from slimdiff.checkpoints import identity
from slimdiff.io import records
from slimdiff.io import settings
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = argparse.ArgumentParser(description=__doc__)
    stage.add_argument(
        "--cell", required=True, help="JSON: dataset, model, optimization, training, seed, engine, settings"
    )
    for record in row.RECORDS:
        stage.add_argument(f"--{record}", required=True, type=Path, help=f"{record}.json of the cell")
    stage.add_argument("--identity", help="what the cell's files must carry; not checked without")
    stage.add_argument("--out", required=True, type=Path, help="row.json")
    stage.add_argument("--code", help="fingerprint of the code; not recorded, since the row measures nothing itself")
    arguments = stage.parse_args(argv)

    cell = settings.parse(arguments.cell, "--cell")
    records = {record: records.read_json(getattr(arguments, record)) for record in row.RECORDS}
    for record in ("score", "profile"):
        identity.check(getattr(arguments, record), records[record].get("identity"), arguments.identity)
    if arguments.identity is not None:
        identity.check_record(arguments.train, records["train"], cell["settings"]["train"])
    records.write_json(arguments.out, row.merge(cell, records))


if __name__ == "__main__":
    command.run(main)
