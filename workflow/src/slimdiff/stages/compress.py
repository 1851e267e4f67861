"""Stage compress: a training's weights and a recipe → model.safetensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from slimdiff.catalog.engines import runtime_of
from slimdiff.checkpoints.model import write_model, write_tensors
from slimdiff.checkpoints.weights import read_verified
from slimdiff.compression.steps import apply_steps
from slimdiff.data import image_set
from slimdiff.diffusion.noise import derive_seed
from slimdiff.engines.lowering import lower_network
from slimdiff.engines.network import Placement
from slimdiff.errors import UserError
from slimdiff.io import packed
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command
from slimdiff.training.losses import mean_loss

SENSITIVITY = (10, 64)  # noise levels, and images per level, for measuring a layer's sensitivity
RECIPE_KEYS = ("weights", "steps", "sampler", "engine", "precision", "plugins")  # settings copied into the header


@dataclass(frozen=True, kw_only=True)
class Arguments(command.SettingsArguments):
    """Apply a recipe's compression steps, in order, to the raw or EMA weights of a training."""

    weights: Annotated[Path, "weights.safetensors of the training"]
    images: Annotated[tuple[Path, ...], "images.safetensors, if the recipe measures something on it"] = ()
    cache: command.CacheFolder = None
    origin: Annotated[dict[str, Any] | None, "JSON: expected header values of --weights; without it unchecked"] = None
    identity: Annotated[str | None, "identity of the cell, recorded for later stages to check"] = None
    out: Annotated[Path, "model.safetensors"]
    out_packed: Annotated[Path, "the same file, packed without loss"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    settings = args.settings
    network, header = read_verified(args.weights, settings["weights"], args.origin)
    images = image_set.read(args.images[0]) if args.images else None
    loss = None if images is None else mean_loss(images.train_images, images.train_labels, header, *SENSITIVITY)
    structure = apply_steps(network, settings["steps"], derive_seed(settings["seed"], "compress"), loss)
    recipe = {key: settings[key] for key in RECIPE_KEYS if key in settings}
    header |= {**recipe, "structure": header["structure"] + structure, "identity": args.identity}
    if header["status"] != "ok":  # a failed training: nothing runs its weights, and lowering could fail on NaN
        header |= {"engine": "torch", "precision": "fp32"}
    if runtime_of(header).is_eager_fp32:
        write_model(args.out, network, header)
    elif images is None:
        raise UserError("--images is missing: the recipe's engine measures its output error on images")
    else:
        lowered = lower_network(network, header, images, Placement(pick_device(0, 1), args.cache))
        write_tensors(args.out, lowered.tensors, {**header, **lowered.header})
        print(f"output error against float32: {lowered.header['output_error']:.2g}", flush=True)
    packed.pack(args.out, args.out_packed)


if __name__ == "__main__":
    command.run(main)
