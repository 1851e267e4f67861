"""Draw images with plain diffusers, without slimdiff: the loop of its pipelines, which take neither noise nor classes.

    python benchmarks/own/draw.py FOLDER GIVEN.safetensors STEPS OUT.safetensors

GIVEN has the tensor `noise` and, of a class-conditional model, `labels`; OUT gets `images` in [-1, 1], not rounded.
"""

import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

BATCH = 50


def load(folder: Path) -> tuple[UNet2DModel, DDIMScheduler]:
    """Return the network and, as users make one of it, a DDIM scheduler with the options of the folder's own."""
    unet = UNet2DModel.from_pretrained(folder, subfolder="unet", use_safetensors=True).eval()
    return unet, DDIMScheduler.from_pretrained(folder, subfolder="scheduler")


@torch.inference_mode()
def draw(
    unet: UNet2DModel, scheduler: DDIMScheduler, noise: torch.Tensor, labels: torch.Tensor | None, steps: int
) -> torch.Tensor:
    """Return the images that the steps of diffusers' DDIM make of `noise` (N, C, H, W)."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        noise = scheduler.step(unet(noise, t, labels).sample, t, noise).prev_sample
    return noise


def main() -> None:
    folder, given, steps, out = sys.argv[1:]
    unet, scheduler = load(Path(folder))
    tensors = load_file(given)
    labels = tensors["labels"].split(BATCH) if "labels" in tensors else None
    noise = tensors["noise"].split(BATCH)
    images = [draw(unet, scheduler, x, labels and labels[i], int(steps)) for i, x in enumerate(noise)]
    if "slimdiff" in sys.modules:
        raise SystemExit("slimdiff was loaded")
    save_file({"images": torch.cat(images)}, out)


if __name__ == "__main__":
    main()
