"""Folders of diffusers with small random models, for tests of `pretrained`."""

import json
from pathlib import Path
from typing import Any

import diffusers  # whose parts load when they are used: pipelines take seconds
import torch

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


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
