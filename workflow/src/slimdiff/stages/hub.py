"""Stage hub: the weights of a model of the Hugging Face Hub, next to its JSON files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.errors import UserError
from slimdiff.io.hub import fetch_weights
from slimdiff.io.text import size
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.Arguments):
    """Download the weights of a model of the Hugging Face Hub, and verify their digest."""

    name: Annotated[str, "OWNER/NAME@COMMIT, as models.*.pretrained"]
    data_dir: Annotated[Path, "folder of downloaded data, which has the model's JSON files"]
    out: Annotated[Path, "the weights, next to them"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    try:
        path = fetch_weights(args.name, args.data_dir)
    except UserError as error:
        raise type(error)(f"models.*.pretrained is {args.name!r}: {error}") from None
    if path.resolve() != args.out.resolve():
        raise UserError(f"--out is {args.out}; allowed for {args.name}: {path}")
    print(f"{args.name}: {size(path.stat().st_size)}", flush=True)


if __name__ == "__main__":
    command.run(main)
