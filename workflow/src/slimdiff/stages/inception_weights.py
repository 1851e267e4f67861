"""Get the published weights of an Inception network, once for all data sets."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.data.download import Unavailable, fetch
from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.settings import build
from slimdiff.metrics.inception_weights import WEIGHTS, verify
from slimdiff.stages import command


@dataclass(frozen=True)
class InceptionWeightsSettings:
    """Which network."""

    kind: str  # standard or report


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Get the published weights of an Inception network and verify their digest.")
    stage.add_argument("--data-dir", required=True, type=Path, help="where the user may have placed the file")
    stage.add_argument("--out", required=True, type=Path, help="the file of weights, as published")
    arguments = stage.parse_args(argv)

    kind = build(InceptionWeightsSettings, arguments.settings, "--settings of stage inception_weights").kind
    known = WEIGHTS[kind]
    placed = [arguments.data_dir / name for name in known.names if (arguments.data_dir / name).is_file()]
    try:
        content = placed[0].read_bytes() if placed else fetch(known.url, known.max_bytes)
    except Unavailable as reason:
        raise UserError(
            f"inception.{kind} is download, and the weights are not to be had ({reason}): put {known.names[0]} into "
            f"{arguments.data_dir} (config key data_dir), or set inception.{kind} to the file's path or to null"
        ) from None
    source = str(placed[0]) if placed else known.url
    verify(hashlib.sha256(content).hexdigest(), kind, source)
    with files.atomic(arguments.out) as temporary:
        temporary.write_bytes(content)
    print(f"inception {kind}: {len(content):,} bytes from {source}", flush=True)


if __name__ == "__main__":
    command.run(main)
