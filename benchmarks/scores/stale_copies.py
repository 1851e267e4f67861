"""Why averaged weights with 8-bit layers gave black or noisy images: the copy keeps the linear layers of its first use.

bitsandbytes' Linear8bitLt with `has_fp16_weights=True`, its default, keeps float weights and quantizes them when
called, in evaluation mode only once. An averaged copy is never trained. After sampling from it once at an early epoch,
all later samples use the current convolutions with the linear layers of that epoch.

Here the weights after training are the current ones, the initial weights those of the early epoch:

  python benchmarks/scores/stale_copies.py --weights results/train/mnist/ddpm/plain/seed0/weights.safetensors \
    --out stale.md
"""

import argparse
import copy
import logging
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from slimdiff.checkpoints import weights
from slimdiff.compression.linear_quant import import_bitsandbytes
from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.inference.sampling import sample_images
from slimdiff.io import files
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network

CONFIG = Path(__file__).parents[2] / "config.yaml"
N = 16


def in_8bit(network: nn.Module) -> nn.Module:
    """Replace all linear layers by bitsandbytes' with default settings; return the network."""
    layer = import_bitsandbytes().nn.Linear8bitLt
    for name, old in list(network.named_modules()):
        if type(old) is nn.Linear:
            new = layer(old.in_features, old.out_features, bias=old.bias is not None)
            new.load_state_dict(old.state_dict())
            network.set_submodule(name, new)
    return network


def forget(network: nn.Module) -> None:
    """Make every 8-bit layer quantize its weights again."""
    for module in network.modules():
        if isinstance(module, import_bitsandbytes().nn.Linear8bitLt):
            module.state.reset_grads()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="weights.safetensors of a DDPM's plain training")
    parser.add_argument("--out", type=Path, required=True, help="the table, in Markdown")
    arguments = parser.parse_args()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    trained, header = weights.read_training(arguments.weights, "ema")
    sampler = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["models"]["ddpm"]["sampler"]
    classes = torch.arange(N) % len(header["dataset"]["classes"])

    def drawn(network: nn.Module) -> torch.Tensor:
        denoiser = build_denoiser(network.eval(), header["model"], header["training"])
        settings = build(SamplerSettings, sampler, "sampler")
        return sample_images(
            denoiser, settings, header["model"], header["dataset"], N, N, header["seed"], classes
        ).images.float()

    wanted = drawn(trained)
    average = copy.deepcopy(in_8bit(build_network(header["model"], seed=header["seed"]))).requires_grad_(False)
    rows: list[tuple[str, torch.Tensor]] = [
        ("float", wanted),
        ("8-bit copy, first used before the training", drawn(average)),
    ]
    today: dict[str, Any] = dict(trained.named_parameters())
    for name, parameter in average.named_parameters():
        parameter.data = today[name].data.clone()
    rows.append(("the same copy, its weights those of the end", drawn(average)))
    forget(average)
    rows.append(("the same, quantized again", drawn(average)))

    lines = ["| network | mean pixel | pixels fully black | mean difference from float, of 255 |", "|---|---|---|---|"]
    for name, images in rows:
        apart = (images - wanted).abs().mean()
        lines.append(f"| {name} | {images.mean():.1f} | {(images == 0).float().mean():.3f} | {apart:.1f} |")
        print(lines[-1], flush=True)
    files.write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
