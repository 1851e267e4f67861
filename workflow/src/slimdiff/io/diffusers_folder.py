"""Folders of diffusers: a UNet2DModel and its scheduler, checked without torch before anything is allocated.

Folders of others are untrusted. JSON and safetensors alone are read, no pickle; a class is a name that is compared,
never imported; links must not lead out. A refusal is one line that names the file, the key and the value.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from slimdiff.catalog.limits import MAX_BLOCKS, MAX_LAYERS, UNET2D_BLOCKS, conv_weights, network_faults
from slimdiff.catalog.schedules import (
    BOOLEAN,
    MAX_TIMESTEPS,
    POSITIVE,
    PREDICTIONS,
    SAMPLING,
    SCHEDULE,
    Limit,
    integer,
    one_of,
    option_faults,
    schedule_faults,
)
from slimdiff.errors import UserError, dotted
from slimdiff.io.safetensors_header import DamagedError, Layout, read_layout
from slimdiff.io.text import one_line, size

MAX_JSON_BYTES = 1 << 20
MAX_BYTES = 8 << 30  # of all weights, as in slimdiff.io.packed
MAX_WIDTH, MAX_CLASSES = 65_536, 100_000
INDEX, NETWORK, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
METHODS = {"DDPMScheduler": "ddpm", "DDIMScheduler": "ddim"}  # class of the scheduler → sampler
OLD_NAMES = (".query.", ".proj_attn.")  # of attention layers in diffusers before 0.17


def _nullable(limit: Limit) -> Limit:
    return lambda value: value is None or limit[0](value), f"null, or {limit[1]}"


def _list_of(limit: Limit, most: int) -> Limit:
    return (
        lambda value: isinstance(value, list) and 1 <= len(value) <= most and all(map(limit[0], value)),
        f"a list of 1 to {most} items, each {limit[1]}",
    )


WIDTH = integer(1, MAX_WIDTH)
REQUIRED = object()
# Options of UNet2DModel that are options of a network here, with diffusers' defaults.
OPTIONS: dict[str, tuple[Any, Limit]] = {
    "block_out_channels": (REQUIRED, _list_of(WIDTH, MAX_BLOCKS)),
    "layers_per_block": (2, integer(1, MAX_LAYERS)),
    "down_block_types": (REQUIRED, _list_of(one_of(*UNET2D_BLOCKS["down_block_types"]), MAX_BLOCKS)),
    "up_block_types": (REQUIRED, _list_of(one_of(*UNET2D_BLOCKS["up_block_types"]), MAX_BLOCKS)),
    "attention_head_dim": (8, _nullable(WIDTH)),
    "norm_num_groups": (32, WIDTH),
    "attn_norm_num_groups": (None, _nullable(WIDTH)),
    "norm_eps": (1e-5, POSITIVE),
    "resnet_time_scale_shift": ("default", one_of("default", "scale_shift")),
    "downsample_padding": (1, integer(0, 1)),
    "add_attention": (True, BOOLEAN),
    "flip_sin_to_cos": (True, BOOLEAN),
    "freq_shift": (0, integer(0, MAX_WIDTH)),
    "time_embedding_dim": (None, _nullable(WIDTH)),
}
# Options that are none here: diffusers' default is the one value that can be read.
FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "class_embed_type": None,
}
OWN: dict[str, tuple[Any, Limit]] = {  # the other options
    "sample_size": (REQUIRED, integer(1, 4096)),
    "in_channels": (3, one_of(1, 3)),
    "out_channels": (3, one_of(1, 3)),
    "num_class_embeds": (None, _nullable(integer(1, MAX_CLASSES))),
    "num_train_timesteps": (None, _nullable(integer(1, MAX_TIMESTEPS))),  # of embeddings that are not read here
}
# Options of schedulers that change nothing here at the one value that can be read.
FIXED_SAMPLING: dict[str, Any] = {"rescale_betas_zero_snr": False}
CLIP: dict[str, tuple[Any, Limit]] = {
    "clip_sample": (True, BOOLEAN),
    "prediction_type": ("epsilon", one_of(*PREDICTIONS)),
}


@dataclass(frozen=True)
class DiffusersFolder:
    """What a folder's JSON files say. Its weights have one file, not read yet."""

    files: tuple[Path, ...]  # all that are read, the weights last
    image_size: int
    channels: int
    network: dict[str, Any]  # options of the family unet2d; `classes` counts all rows of the embedding
    preconditioning: str
    schedule: dict[str, Any]  # the noise schedule: slimdiff.catalog.schedules.SCHEDULE
    method: str  # sampler of the scheduler
    sampling: dict[str, Any]  # options of the scheduler: slimdiff.catalog.schedules.SAMPLING
    clip: bool

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.files[-1]


def read_folder(folder: str | os.PathLike[str], weights: bool = True) -> DiffusersFolder:
    """Return what the folder of a pipeline or a model says, all of it checked, weights excepted.

    Args:
        weights: whether their file must exist; one that a rule downloads may not exist yet.

    Raises:
        UserError: a file is missing, a link leads out, or an option is unknown, out of range or not supported.
    """
    root = Path(folder)
    if not os.path.isdir(root):  # noqa: PTH112, as Path.is_dir raises if the name is too long
        raise UserError(
            f"{one_line(root)} is neither a folder nor a model of the Hub with its commit, OWNER/NAME@COMMIT of 40 "
            "hexadecimal digits"
        )
    # Old pipelines have all their files at the top, with an index.
    pipeline = (root / "unet").is_dir() or ((root / INDEX).exists() and not (root / NETWORK).exists())
    unet, scheduler = (root / "unet", root / "scheduler") if pipeline else (root, root)
    files = [*([root / INDEX] if (root / INDEX).exists() else []), unet / NETWORK, scheduler / SCHEDULER]
    contents = [_read_json(root, file) for file in files]
    if (root / INDEX).exists():
        _check_index(files[0], contents[0])
    network, image_size, channels = _read_network(files[-2], contents[-2])
    schedule, sampling, own, method = _read_scheduler(files[-1], contents[-1])
    return DiffusersFolder(
        (*files, _find_weights(root, unet) if weights else unet / WEIGHTS),
        image_size,
        channels,
        network,
        PREDICTIONS[own["prediction_type"]],
        schedule,
        method,
        sampling,
        own["clip_sample"],
    )


def read_weights_layout(folder: DiffusersFolder) -> dict[str, Layout]:
    """Return name → layout of the tensors in the folder's weights, without reading one.

    Raises:
        UserError: the file is damaged, its tensors are not float32, or their names are those of an old diffusers.
    """
    path = folder.weights
    try:
        with path.open("rb") as file:
            tensors = read_layout(file).tensors
    except (DamagedError, OSError) as error:
        raise UserError(f"{one_line(path)} is damaged ({one_line(error)}): fetch or save it again") from None
    for tensor in tensors:
        if any(old in tensor.name for old in OLD_NAMES):
            raise UserError(
                f"{one_line(path)} has the tensor {tensor.name[:80]!r}, a name of diffusers before 0.17: load the "
                "folder with a current diffusers and save it again"
            )
        if tensor.dtype != "F32":
            raise UserError(
                f"{one_line(path)}: tensor {tensor.name[:80]!r} is {tensor.dtype}; allowed: F32; save the model in "
                "float32, with model.float().save_pretrained(FOLDER)"
            )
    return {tensor.name: tensor for tensor in tensors}


def _refuse(file: Path, key: str, text: str) -> NoReturn:
    raise UserError(f"{one_line(file)}: {dotted([key])} {one_line(text)}")


def _inside(root: Path, file: Path) -> Path:
    """Return `file`, or raise UserError if a link leads out of the folder."""
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"{one_line(file)} is a link that leads out of {one_line(root)}; allowed: files and links within it. "
            "Replace it with the file itself"
        )
    return file


def _read_json(root: Path, file: Path) -> dict[str, Any]:
    """Return the mapping in a small JSON file."""
    try:
        with _inside(root, file).open("rb") as opened:
            text = opened.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        fix = "with scheduler.save_pretrained(FOLDER)" if file.name == SCHEDULER else "with save_pretrained(FOLDER)"
        raise UserError(f"{one_line(file)} cannot be read ({error.strerror}): write it {fix} of diffusers") from None
    if len(text) > MAX_JSON_BYTES:
        raise UserError(f"{one_line(file)} has more than {size(MAX_JSON_BYTES)}; allowed: a configuration of diffusers")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{one_line(file)} is not JSON ({one_line(error)[:100]}): save it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{one_line(file)} holds a {type(value).__name__}; allowed: a JSON object")
    return value


def _check_class(file: Path, config: Mapping[str, Any], allowed: tuple[str, ...]) -> str:
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in allowed:
        _refuse(file, "_class_name", f"is {str(name)[:80]!r}; allowed: {', '.join(allowed)}")
    return name


def _check_index(file: Path, index: Mapping[str, Any]) -> None:
    """Raise UserError if a pipeline has other parts than a UNet2DModel and a scheduler of diffusers."""
    parts = {key: value for key, value in index.items() if not key.startswith("_") and value != [None, None]}
    for key, value in parts.items():
        if key not in ("unet", "scheduler"):
            _refuse(
                file, key[:80], "is a part of the pipeline; allowed: unet and scheduler alone, for a model of pixels"
            )
        if not isinstance(value, list) or len(value) != 2 or value[0] != "diffusers":
            _refuse(file, key, f"is {str(value)[:80]}; allowed: a class of diffusers, no code of the folder's")
    if parts.get("unet", ["", "UNet2DModel"])[1] != "UNet2DModel":
        _refuse(file, "unet", f"is {str(parts['unet'][1])[:80]!r}; allowed: UNet2DModel")


def _fill(file: Path, config: Mapping[str, Any], table: Mapping[str, tuple[Any, Limit]]) -> dict[str, Any]:
    """Return the options of `table`, from the file or else diffusers' defaults, checked."""
    for key, (default, limit) in table.items():
        if key not in config and default is REQUIRED:
            _refuse(file, key, f"is missing; allowed: {limit[1]}")
    filled = {key: config.get(key, default) for key, (default, _) in table.items()}
    for keys, text in option_faults(filled, table):
        _refuse(file, keys[0], text)
    return filled


def _check_fixed(file: Path, config: Mapping[str, Any], fixed: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise UserError about an option with a value that cannot be read here, or an unknown option."""
    for key, value in fixed.items():
        if config.get(key, value) != value:
            _refuse(file, key, f"is {json.dumps(config[key])[:80]}; allowed: {json.dumps(value)}")
    for key in config:
        if key not in fixed and key not in known and not key.startswith("_"):
            _refuse(file, key[:80], "is unknown; allowed: options of diffusers under their names")


def _read_network(file: Path, config: Mapping[str, Any]) -> tuple[dict[str, Any], int, int]:
    """Return the network's options, its image size and its channels."""
    _check_class(file, config, ("UNet2DModel",))
    _check_fixed(file, config, FIXED, (*OPTIONS, *OWN))
    sizes = config.get("sample_size")
    if isinstance(sizes, list) and len(sizes) == 2 and sizes[0] == sizes[1]:
        config = {**config, "sample_size": sizes[0]}
    own, network = _fill(file, config, OWN), _fill(file, config, OPTIONS)
    channels = own["in_channels"]
    if own["out_channels"] != channels:
        _refuse(file, "out_channels", f"is {own['out_channels']}; allowed: {channels}, as in_channels")
    network |= {"classes": own["num_class_embeds"] or 0, "zero_init": False}
    for keys, text in network_faults("unet2d", own["sample_size"], network):
        _refuse(file, "sample_size" if keys == ("image_size",) else dotted(keys[1:]), text)
    embedding = network["time_embedding_dim"] or 4 * network["block_out_channels"][0]
    n_bytes = 4 * ((conv_weights("unet2d", channels, network) or 0) + network["classes"] * embedding)
    if n_bytes > MAX_BYTES:
        _refuse(
            file, "block_out_channels", f"asks for a network of {size(n_bytes)} or more; allowed: {size(MAX_BYTES)}"
        )
    return network, own["sample_size"], channels


def _read_scheduler(
    file: Path, config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """Return the noise schedule, the options of sampling, those of CLIP, and the sampler's name."""
    method = METHODS[_check_class(file, config, tuple(METHODS))]
    _check_fixed(file, config, FIXED_SAMPLING, (*SCHEDULE, *SAMPLING, *CLIP))
    schedule, sampling, own = (_fill(file, config, table) for table in (SCHEDULE, SAMPLING, CLIP))
    for keys, text in schedule_faults(schedule):
        _refuse(file, keys[0], text)
    return schedule, sampling, own, method


def _find_weights(root: Path, unet: Path) -> Path:
    """Return the file of the weights: one safetensors file, in the folder."""
    weights = unet / WEIGHTS
    if weights.is_file():
        return _inside(root, weights)
    place, fix = one_line(unet), "save it again with a current diffusers"
    if (unet / f"{WEIGHTS}.index.json").exists():
        raise UserError(
            f"{place} has its weights in several files; allowed: one; save_pretrained(FOLDER, max_shard_size='8GB')"
        )
    if any(unet.glob("*.bin")):
        raise UserError(f"{place} has its weights as a pickle, which can run code; allowed: {WEIGHTS}; {fix}")
    raise UserError(f"{place} has no {WEIGHTS}; {fix}")
