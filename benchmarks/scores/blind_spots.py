"""Sensitivity of each metric: scores of real MNIST test images and of the same images, damaged on purpose.

    python benchmarks/scores/blind_spots.py --results results --out docs/results/blind-spots

reads the images and the references of a finished run and writes blind-spots.csv and a Markdown table. Every set has a
fixed seed, and --n test images drawn at random or training images.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from slimdiff.data import image_set
from slimdiff.io import files
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.samples import Samples
from slimdiff.metrics import evaluator
from slimdiff.metrics.score import score
from slimdiff.runtime.devices import pick_device

RESOURCES = Path(__file__).parents[2] / "workflow/resources"
COLUMNS = {  # column → decimals
    "fid_indomain": 2,
    "fid_indomain_pct": 2,
    "fid_indomain_sampling_sd": 2,
    "fid_foreign": 2,
    "kid": 5,
    "mind": 3,
    "precision": 3,
    "recall": 3,
    "density": 3,
    "coverage": 3,
    "class_accuracy": 3,
    "class_tv": 3,
    "low_confidence": 3,
    "nearest_ratio": 3,
    "memorization_p": 3,
    "copy_share": 4,
}


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur uint8 (N, 1, H, W) with a Gaussian of `sigma` pixels."""
    reach = max(1, round(4 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    x = F.conv2d(images.float(), weights.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(x, weights.view(1, 1, 1, -1), padding=(0, reach)).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Strengths:
    """How strongly images are damaged, by kind of damage."""

    noise: Sequence[float] = (4, 8, 16, 32, 64)  # standard deviation, of 255
    blur: Sequence[float] = (0.4, 0.7, 1.0, 1.5)  # pixels
    missing: Sequence[float] = (1, 2, 3, 5)  # classes; of a fraction, that share of the next class
    double: Sequence[float] = (2, 10, 30)  # percent of the images
    copies: Sequence[int] = (2, 20)  # of each training image


@dataclass(frozen=True)
class Spoilt:
    """Images, damaged on purpose or not."""

    kind: str  # a field of Strengths; "real" for the others
    name: str
    images: torch.Tensor  # uint8 (N, C, H, W)
    labels: torch.Tensor  # int64 (N,); (0,) without


def sets(data: image_set.ImageSet, n: int, strengths: Strengths) -> Iterator[Spoilt]:
    """Yield every set: n test images drawn at random, damaged, or training images."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(len(data.test_images), generator=generator)[:n]
    images, labels = data.test_images[drawn], data.test_labels[drawn]
    yield Spoilt("real", "test images", images, labels)
    noise = torch.randn(images.shape, generator=generator)
    for sigma in strengths.noise:
        spoilt = (images + sigma * noise).round().clamp(0, 255).to(torch.uint8)
        yield Spoilt("noise", f"noise, {sigma:g} of 255", spoilt, labels)
    for width in strengths.blur:
        yield Spoilt("blur", f"blur, {width} pixels", blurred(images, width), labels)
    for lost in strengths.missing:
        kept = labels + torch.arange(len(labels)) / len(labels) >= lost
        yield Spoilt("missing", f"{lost:g} of 10 classes missing, unlabelled", images[kept], labels[:0])
    partner = torch.randperm(len(images), generator=generator)
    for percent in strengths.double:
        double = images.clone()
        chosen = torch.randperm(len(images), generator=generator)[: int(len(images) * percent / 100)]
        double[chosen] = torch.maximum(images[chosen], images[partner[chosen]])
        yield Spoilt("double", f"{percent:g} % two digits at once", double, labels)
    for times in strengths.copies:
        different = len(images) // times
        chosen = torch.randperm(len(data.train_images), generator=generator)[:different].repeat(times)
        name = f"{different:,} training images, {times} times each"
        yield Spoilt("copies", name, data.train_images[chosen], data.train_labels[chosen])
    chosen = torch.randperm(len(data.train_images), generator=generator)[: len(images)]
    yield Spoilt("real", f"{len(images):,} training images", data.train_images[chosen], data.train_labels[chosen])
    jitter = 2 * torch.randn(images.shape, generator=generator)
    nearly = (data.train_images[chosen] + jitter).round().clamp(0, 255).to(torch.uint8)
    yield Spoilt("real", "the same with noise, 2 of 255", nearly, data.train_labels[chosen])
    wrong = torch.randperm(len(labels), generator=generator)
    yield Spoilt("real", "test images, labels shuffled", images, labels[wrong])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="a run's folder, with data/mnist in it")
    parser.add_argument("--n", type=int, default=2_000, help="images of each set")
    parser.add_argument("--out", type=Path, required=True, help="folder for blind-spots.csv and blind-spots.md")
    arguments = parser.parse_args()
    device = pick_device(0, torch.get_num_threads())
    folder = arguments.results / "data/mnist"
    extractors, classifier = (RESOURCES / kind / "mnist.safetensors" for kind in ("extractors", "classifiers"))
    foreign = (folder / "foreign.safetensors", RESOURCES / "extractors/fashion_mnist.safetensors")
    images_path = folder / "images.safetensors"
    data, digest = image_set.read(images_path), read_header(images_path, image_set.KIND)["sha256"]
    training = (data.train_images, data.train_labels)
    scorer = evaluator.read(folder / "reference.safetensors", extractors, classifier, [], training, digest, foreign)
    rows = []
    for spoilt in sets(data, arguments.n, Strengths()):
        samples = Samples(spoilt.images.numpy(), spoilt.labels.numpy(), (), {}, 0.0)
        record = score(samples, len(spoilt.images), scorer, device)
        rows.append({"set": spoilt.name, "n": len(spoilt.images), **{column: record[column] for column in COLUMNS}})
        print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    files.write_text(arguments.out / "blind-spots.csv", frame.to_csv(index=False))
    lines = [["set", "images", *COLUMNS], ["---"] * (len(COLUMNS) + 2)]
    for row in rows:
        numbers = ("–" if row[name] is None else f"{row[name]:.{places}f}" for name, places in COLUMNS.items())
        lines.append([row["set"], f"{row['n']:,}", *numbers])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    files.write_text(arguments.out / "blind-spots.md", table + "\n")


if __name__ == "__main__":
    main()
