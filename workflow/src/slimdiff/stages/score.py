"""Stage score: the metrics of a cell's samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.checkpoints.identity import check_identity
from slimdiff.data import image_set
from slimdiff.io import records
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.samples import read_samples
from slimdiff.io.settings import build
from slimdiff.metrics import evaluator
from slimdiff.metrics.networks.base import BATCH_SIZE
from slimdiff.metrics.score import score
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command


@dataclass(frozen=True, kw_only=True)
class Arguments(command.DeviceArguments):
    """Score samples against the real images of their data set."""

    samples: Annotated[Path, "samples.npz of the cell"]
    images: command.ImagesPath
    reference: Annotated[Path, "reference.safetensors of the data set"]
    extractors: Annotated[Path, "extractors.safetensors that made the reference"]
    foreign: Annotated[Path | None, "foreign.safetensors of the data set"] = None
    foreign_extractors: Annotated[Path | None, "another data set's extractors that made it"] = None
    classifier: Annotated[Path, "classifier.safetensors of the data set"]
    baseline: Annotated[Path | None, "samples.npz of the baseline from the same noise"] = None
    inception: Annotated[tuple[Path, ...], "Inception references of the data set"] = ()
    identity: command.Identity = None
    out: Annotated[Path, "score.json"]


@dataclass(frozen=True)
class ScoreSettings:
    """Expected number of samples."""

    n_samples: int


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = build(ScoreSettings, args.settings, "--settings of stage score")
    images = image_set.read(args.images)
    header = read_header(args.images, image_set.KIND)
    copies = header.get("report", {}).get("duplicates", {}).get("across")
    networks = (args.extractors, args.classifier, list(args.inception))
    training = (images.train_images, images.train_labels)
    foreign = (args.foreign, args.foreign_extractors) if args.foreign and args.foreign_extractors else None
    scorer = evaluator.read(args.reference, *networks, training, header["sha256"], foreign)
    samples = read_samples(args.samples)
    check_identity(args.samples, samples.identity, args.identity)
    baseline = read_samples(args.baseline) if args.baseline else None
    record = score(samples, settings.n_samples, scorer, pick_device(args.gpu, args.threads), baseline)
    facts = {"test_images_in_training": copies, "code": args.code, "identity": samples.identity}
    records.write_json(args.out, {**record, **facts})
    fid, percent = record["fid_indomain"], record["fid_indomain_pct"]
    print(f"{record['status']}: fid_indomain {fid}, fid_indomain_pct {percent} %. {record['reason']}", flush=True)
    if record["score_batch_size"] not in (None, BATCH_SIZE):
        print(f"note: memory ran out; {record['score_batch_size']} images at once, same scores", flush=True)
    floor_n = record["fid_indomain_floor_n"]
    if record["status"] == "ok" and floor_n != settings.n_samples:
        found = "too few for a floor" if floor_n is None else f"{floor_n:,}, fewer than samples: the floor is too high"
        print(f"note: test images with the samples' classes: {found}", flush=True)
    if record["status"] == "ok" and record["kid"] is None:
        print(
            f"note: no kid, which needs two images of each class: one has a single image among the "
            f"{record['manifold_n']:,} compared; raise sampling.n_samples, or add training images of the rarest class",
            flush=True,
        )
    if record["few_samples"]:
        print(f"note: {settings.n_samples} samples are few: bias dominates the distances", flush=True)


if __name__ == "__main__":
    command.run(main)
