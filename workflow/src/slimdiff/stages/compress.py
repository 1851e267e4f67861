"""Make one cell's model: trained weights, and what its recipe does to them."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff.catalog.engines import runtime_of
from slimdiff.checkpoints import model, origin
from slimdiff.compression.steps import apply_steps
from slimdiff.data import image_set
from slimdiff.diffusion.noise import derive_seed
from slimdiff.engines.lowering import lower_network
from slimdiff.engines.network import Placement
from slimdiff.io import packed
from slimdiff.io.settings import parse
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command
from slimdiff.training.losses import mean_loss

SENSITIVITY = (10, 64)  # noise levels, and images at each, that layers are judged by
RECIPE = ("weights", "steps", "sampler", "engine", "precision", "plugins")  # settings that the file's header repeats


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Take raw or EMA weights of a training and apply a recipe's compression steps in order.")
    stage.add_argument("--weights", type=Path, required=True, help="weights.safetensors of the training")
    stage.add_argument("--images", type=Path, nargs="?", help="images.safetensors, where something is measured on it")
    stage.add_argument("--cache", type=Path, help="folder where compilers keep what other jobs can use")
    stage.add_argument("--origin", type=parse, help="JSON: what the header of --weights must say; not checked without")
    stage.add_argument("--identity", help="of the cell: goes into the header, for later stages to check")
    stage.add_argument("--out", type=Path, required=True, help="model.safetensors")
    stage.add_argument("--out-packed", type=Path, required=True, help="the same packed without loss")
    arguments = stage.parse_args(argv)

    settings = arguments.settings
    network, header = origin.read(arguments.weights, settings["weights"], arguments.origin)
    images = image_set.read(arguments.images) if arguments.images else None
    loss = None if images is None else mean_loss(images.train_images, images.train_labels, header, *SENSITIVITY)
    structure = apply_steps(network, settings["steps"], derive_seed(settings["seed"], "compress"), loss)
    recipe = {key: settings[key] for key in RECIPE if key in settings}
    header |= {**recipe, "structure": header["structure"] + structure, "identity": arguments.identity}
    if header["status"] != "ok":  # weights of a failed training: nobody will run them, and no engine could
        header |= {"engine": "torch", "precision": "fp32"}
    if runtime_of(header).plain:
        model.write_model(arguments.out, network, header)
    else:
        if images is None:
            stage.error("--images is missing: this engine's network is measured on them")
        site = Placement(pick_device(0, 1), arguments.cache)
        lowered = lower_network(network, header, images, site)
        model.write_tensors(arguments.out, lowered.tensors, {**header, **lowered.header})
        print(f"output error against float32: {lowered.header['output_error']:.2g}", flush=True)
    packed.pack(arguments.out, arguments.out_packed)


if __name__ == "__main__":
    command.run(main)
