"""Small models, trainings and image sets for tests."""

from pathlib import Path
from typing import Any

import torch

from slimdiff.data.image_set import ImageSet
from slimdiff.models.registry import build_network

SOURCE = Path(__file__).parents[2] / "workflow" / "src"  # PYTHONPATH of stages that run as processes
NETWORK = {
    "channels": [32, 64, 128, 256],
    "embed_dim": 256,
    "fourier_scale": 30.0,
    "norm_groups": [4, 32, 32, 32],
    "sigma": 25.0,
    "classes": 0,
}
SMALL_NETWORK = {
    "channels": [8, 16, 16, 16],
    "embed_dim": 32,
    "fourier_scale": 16.0,
    "norm_groups": [4, 4, 4, 4],
    "sigma": 25.0,
    "classes": 0,
}
SAMPLER = {
    "method": "heun",
    "steps": 4,
    "sigma_min": None,
    "sigma_max": None,
    "rho": 7.0,
    "snr": 0.16,
    "tolerance": 1e-3,
    "guidance": 1.0,
    "precision": "float32",
}
UNET = {
    "base": 64,
    "embed_dim": 256,
    "heads": 4,
    "attention_levels": [0, 1, 2, 3],
    "classes": 10,
    "grouped": "bottleneck",
}
SMALL_UNET = {**UNET, "base": 8, "embed_dim": 32, "heads": 2, "attention_levels": [1, 2, 3], "classes": 2}
SMALL_UNET2D = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 4,
    "resnet_time_scale_shift": "scale_shift",
    "classes": 2,
    "zero_init": False,
}
UNET_SAMPLER = {
    "method": "heun",
    "steps": 4,
    "sigma_min": None,
    "sigma_max": None,
    "rho": 7.0,
    "guidance": 1.5,
    "clip": False,
    "cache_interval": 1,
    "precision": "float32",
}
DATASET = {"channels": 1, "height": 20, "width": 20, "saturated": 0.0}
SAMPLERS = {"ncsn": SAMPLER, "ddpm": UNET_SAMPLER, "unet2d": UNET_SAMPLER}  # by family, like the next two


def ncsn_model(**changes: Any) -> dict[str, Any]:
    """Return the settings of the paper's NCSN."""
    return {"family": "ncsn", "image_size": 28, "channels": 1, "fit": "resize", "network": NETWORK, **changes}


def small_model(**changes: Any) -> dict[str, Any]:
    """Return the settings of an NCSN that trains in seconds."""
    return ncsn_model(**{"image_size": 20, "network": SMALL_NETWORK, **changes})


def training(**changes: Any) -> dict[str, Any]:
    """Return the settings of a short training."""
    return {
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "lr_schedule": "one-cycle",
        "optimizer": "adam",
        "optimizer_state": "float",
        "weight_decay": 0.0,
        "ema_decay": 0.99,
        "ema_warmup": "ramp",
        "precision": "float32",
        "preconditioning": "edm",
        "sigma_data": 0.33,
        "black": 0.0,
        "label_dropout": 0.1,
        "groups": 1,
        "linear": "float",
        **changes,
    }


def unet_model(**changes: Any) -> dict[str, Any]:
    """Return the settings of the paper's DDPM."""
    return {"family": "ddpm", "image_size": 64, "channels": 3, "fit": "resize", "network": UNET, **changes}


def small_unet_model(network: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return the settings of a U-Net that trains in seconds, with these changes of its network."""
    return unet_model(**{"image_size": 16, "channels": 1, "network": {**SMALL_UNET, **(network or {})}, **changes})


def unet_training(**changes: Any) -> dict[str, Any]:
    """Return the settings of a short training of a U-Net."""
    own = {"noise_schedule": "linear", "min_snr_gamma": None, "label_dropout": 0.1}
    return training(**{"sigma_data": 0.6, "black": -1.0, **own, **changes})


def small_unet2d_model(network: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return the settings of a modern U-Net on patches that trains in seconds, with these changes of its network."""
    model = {"family": "unet2d", "image_size": 16, "channels": 1, "fit": "resize", "patch": 2}
    return {**model, "network": {**SMALL_UNET2D, **(network or {})}, **changes}


def unet2d_training(**changes: Any) -> dict[str, Any]:
    """Return the settings of a short training of a modern U-Net."""
    return unet_training(**{"optimizer": "muon", "learning_rate": 1e-2, **changes})


MODELS = {"ncsn": small_model, "ddpm": small_unet_model, "unet2d": small_unet2d_model}
TRAININGS = {"ncsn": training, "ddpm": unet_training, "unet2d": unet2d_training}


def striped_images(n: int = 96, size: int = 20) -> ImageSet:
    """Return images of two easily separable classes: horizontal and vertical stripes with some noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    rows = (torch.arange(size) // 3 % 2 * 200).float()
    plain = torch.where(labels[:, None, None] == 0, rows[:, None].expand(size, size), rows[None, :].expand(size, size))
    images = (plain + torch.rand(n, size, size, generator=generator) * 50).to(torch.uint8)[:, None]
    cut = n * 3 // 4
    return ImageSet(images[:cut], labels[:cut], images[cut:], labels[cut:], "stripes", ("rows", "columns"), "synthetic")


def model_header(model: dict[str, Any], options: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the header that the stages `train` and `compress` would have written."""
    return {
        "model": model,
        "training": options,
        "structure": [],
        "dataset": {"name": "stripes", "classes": ["rows", "columns"], "class_counts": [36, 36], **DATASET},
        "seed": 0,
        "code": "test",
        "status": "ok",
        "reason": "",
        "weights": "raw",
        "steps": [],
        "sampler": SAMPLERS[model["family"]],
        "engine": "torch",
        **changes,
    }


def write_small_model(path: Path, family: str = "ncsn", **changes: Any) -> torch.nn.Module:
    """Write an untrained small model as a cell's checkpoint and return its network."""
    from slimdiff.checkpoints.model import write_model

    network = build_network(MODELS[family](), seed=1)
    write_model(path, network, model_header(MODELS[family](), TRAININGS[family](), **changes))
    return network
