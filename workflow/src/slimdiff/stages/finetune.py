"""Stage finetune: continue training from another training's weights, pruned or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.checkpoints import weights
from slimdiff.data import image_set
from slimdiff.io.records import read_json, write_json
from slimdiff.runtime.devices import describe_device, pick_device
from slimdiff.stages import command
from slimdiff.stages.train import Arguments as TrainArguments
from slimdiff.training.finetune import finetune
from slimdiff.training.state import clear_state


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainArguments):
    """Take a training's weights, apply the steps in the settings, and train on.

    An interrupted training continues from its saved state.
    """

    start: Annotated[Path, "weights.safetensors of the training to start from"]
    start_record: Annotated[Path, "train.json of that training"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    device = pick_device(args.gpu, args.threads)
    start, images = read_json(args.start_record), image_set.read(args.images)
    run = (args.settings, args.state, device, args.code, args.seconds_between_saves)
    trained = finetune(args.start, start, images, *run)
    weights.write_training(args.out_weights, trained.weights, trained.header)
    write_json(args.out_record, {**trained.record, **describe_device(device, args.threads)})
    clear_state(args.state)


if __name__ == "__main__":
    command.run(main)
