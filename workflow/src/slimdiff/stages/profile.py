"""Measure a cell's model: what it holds, what it weighs, how long and how much memory an image takes, how well it
denoises."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff.checkpoints import identity
from slimdiff.checkpoints.model import KIND
from slimdiff.io.safetensors_header import read_header
from slimdiff.io.records import write_json
from slimdiff.profiling.profile import profile
from slimdiff.runtime.devices import describe_device, pick_device
from slimdiff.stages import command


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser(
        "Measure size, arithmetic, latency, memory and denoising loss of a cell's model. Run it alone on the machine, "
        "unless `repeats` is 0, which times nothing."
    )
    command.add_device(stage)
    stage.add_argument("--model", type=Path, required=True, help="model.safetensors of the cell")
    stage.add_argument("--reference", type=Path, help="model.safetensors that its speed is held against")
    stage.add_argument("--images", type=Path, required=True, help="images.safetensors of its data set")
    stage.add_argument("--packed", type=Path, required=True, help="model.packed of the cell")
    stage.add_argument("--identity", help="what the cell's files must carry; not checked without")
    stage.add_argument("--out", type=Path, required=True)
    arguments = stage.parse_args(argv)

    own = read_header(arguments.model, KIND).get("identity")
    identity.check(arguments.model, own, arguments.identity)
    device = pick_device(arguments.gpu, arguments.threads)
    measured = profile(arguments.model, arguments.settings, device, arguments.reference, arguments.images)
    machine = describe_device(device, arguments.threads)
    packed = {"size_packed_bytes": arguments.packed.stat().st_size}
    write_json(arguments.out, {**measured, **packed, **machine, "code": arguments.code, "identity": own})
    if arguments.settings["repeats"] and measured.get("batch_size") != arguments.settings["batch_size"]:
        kept = measured.get("batch_size") or "half of them was too much as well"
        print(f"note: memory ran out at {arguments.settings['batch_size']} images at once: {kept}", flush=True)


if __name__ == "__main__":
    command.run(main)
