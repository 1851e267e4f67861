"""Score a cell's samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff import files
from slimdiff.devices import pick_device
from slimdiff.errors import UserError
from slimdiff.metrics import extractors, reference
from slimdiff.metrics.score import read_samples, score
from slimdiff.settings import build
from slimdiff.stages import command


@dataclass(frozen=True)
class ScoreSettings:
    """How many samples there must be."""

    n_samples: int


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Score samples against the reference of their data set.")
    command.add_device(stage)
    stage.add_argument("--samples", required=True, type=Path, help="samples.npz of the cell")
    stage.add_argument("--reference", required=True, type=Path, help="reference.safetensors of the data set")
    stage.add_argument("--extractors", required=True, type=Path, help="the extractors that the reference was made with")
    stage.add_argument("--out", required=True, type=Path, help="score.json")
    arguments = stage.parse_args(argv)

    settings = build(ScoreSettings, arguments.settings, "--settings of stage score")
    known = reference.read(arguments.reference)
    digest = files.digest(arguments.extractors)
    if digest != known.extractors_sha256:
        raise UserError(
            f"{arguments.reference} was made with other extractors (SHA-256 {known.extractors_sha256}) than "
            f"{arguments.extractors} ({digest}): delete the reference and run again"
        )
    networks, samples = extractors.read(arguments.extractors), read_samples(arguments.samples)
    device = pick_device(arguments.gpu, arguments.threads)
    record = score(samples, settings.n_samples, known, networks, device)
    files.write_json(arguments.out, {**record, "code": arguments.code})
    print(f"{record['status']}: fid {record['fid']}, rfid {record['rfid']} %. {record['reason']}", flush=True)


if __name__ == "__main__":
    command.run(main)
