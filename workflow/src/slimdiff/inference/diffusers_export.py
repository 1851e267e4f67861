"""Export a cell's network as a folder that plain diffusers loads: a UNet2DModel, its scheduler, and a model card.

A network is a UNet2DModel if each level has one width, as the config's block_out_channels say. Channels removed in the
mode `uniform` leave such a network; others do not. Of blocks that were left out, it can lack the attention of a level.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimdiff.catalog.samplers import TIMESTEPS
from slimdiff.catalog.schedules import PREDICTIONS, SCHEDULE
from slimdiff.compression.restore import Bypass, sizes
from slimdiff.errors import UserError
from slimdiff.inference.export import TOLERANCE, in_float
from slimdiff.inference.model import LoadedModel
from slimdiff.io import files

SCHEDULES = {"linear": {}, "cosine": {"beta_schedule": "squaredcos_cap_v2"}}  # ours → what differs from SCHEDULE
# Options of our ddpm and ddim where they differ from diffusers' (slimdiff.diffusion.schedulers).
OWN_SAMPLING: dict[str, dict[str, Any]] = {
    "ddpm": {"variance_type": "fixed_large"},
    "ddim": {"timestep_spacing": "trailing"},
}
INSTEAD = "use --to onnx, which runs anywhere, or --to safetensors"
CARD = "README.md"


def write_diffusers(folder: Path, loaded: LoadedModel, card: str) -> dict[str, Any]:
    """Write the network, its scheduler and the text of a model card as a new folder.

    The UNet2DModel computes the same as the network on random images, or nothing is written.

    Returns:
        The network's config; `dequantized`, layers that ran in few bits and are floats now; `scheduler`, its class.

    Raises:
        UserError: the folder exists, or diffusers has no such network, pixels or process. The message says why.
    """
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

    if folder.exists():
        raise UserError(f"{folder} exists: name a new folder")
    check_process(loaded)
    network, dequantized = in_float(loaded.network)
    network = network.cpu().to(memory_format=torch.contiguous_format)
    config, state = unet_config(network, loaded.settings["model"]), network.state_dict()
    if "wave_projection.weight" in state:  # waves of each step, projected: diffusers' learned table
        steps = len(loaded.denoiser.vp.betas)
        waves = network.time_proj(torch.arange(steps))  # type: ignore[operator]
        state["time_proj.weight"] = waves @ state.pop("wave_projection.weight").T
        config |= {"time_embedding_type": "learned", "num_train_timesteps": steps}
    with torch.device("meta"):
        _check_widths(network, UNet2DModel(**config))
    unet = UNet2DModel(**config).eval()
    unet.load_state_dict(state)
    _check_outputs(network, unet, loaded)

    method = loaded.settings["sampler"]["method"]
    scheduler_class, pipeline_class = (
        (DDIMScheduler, DDIMPipeline) if method == "ddim" else (DDPMScheduler, DDPMPipeline)
    )
    pipeline = pipeline_class(unet=unet, scheduler=scheduler_class(**_scheduler_options(loaded, method)))
    with files.replace_folder(folder) as fresh:
        pipeline.save_pretrained(fresh)
        files.write_text(fresh / CARD, card)
    return {"config": config, "dequantized": dequantized, "scheduler": scheduler_class.__name__}


def unet_config(network: nn.Module, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the UNet2DModel with the widths of `network`, which may have lost channels.

    Args:
        model: of the header; its network is the one before any pruning.
    """
    own = {key: value for key, value in model["network"].items() if key not in ("zero_init", "classes", "null_class")}
    own |= _attention_left(network, own)
    layers = sizes(network)
    levels = range(len(own["block_out_channels"]))
    widths = [layers[f"down_blocks.{level}.resnets.0.conv2"]["out_channels"] for level in levels]
    embedding = layers["time_embedding.linear_2"]["out_features"]
    heads = [(name, int(module.heads)) for name, module in network.named_modules() if hasattr(module, "to_q")]
    if own["attention_head_dim"] is not None and heads:
        name, count = heads[0]
        own["attention_head_dim"] = layers[f"{name}.to_q"]["out_features"] // count
    classes = model["network"]["classes"]
    return {
        **own,
        "block_out_channels": widths,
        "time_embedding_dim": None if embedding == 4 * widths[0] else embedding,
        "sample_size": model["image_size"],
        "in_channels": model["channels"],
        "out_channels": model["channels"],
        "num_class_embeds": classes + model["network"].get("null_class", True) if classes else None,
    }


def _attention_left(network: nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `config` that change if blocks were left out.

    Raises:
        UserError: a UNet2DModel without them does not exist.
    """
    gone = {name for name, module in network.named_modules() if isinstance(module, Bypass)}
    changed: dict[str, Any] = {}
    for side in ("down", "up"):
        kinds = list(config[f"{side}_block_types"])
        for level, kind in enumerate(kinds):
            attentions = {f"{side}_blocks.{level}.attentions.{i}" for i in range(config["layers_per_block"] + 1)}
            attentions &= {name for name, _ in network.named_modules()}
            if kind.startswith("Attn") and attentions <= gone:
                kinds[level] = kind.removeprefix("Attn")
                gone -= attentions
        changed[f"{side}_block_types"] = kinds
    if "mid_block.attentions.0" in gone:
        changed["add_attention"] = False
        gone.remove("mid_block.attentions.0")
    if gone:
        raise UserError(
            f"--to diffusers: {min(gone)} was left out; a UNet2DModel has every residual block, and attention in all "
            f"blocks of a level or in none; {INSTEAD}"
        )
    return changed


def check_process(loaded: LoadedModel) -> None:
    """Raise UserError about what no pipeline of diffusers does: other networks, patches, pixels, parametrizations."""
    model, training = loaded.settings["model"], loaded.settings["training"]
    needed: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("family", model["family"], ("unet2d",)),
        ("patch", model.get("patch", 1), (1,)),
        ("preconditioning", training["preconditioning"], tuple(PREDICTIONS.values())),
        ("black", training["black"], (-1.0,)),
        ("groups", training["groups"], (1,)),
    )
    for key, value, allowed in needed:
        if value not in allowed:
            raise UserError(
                f"--to diffusers: the model's {key} is {value}; allowed: {', '.join(map(str, allowed))}, since a "
                f"pipeline of diffusers takes no other; {INSTEAD}"
            )


def _check_widths(network: nn.Module, unet: nn.Module) -> None:
    """Raise UserError about the first layer that a UNet2DModel of these widths has in another size."""
    own, theirs = sizes(network), sizes(unet)
    heads = [{n: m.heads for n, m in each.named_modules() if hasattr(m, "to_q")} for each in (network, unet)]
    different = [name for name in theirs if name != "time_proj" and own.get(name) != theirs[name]]
    different += [name for name, count in heads[1].items() if heads[0].get(name) != count]
    if different:
        name = different[0]
        raise UserError(
            f"--to diffusers: layer {name} has {own.get(name)}, in a UNet2DModel of these widths {theirs.get(name)}: "
            f"channels were removed layer by layer; prune with mode: uniform, or {INSTEAD}"
        )


@torch.inference_mode()
def _check_outputs(network: nn.Module, unet: nn.Module, loaded: LoadedModel) -> None:
    """Raise UserError if the two differ by more than TOLERANCE of the largest output."""
    model, generator = loaded.settings["model"], torch.Generator().manual_seed(0)
    x = torch.randn(2, model["channels"], model["image_size"], model["image_size"], generator=generator)
    t = torch.tensor([1, len(loaded.denoiser.vp.betas) // 2])
    labels = torch.tensor([0, loaded.classes - 1]) if loaded.classes else None
    expected = network(x, t.float(), labels)
    actual = unet(x, t, labels).sample
    difference = float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= TOLERANCE:
        raise UserError(
            f"the UNet2DModel differs by {difference:.1g} from the network, more than {TOLERANCE:g}: not written; "
            f"{INSTEAD}"
        )


def _scheduler_options(loaded: LoadedModel, method: str) -> dict[str, Any]:
    """Return the options of the DDPMScheduler, or for ddim of the DDIMScheduler, that sample as this model does."""
    sampler, schedule = loaded.settings["sampler"], loaded.denoiser.settings.noise_schedule
    if isinstance(schedule, str):
        schedule = {key: default for key, (default, _) in SCHEDULE.items()} | SCHEDULES[schedule]
        assert schedule["num_train_timesteps"] == TIMESTEPS
    sampling = {**OWN_SAMPLING.get(method, {}), **(sampler.get("scheduler") or {})}
    known = ("set_alpha_to_one",) if method == "ddim" else ("variance_type",)
    shared = {key: value for key, value in sampling.items() if key not in ("set_alpha_to_one", "variance_type")}
    return {
        **schedule,
        **shared,
        **{key: sampling[key] for key in known if key in sampling},
        "clip_sample": sampler.get("clip", False),
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[loaded.denoiser.settings.name],
    }
