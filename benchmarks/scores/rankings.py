"""Do distances in other features order recipes as the in-domain FID does? Spearman's rank correlation over cells.

    python benchmarks/scores/rankings.py --data results/data/mnist --cells results/cells/mnist --out rankings.csv

reads the reference statistics of a finished run, and the samples of every cell below --cells; without --cells it takes
the sets of blind_spots.py. Networks are those that config.yaml names for the data set.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import yaml
from blind_spots import Strengths, sets

from slimdiff.data import image_set
from slimdiff.io import files
from slimdiff.io.samples import read_samples
from slimdiff.metrics import reference
from slimdiff.metrics.composition import compose
from slimdiff.metrics.mind import mind
from slimdiff.metrics.networks import extractors
from slimdiff.metrics.reference import Reference, on_grid
from slimdiff.metrics.score import canonical_order, compare_pairs

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
        points = [on_grid(y, factor) for y, factor in zip(found, scales, strict=True)]
        pairs, kids = compare_pairs(real, points, scales, labels)
        record["kid"] = sum(math.nan if kid is None else kid for kid in kids) / len(kids)
        record["mind"] = sum(mind(x, y) for x, y in pairs) / len(pairs)
    return record


def cells(folder: Path, seeds: list[int] | None) -> Iterator[tuple[dict[str, str], torch.Tensor, torch.Tensor]]:
    """Yield names, images and labels of every cell below `folder` that did not fail; `seeds`: only these."""
    for path in sorted(folder.glob("*/*/seed*/samples.npz")):
        model, recipe, seed = path.relative_to(folder).parts[:3]
        samples = read_samples(path)
        if samples.status == "ok" and (seeds is None or int(seed.removeprefix("seed")) in seeds):
            names = {"model": model, "recipe": recipe, "seed": seed}
            yield names, torch.from_numpy(samples.images), torch.from_numpy(samples.labels)


def spoilt(folder: Path) -> Iterator[tuple[dict[str, str], torch.Tensor, torch.Tensor]]:
    """Yield names, images and labels of the sets of blind_spots.py, 2,000 images each."""
    for each in sets(image_set.read(folder / "images.safetensors"), 2_000, Strengths()):
        yield {"model": "real images", "set": each.name}, each.images, each.labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images, reference and foreign.safetensors")
    parser.add_argument("--cells", type=Path, help="folder of MODEL/RECIPE/seedN/samples.npz")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument("--out", type=Path, required=True, help="CSV of every cell or set")
    arguments = parser.parse_args()
    options = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["datasets"][arguments.data.name]
    own, foreign = (
        (reference.read(arguments.data / f"{name}.safetensors"), extractors.read(ROOT / options[key]))
        for name, key in (("reference", "extractors"), ("foreign", "foreign_extractors"))
    )
    rows = []
    found = cells(arguments.cells, arguments.seeds) if arguments.cells else spoilt(arguments.data)
    for names, images, labels in found:
        rows.append({**names, "n": len(images), **measure(images, labels, own, foreign)})
        print(rows[-1], flush=True)
        files.write_text(arguments.out, pd.DataFrame(rows).to_csv(index=False))
    for model, block in pd.DataFrame(rows).groupby("model"):
        print(model, len(block), "sets\n", block[list(COLUMNS)].corr("spearman").round(2))


if __name__ == "__main__":
    main()
