"""Train on from another training's weights: raw and EMA weights, and the record of how it went."""

from collections.abc import Sequence
from pathlib import Path

from slimdiff.checkpoints import weights
from slimdiff.data import image_set
from slimdiff.io.records import read_json, write_json
from slimdiff.runtime.devices import describe_device, pick_device
from slimdiff.stages import command
from slimdiff.training.finetune import finetune
from slimdiff.training.state import clear_state


def main(argv: Sequence[str] | None = None) -> None:
    stage = command.parser(
        "Take the weights of a training, remove channels if asked to, and train on; goes on from its saved state."
    )
    command.add_device(stage)
    stage.add_argument("--images", type=Path, required=True, help="images.safetensors of the data set")
    stage.add_argument("--start", type=Path, required=True, help="weights.safetensors of the training to start from")
    stage.add_argument("--start-record", type=Path, required=True, help="train.json of the same")
    stage.add_argument("--state", type=Path, required=True, help="folder for the resumable state")
    stage.add_argument("--seconds-between-saves", type=float, default=30.0, help="what a kill -9 can cost, at most")
    stage.add_argument("--out-weights", type=Path, required=True)
    stage.add_argument("--out-record", type=Path, required=True)
    arguments = stage.parse_args(argv)

    device = pick_device(arguments.gpu, arguments.threads)
    trained = finetune(
        arguments.start,
        read_json(arguments.start_record),
        image_set.read(arguments.images),
        arguments.settings,
        arguments.state,
        device,
        arguments.code,
        arguments.seconds_between_saves,
    )
    weights.write_training(arguments.out_weights, trained.weights, trained.header)
    write_json(arguments.out_record, {**trained.record, **describe_device(device, arguments.threads)})
    clear_state(arguments.state)


if __name__ == "__main__":
    command.run(main)
