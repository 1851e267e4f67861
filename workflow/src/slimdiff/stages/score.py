"""Score a cell's samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.checkpoints import identity
from slimdiff.data import image_set
from slimdiff.io import records
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.settings import build
from slimdiff.metrics import evaluator
from slimdiff.metrics.batches import BATCH_SIZE
from slimdiff.metrics.score import read_samples, score
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


@dataclass(frozen=True)
class ScoreSettings:
    """How many samples there must be."""

    n_samples: int


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Score samples against the real images of their data set.")
    command.add_device(stage)
    stage.add_argument("--samples", required=True, type=Path, help="samples.npz of the cell")
    stage.add_argument("--images", required=True, type=Path, help="images.safetensors of the data set")
    stage.add_argument("--reference", required=True, type=Path, help="reference.safetensors of the data set")
    stage.add_argument("--extractors", required=True, type=Path, help="the extractors that the reference was made with")
    stage.add_argument("--classifier", required=True, type=Path, help="the classifier that judges its samples")
    stage.add_argument("--inception", nargs="*", default=[], type=Path, help="Inception references of the data set")
    stage.add_argument("--identity", help="what the cell's files must carry; not checked without")
    stage.add_argument("--out", required=True, type=Path, help="score.json")
    arguments = stage.parse_args(argv)

    settings = build(ScoreSettings, arguments.settings, "--settings of stage score")
    data = image_set.read(arguments.images)
    digest = read_header(arguments.images, image_set.KIND)["sha256"]
    networks = (arguments.extractors, arguments.classifier, arguments.inception)
    known = evaluator.read(arguments.reference, *networks, (data.train_images, data.train_labels), digest)
    samples = read_samples(arguments.samples)
    identity.check(arguments.samples, samples.identity, arguments.identity)
    device = pick_device(arguments.gpu, arguments.threads)
    record = score(samples, settings.n_samples, known, device)
    records.write_json(arguments.out, {**record, "code": arguments.code, "identity": samples.identity})
    print(
        f"{record['status']}: fid {record['fid_indomain']}, fid_indomain_pct {record['fid_indomain_pct']} %. {record['reason']}",
        flush=True,
    )
    if record["score_batch_size"] not in (None, BATCH_SIZE):
        print(f"note: memory ran out; {record['score_batch_size']} images at once, same scores", flush=True)
    if record["few_samples"]:
        print(f"note: {settings.n_samples} samples are few: the distances are bias for the most part", flush=True)


if __name__ == "__main__":
    command.run(main)
