"""Stage inception_weights: the published weights of an Inception network, once for all data sets."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.data.download import Unavailable, fetch
from slimdiff.errors import TransientError
from slimdiff.io import files
from slimdiff.io.settings import build
from slimdiff.metrics.networks.inception_weights import WEIGHTS, verify
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.SettingsArguments):
    """Get the published weights of an Inception network and verify their digest."""

    data_dir: Annotated[Path, "folder in which the user may have placed the file"]
    out: Annotated[Path, "weights, as published"]


@dataclass(frozen=True)
class InceptionWeightsSettings:
    """Network."""

    kind: str  # standard or paper


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    kind = build(InceptionWeightsSettings, args.settings, "--settings of stage inception_weights").kind
    weights = WEIGHTS[kind]
    placed = [args.data_dir / name for name in weights.names if (args.data_dir / name).is_file()]
    try:
        content = placed[0].read_bytes() if placed else fetch(weights.url, weights.max_bytes)
    except Unavailable as reason:
        raise TransientError(
            f"inception.{kind} is download, but the weights are unavailable ({reason}): put {weights.names[0]} into "
            f"{args.data_dir} (config key data_dir), or set inception.{kind} to the file's path or to null"
        ) from None
    source = str(placed[0]) if placed else weights.url
    verify(hashlib.sha256(content).hexdigest(), kind, source)
    with files.atomic(args.out) as temporary:
        temporary.write_bytes(content)
    print(f"inception {kind}: {len(content):,} bytes from {source}", flush=True)


if __name__ == "__main__":
    command.run(main)
