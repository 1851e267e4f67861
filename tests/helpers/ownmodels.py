"""Folders of diffusers with small random models, for tests of `pretrained`."""

import json
from pathlib import Path
from typing import Any

import diffusers  # whose parts load when they are used: pipelines take seconds
import torch
from PIL import Image

NETWORK = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}

DIGITS = {  # config/own-model.yaml
    "sample_size": 16,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "attention_head_dim": 16,
    "norm_num_groups": 8,
}

CIFAR10 = {  # google/ddpm-cifar10-32
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}


def write_folder(folder: Path, method: str = "ddpm", scheduler: dict[str, Any] | None = None, **network: Any) -> Any:
    """Write a pipeline with a random network into `folder`, and return it."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**{**NETWORK, **network}).eval()
    with torch.no_grad():  # larger than diffusers' own, so that images differ from noise
        unet.conv_out.weight.mul_(2.0)
    options = {"num_train_timesteps": 20, **(scheduler or {})}
    parts = {"ddpm": ("DDPMPipeline", "DDPMScheduler"), "ddim": ("DDIMPipeline", "DDIMScheduler")}
    pipeline_class, scheduler_class = (getattr(diffusers, name) for name in parts[method])
    pipeline = pipeline_class(unet=unet, scheduler=scheduler_class(**options))
    pipeline.save_pretrained(folder)
    return pipeline


def write_layout(folder: Path, **network: Any) -> None:
    """Write a pipeline's folder whose file of weights has a header and a hole: all sizes, no bytes on the disk."""
    with torch.device("meta"):
        unet = diffusers.UNet2DModel(**network)
    unet.save_config(folder / "unet")
    diffusers.DDPMScheduler(variance_type="fixed_large").save_pretrained(folder / "scheduler")
    layout, end = {}, 0
    for name, tensor in unet.state_dict().items():
        start, end = end, end + 4 * tensor.numel()
        layout[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(layout).encode()
    with (folder / "unet" / "diffusion_pytorch_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def write_inputs(config: dict[str, Any], root: Path) -> None:
    """Write what a preset names and no clone has: folders of models, without weights, and a few images by class."""
    for entry in config.get("models", {}).values():
        if "pretrained" in entry:
            network: dict[str, Any] = CIFAR10 if "cifar10" in entry["pretrained"] else DIGITS
            classes = {"num_class_embeds": 11} if entry.get("network", {}).get("null_class") else {}
            write_layout(root / entry["pretrained"], **network, **classes)
    for entry in config.get("datasets", {}).values():
        for name in range(10) if "path" in entry else ():
            folder = root / entry["path"] / str(name)
            folder.mkdir(parents=True)
            for index in range(20):
                Image.new("L", (28, 28), index).save(folder / f"{index}.png")


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
