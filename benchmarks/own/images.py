"""Write the images of config/own-model.yaml: MNIST as a folder, and what slimdiff trains on of it.

    snakemake --cores 1 results/data/mnist/images.safetensors
    python benchmarks/own/images.py --mnist results/data/mnist/images.safetensors --out data/own-model

OUT/images is the data set of the preset. Its test images are neither in OUT/train nor in the training images of
OUT/train.safetensors, for the programs that make the models.
"""

import argparse
from pathlib import Path

from PIL import Image

from slimdiff.data import image_set, sources
from slimdiff.io import strict_yaml

PRESET = Path(__file__).parents[2] / "config" / "own-model.yaml"


def write(folder: Path, images: image_set.ImageSet) -> None:
    """Write the training images as PNG files by class."""
    for name in images.classes:
        (folder / name).mkdir(parents=True)
    for index, (image, label) in enumerate(zip(images.train_images, images.train_labels, strict=True)):
        pixels = image.squeeze(0) if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / images.classes[label] / f"{index:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write(args.out / "images", image_set.read(args.mnist))
    ((name, options),) = strict_yaml.read_config(PRESET)["datasets"].items()
    settings = sources.DataSettings(name, **{**options, "path": str(args.out / "images")})
    images = sources.load(settings, args.out)
    image_set.write(args.out / "train.safetensors", images)
    write(args.out / "train", images)


if __name__ == "__main__":
    main()
