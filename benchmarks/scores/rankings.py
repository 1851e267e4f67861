"""Do distances in other features order recipes as the in-domain FID does? Spearman's rank correlation over cells.

    python benchmarks/scores/rankings.py --data results/data/mnist --cells results/cells/mnist --out rankings.csv

reads the reference statistics of a finished run, and the samples of every cell below --cells. Networks are those that
config.yaml names for the data set.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
import yaml

from slimdiff.io import files
from slimdiff.io.samples import read_samples
from slimdiff.metrics import reference
from slimdiff.metrics.composition import compose
from slimdiff.metrics.kid import kernel_distance, kernel_distance_by_class
from slimdiff.metrics.mind import mind
from slimdiff.metrics.networks import extractors
from slimdiff.metrics.reference import Reference, on_grid
from slimdiff.metrics.score import canonical_order

ROOT = Path(__file__).parents[2]
COLUMNS = ("fid_indomain", "fid_foreign", "kid", "mind")


def features_of(images: torch.Tensor, networks: list[extractors.Extractor]) -> list[torch.Tensor]:
    """Return the features (n, 64) of `images` under each network."""
    return [extractors.features(network, extractors.fitted(images, network.image_shape)) for network in networks]


def measure(
    images: torch.Tensor,
    labels: torch.Tensor,
    own: tuple[Reference, list[extractors.Extractor]],
    foreign: tuple[Reference, list[extractors.Extractor]],
) -> dict[str, float]:
    """Return the distances of COLUMNS; KID and MIND pair as many images of each class as both sides have."""
    order = canonical_order(images, labels)
    images, labels = images[order], labels[order] if len(labels) else labels
    record = {}
    for column, (known, networks) in {"fid_indomain": own, "fid_foreign": foreign}.items():
        real, found = compose(known, labels), features_of(images, networks)
        record[column] = reference.distance(real, found).fid_indomain
        if column == "fid_foreign":
            continue
        scales = [real.scale(index) for index in range(len(networks))]
        pairs = [
            (on_grid(x, factor), on_grid(y, factor))
            for x, y, factor in zip(real.train_features, found, scales, strict=True)
        ]
        kids = [
            kernel_distance_by_class(x, real.train_labels, y, labels) if len(labels) else kernel_distance(x, y)
            for x, y in pairs
        ]
        record["kid"] = sum(kids) / len(kids)
        record["mind"] = sum(mind(x, y) for x, y in pairs) / len(pairs)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of reference.safetensors and foreign.safetensors"
    )
    parser.add_argument("--cells", type=Path, required=True, help="folder of MODEL/RECIPE/seedN/samples.npz")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument("--out", type=Path, required=True, help="CSV of every cell")
    arguments = parser.parse_args()
    options = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["datasets"][arguments.data.name]
    own, foreign = (
        (reference.read(arguments.data / f"{name}.safetensors"), extractors.read(ROOT / options[key]))
        for name, key in (("reference", "extractors"), ("foreign", "foreign_extractors"))
    )
    rows = []
    for path in sorted(arguments.cells.glob("*/*/seed*/samples.npz")):
        model, recipe, seed = path.relative_to(arguments.cells).parts[:3]
        samples = read_samples(path)
        if samples.status != "ok" or (arguments.seeds and int(seed.removeprefix("seed")) not in arguments.seeds):
            continue
        record = measure(torch.from_numpy(samples.images), torch.from_numpy(samples.labels), own, foreign)
        rows.append({"model": model, "recipe": recipe, "seed": seed, "n": len(samples.images), **record})
        print(rows[-1], flush=True)
        files.write_text(arguments.out, pd.DataFrame(rows).to_csv(index=False))
    for model, block in pd.DataFrame(rows).groupby("model"):
        print(model, len(block), "cells\n", block[list(COLUMNS)].corr("spearman").round(2))


if __name__ == "__main__":
    main()
