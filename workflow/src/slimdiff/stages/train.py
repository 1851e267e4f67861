"""Stage train: raw and EMA weights of a network, and the record of its training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.checkpoints import weights
from slimdiff.data import image_set
from slimdiff.io.records import write_json
from slimdiff.runtime.devices import describe_device, pick_device
from slimdiff.stages import command
from slimdiff.training.loop import train
from slimdiff.training.state import clear_state


@dataclass(frozen=True, kw_only=True)
class Arguments(command.DeviceArguments):
    """Train a network on a data set. An interrupted training continues from its saved state."""

    images: command.ImagesPath
    state: Annotated[Path, "folder of the saved state"]
    seconds_between_saves: Annotated[float, "most work in seconds that kill -9 can cost"] = 30.0
    out_weights: Annotated[Path, "weights.safetensors: raw and EMA weights"]
    out_record: Annotated[Path, "train.json: loss curve, times, machine"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    device = pick_device(args.gpu, args.threads)
    images = image_set.read(args.images)
    trained = train(images, args.settings, args.state, device, args.code, args.seconds_between_saves)
    weights.write_training(args.out_weights, trained.weights, trained.header)
    write_json(args.out_record, {**trained.record, **describe_device(device, args.threads)})
    clear_state(args.state)


if __name__ == "__main__":
    command.run(main)
