"""A training that takes no time: the weights of a diffusers folder, as raw and as EMA weights."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from slimdiff.catalog.limits import DatasetFacts, model_faults
from slimdiff.data.image_set import ImageSet
from slimdiff.errors import UserError, refuse
from slimdiff.io import files
from slimdiff.io.diffusers_folder import read_folder, read_weights_layout
from slimdiff.io.tensors import tensors_digest
from slimdiff.io.text import one_line
from slimdiff.models.registry import build_on_meta
from slimdiff.training.loop import Trained
from slimdiff.training.record import build_header, build_record
from slimdiff.training.state import Progress


def take_in(folder: Path, images: ImageSet, settings: Mapping[str, Any], code: str) -> Trained:
    """Return the weights in `folder` as a training: equal for every seed, in no time.

    Names and shapes of all tensors are compared with the network's on torch's meta device, which allocates nothing,
    before one is read.

    Args:
        settings: `dataset`, `model` (an entry of `models:`, as filled from this folder), `training`, `seed`.
        code: fingerprint of the code.

    Raises:
        UserError: the folder has changed since the settings were made, its weights are not the network's, or the data
            set's classes or image size do not fit the model.
    """
    model = settings["model"]
    refuse(
        model_faults(model, images.dataset, DatasetFacts(len(images.classes), images.classes, images.image_shape)),
        "models",
        "*",
    )
    described = read_folder(folder)
    _check_tensors(
        described.weights,
        {name: tensor.shape for name, tensor in read_weights_layout(described).items()},
        {name: tuple(tensor.shape) for name, tensor in build_on_meta(model).state_dict().items()},
    )
    try:
        state = load_file(described.weights)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{one_line(described.weights)} cannot be read ({one_line(error)}): save it again") from None
    record = build_record(
        Progress(started_at=datetime.now(UTC).isoformat(timespec="seconds")), settings, None, code, "float32", None, ""
    )
    source = {"source": str(model["pretrained"]), "sha256": files.digest(described.weights)}
    header = build_header(
        images, tensors_digest({"images": images.train_images}), settings, code, "", pretrained=source
    )
    average = {name: tensor.clone() for name, tensor in state.items()}  # safetensors shares no memory between names
    times = {"train_s": None, "train_ms_per_epoch": None}
    return Trained({"raw": state, "ema": average}, header, {**record, **times, "pretrained": source})


def _check_tensors(path: Path, actual: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError about the first tensor whose name or shape is not the network's."""
    place = one_line(path)
    for name, shape in expected.items():
        if name not in actual:
            raise UserError(f"{place} lacks the tensor {name!r}, which its config.json asks for; save both again")
        if actual[name] != shape:
            sizes = ["×".join(map(str, each)) or "one number" for each in (actual[name], shape)]
            raise UserError(
                f"{place}: tensor {name!r} is {sizes[0]}; its config.json asks for {sizes[1]}; save both again"
            )
    for name in actual:
        if name not in expected:
            raise UserError(
                f"{place} has the tensor {name[:80]!r}, which its config.json does not ask for; save both again"
            )
