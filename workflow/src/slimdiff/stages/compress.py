"""Make one cell's model: trained weights, and what its recipe does to them."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff import modelfile, packing, weightfile
from slimdiff.compression.steps import apply_steps
from slimdiff.diffusion.noise import derive_seed
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Take raw or EMA weights of a training and apply a recipe's compression steps in order.")
    stage.add_argument("--weights", type=Path, required=True, help="weights.safetensors of the training")
    stage.add_argument("--out", type=Path, required=True, help="model.safetensors")
    stage.add_argument("--out-packed", type=Path, required=True, help="the same packed without loss")
    arguments = stage.parse_args(argv)

    settings = arguments.settings
    network, header = weightfile.read_training(arguments.weights, settings["weights"])
    structure = apply_steps(network, settings["steps"], derive_seed(settings["seed"], "compress"))
    recipe = {key: settings[key] for key in ("weights", "steps", "sampler", "engine", "plugins") if key in settings}
    modelfile.write_model(arguments.out, network, {**header, **recipe, "structure": header["structure"] + structure})
    packing.pack(arguments.out, arguments.out_packed)


if __name__ == "__main__":
    command.run(main)
