"""Stage pretrained: the weights of a diffusers folder, with the output files of a training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slimdiff.checkpoints import weights
from slimdiff.data import image_set
from slimdiff.io.records import write_json
from slimdiff.runtime.devices import describe_device, pick_device
from slimdiff.stages import command
from slimdiff.training.pretrained import take_in


@dataclass(frozen=True, kw_only=True)
class Arguments(command.SettingsArguments):
    """Take the weights of a diffusers folder as a training's."""

    images: command.ImagesPath
    folder: Annotated[Path, "folder of a pipeline or a model, with safetensors"]
    out_weights: Annotated[Path, "weights.safetensors: raw and EMA weights, which are equal"]
    out_record: Annotated[Path, "train.json: where the weights are from, and their digest"]


def main(argv: Sequence[str] | None = None) -> None:
    args = command.parse_arguments(Arguments, argv)
    taken = take_in(args.folder, image_set.read(args.images), args.settings, args.code)
    weights.write_training(args.out_weights, taken.weights, taken.header)
    write_json(args.out_record, {**taken.record, **describe_device(pick_device(0, 1), 1)})


if __name__ == "__main__":
    command.run(main)
