"""Draw a cell's images."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff.checkpoints import identity
from slimdiff.inference import model
from slimdiff.inference.images import write_png, write_samples
from slimdiff.inference.sampling import grid
from slimdiff.runtime.devices import pick_device
from slimdiff.stages import command

GRID_IMAGES, GRID_COLUMNS = 100, 10  # a conditional model has one column for each class


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser("Sample images from a cell's model with the sampler that its recipe names.")
    command.add_device(stage)
    stage.add_argument("--model", type=Path, required=True, help="model.safetensors of the cell")
    stage.add_argument("--identity", help="what the cell's files must carry; not checked without")
    stage.add_argument("--out", type=Path, required=True, help="samples.npz")
    stage.add_argument("--out-grid", type=Path, required=True, help="PNG of the first hundred images")
    stage.add_argument("--cache", type=Path, help="folder where compilers keep what other jobs can use")
    arguments = stage.parse_args(argv)

    settings = arguments.settings
    loaded = model.load(arguments.model, pick_device(arguments.gpu, arguments.threads), arguments.cache)
    own = loaded.settings.get("identity")
    identity.check(arguments.model, own, arguments.identity)
    sampled = loaded.sample(settings["n_samples"], settings["seed"], batch_size=settings["batch_size"])
    reason = loaded.settings["reason"] or sampled.reason
    facts = (loaded.settings["sampler"], reason, loaded.settings["dataset"]["classes"], own or "")
    write_samples(arguments.out, sampled, *facts)
    write_png(arguments.out_grid, grid(sampled.images[:GRID_IMAGES], columns=loaded.classes or GRID_COLUMNS))
    print(f"{len(sampled.images)} images, {sampled.network_evaluations:.1f} evaluations each. {reason}", flush=True)
    if sampled.batch_size not in (settings["batch_size"], settings["n_samples"]):
        print(f"note: memory ran out; {sampled.batch_size} images at once in the end, the same images", flush=True)


if __name__ == "__main__":
    command.run(main)
