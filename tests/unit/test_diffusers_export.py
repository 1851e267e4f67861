"""`slimdiff export --to diffusers`: folders that plain diffusers loads and samples the same images from."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import yaml
from builders import UNET_SAMPLER, model_header, small_unet2d_model, unet2d_training
from ownmodels import write_folder
from presets import CONFIG, SCHEMA, merge

from slimdiff.checkpoints.model import write_model
from slimdiff.compression.blocks import BlockSettings, prune_blocks
from slimdiff.compression.channels import ChannelSettings, prune_channels
from slimdiff.compression.restore import sizes
from slimdiff.compression.weight_only import quantize_weights
from slimdiff.config import resolve
from slimdiff.config.pretrained import fill_pretrained
from slimdiff.config.validate import validate
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.errors import UserError
from slimdiff.inference.diffusers_export import write_diffusers
from slimdiff.inference.model import LoadedModel
from slimdiff.inference.model import load as load_model
from slimdiff.io.diffusers_folder import read_folder
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network
from slimdiff.report.model_card import write_card

TOLERANCE = 1e-4
Command = Callable[..., tuple[int, str, str]]

# Loads a folder in a process of its own, without slimdiff: its arguments are the folder, the noise and the images.
PLAIN = """
import sys, torch
from diffusers import DiffusionPipeline
assert "slimdiff" not in sys.modules
folder, seeds, out, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
pipeline = DiffusionPipeline.from_pretrained(folder)
pipeline.set_progress_bar_config(disable=True)
generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds.split(",")]
images = pipeline(len(generators), generators, num_inference_steps=steps, output_type="np").images
torch.save(torch.from_numpy(images), out)
"""


def filled(folder: Path, **entry: Any) -> dict[str, Any]:
    models = {"mine": {"family": "unet2d", "pretrained": str(folder), **entry}}
    return fill_pretrained({**CONFIG, "models": {**CONFIG["models"], **models}})


def loaded(
    tmp_path: Path, change: Callable[[Any], dict[str, Any] | None] | None = None, method: str = "ddpm", **network: Any
) -> LoadedModel:
    """Return a cell's model of a random folder, its network changed in place by `change`."""
    pipeline = write_folder(tmp_path / "folder", method, **network)
    config = filled(tmp_path / "folder", sampler={"steps": 20})
    settings = resolve.train_settings(config, "digits", "mine", "plain", 0)
    sampler = resolve.compress_settings(config, "digits", "mine", "baseline", 0)["sampler"]
    model = build_network(settings["model"])
    model.load_state_dict(pipeline.unet.state_dict())
    structure = [record] if (record := change(model) if change else None) else []
    header = model_header(settings["model"], settings["training"], sampler=sampler, structure=structure)
    header["dataset"]["sha256"] = "0" * 64
    write_model(tmp_path / "model.safetensors", model, header)
    return load_model(tmp_path / "model.safetensors")


@torch.inference_mode()
def ours(model: LoadedModel, n: int = 2) -> torch.Tensor:
    sampler = build(SamplerSettings, model.settings["sampler"], "sampler")
    images = sample(Guided(model.denoiser, None, 1.0, clip=sampler.clip), ImageNoise(5, range(n)), (1, 8, 8), sampler).x
    return (images / 2 + 0.5).clamp(0, 1)


def seeds_of(n: int = 2) -> list[int]:
    return [generator.initial_seed() for generator in ImageNoise(5, range(n)).generators]


def theirs(folder: Path, steps: int = 20) -> torch.Tensor:
    """The images of the folder's pipeline, (N, C, S, S) in [0, 1]."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds_of()]
    images = pipeline(len(generators), generators, num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def theirs_alone(folder: Path, out: Path) -> torch.Tensor:
    """The same from a process without slimdiff."""
    run = [sys.executable, "-I", "-c", PLAIN, str(folder), ",".join(map(str, seeds_of())), str(out), "20"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(out).permute(0, 3, 1, 2)


def uniform(amount: float, importance: str = "l1") -> Callable[[Any], dict[str, Any]]:
    settings = ChannelSettings("channels", importance, amount, mode="uniform")
    return lambda network: prune_channels(network, settings, 0)


def test_plain_diffusers_draws_the_images_of_a_slimmed_network(tmp_path: Path) -> None:
    """Half of the channels are gone, and diffusers loads the rest in a process without slimdiff."""
    model = loaded(tmp_path, uniform(0.5))
    written = write_diffusers(tmp_path / "out", model, "# card")
    config = json.loads((tmp_path / "out/unet/config.json").read_text())
    assert (config["block_out_channels"], config["attention_head_dim"], config["norm_num_groups"]) == ([4, 8], 4, 4)
    assert (config["time_embedding_dim"], written["scheduler"]) == (32, "DDPMScheduler")
    images = theirs_alone(tmp_path / "out", tmp_path / "images")
    assert (ours(model) - images).abs().max() < TOLERANCE
    assert images.std() > 0.1
    assert (tmp_path / "out/README.md").read_text() == "# card"


@pytest.mark.parametrize("method", ["ddpm", "ddim"])
def test_a_folder_comes_out_as_it_went_in(tmp_path: Path, method: str) -> None:
    model = loaded(tmp_path, method=method)
    write_diffusers(tmp_path / "out", model, "")
    one, other = read_folder(tmp_path / "folder"), read_folder(tmp_path / "out")
    assert (one.network, one.schedule, one.method, one.clip) == (
        other.network,
        other.schedule,
        other.method,
        other.clip,
    )
    used = "set_alpha_to_one" if method == "ddim" else "variance_type"
    assert one.sampling[used] == other.sampling[used]
    assert one.weights.read_bytes()[-1000:] == other.weights.read_bytes()[-1000:]
    assert (ours(model) - theirs(tmp_path / "out")).abs().max() < TOLERANCE


def test_quantized_weights_are_exported_as_floats(tmp_path: Path) -> None:
    model = loaded(tmp_path, lambda network: quantize_weights(network, "8bit"))
    write_diffusers(tmp_path / "out", model, "")
    assert (ours(model) - theirs(tmp_path / "out")).abs().max() < TOLERANCE


def test_channels_of_single_layers_are_no_unet2dmodel(tmp_path: Path) -> None:
    layers = ChannelSettings("channels", "l1", 0.5)
    model = loaded(tmp_path, lambda network: prune_channels(network, layers, 0))
    with pytest.raises(UserError, match=r"layer time_embedding\.linear_1 has .* prune with mode: uniform, or use --to"):
        write_diffusers(tmp_path / "out", model, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "model.safetensors"]


def blocks(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda network: prune_blocks(network, BlockSettings("blocks", names=names))


def test_attention_that_a_whole_level_lost_is_a_unet2dmodel_without_it(tmp_path: Path) -> None:
    up = [f"up_blocks.0.attentions.{index}" for index in range(2)]
    model = loaded(tmp_path, blocks("down_blocks.1.attentions.0", *up, "mid_block.attentions.0"))
    write_diffusers(tmp_path / "out", model, "# card")
    config = json.loads((tmp_path / "out/unet/config.json").read_text())
    assert (config["down_block_types"], config["up_block_types"]) == (["DownBlock2D"] * 2, ["UpBlock2D"] * 2)
    assert config["add_attention"] is False
    assert (ours(model) - theirs(tmp_path / "out")).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["mid_block.resnets.1", "up_blocks.0.resnets.0", "up_blocks.0.attentions.1"])
def test_other_blocks_left_out_are_no_unet2dmodel(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"--to diffusers: {re.escape(name)} was left out; .* use --to onnx"):
        write_diffusers(tmp_path / "out", loaded(tmp_path, blocks(name, "mid_block.attentions.0")), "# card")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "training", "key"),
    [
        ({"patch": 2}, {}, "patch is 2; allowed: 1"),
        ({}, {"preconditioning": "edm"}, "preconditioning is edm; allowed: epsilon, v, sample"),
        ({}, {"black": 0.0}, "black is 0.0; allowed: -1.0"),
        ({}, {"groups": 2}, "groups is 2; allowed: 1"),
    ],
)
def test_what_no_pipeline_does(tmp_path: Path, model: dict[str, Any], training: dict[str, Any], key: str) -> None:
    entry = small_unet2d_model({"classes": 0}, **{"patch": 1, **model})
    options = unet2d_training(**{"preconditioning": "epsilon", **training})
    network = build_network(entry, options["groups"])
    write_model(tmp_path / "model", network, model_header(entry, options, sampler={**UNET_SAMPLER, "guidance": 1.0}))
    with pytest.raises(UserError, match=f"--to diffusers: the model's {key}"):
        write_diffusers(tmp_path / "out", load_model(tmp_path / "model"), "")


@pytest.mark.parametrize(("schedule", "name"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_a_network_of_our_own_training(tmp_path: Path, schedule: str, name: str) -> None:
    entry = small_unet2d_model({"classes": 0}, patch=1, image_size=8)
    options = unet2d_training(preconditioning="v", noise_schedule=schedule)
    sampler = {**UNET_SAMPLER, "method": "ddim", "steps": 20, "guidance": 1.0}
    write_model(tmp_path / "model", build_network(entry), model_header(entry, options, sampler=sampler))
    model = load_model(tmp_path / "model")
    write_diffusers(tmp_path / "out", model, "")
    assert json.loads((tmp_path / "out/scheduler/scheduler_config.json").read_text())["beta_schedule"] == name
    assert (ours(model) - theirs(tmp_path / "out")).abs().max() < TOLERANCE


WIDE = {
    "block_out_channels": (32, 64),
    "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
    "norm_num_groups": 8,
}


@pytest.mark.parametrize("amount", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("network", [{}, {"attention_head_dim": None, "resnet_time_scale_shift": "scale_shift"}])
def test_uniform_pruning_leaves_a_unet2dmodel(tmp_path: Path, amount: float, network: dict[str, Any]) -> None:
    model = loaded(tmp_path, uniform(amount), **{**WIDE, **network})
    keep = 1 - amount
    written = write_diffusers(tmp_path / "out", model, "")
    assert written["config"]["block_out_channels"] == [int(32 * keep), int(64 * keep)]
    whole = sum(
        p.numel() for p in diffusers.UNet2DModel.from_pretrained(tmp_path / "folder", subfolder="unet").parameters()
    )
    assert sum(p.numel() for p in model.network.parameters()) < 1.2 * keep**1.5 * whole
    assert ours(model).isfinite().all()


@pytest.mark.parametrize(("width", "kept", "lost"), [(128, 64, 1e-6), (32, 24, 1e-6), (32, 16, 0.34), (64, 32, 0.2)])
def test_the_embedding_keeps_the_waves_that_matter(width: int, kept: int, lost: float) -> None:
    network = build_network(small_unet2d_model({**WIDE, "block_out_channels": [width, width]}, patch=1), seed=1)
    steps = torch.arange(1000.0)
    with torch.no_grad():
        before = network.time_embedding.linear_1(network.time_proj(steps))
        network.narrow_waves(kept)
        after = network.time_embedding.linear_1(network.wave_projection(network.time_proj(steps)))
    assert ((after - before).square().mean() / (before - before.mean(0)).square().mean()).sqrt() < lost
    assert sizes(network)["time_embedding.linear_1"] == {"in_features": kept, "out_features": 4 * width}


def test_what_was_pruned_trains_on_and_is_pruned_again(tmp_path: Path) -> None:
    """Files hold the projection of waves: loaded, trained and pruned once more, the network is still a UNet2DModel."""
    model = loaded(tmp_path, uniform(0.25), **WIDE)
    network = model.network.requires_grad_(True)
    network(torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])).square().mean().backward()
    assert network.wave_projection.weight.grad.abs().sum() > 0
    with torch.no_grad():
        network.wave_projection.weight.add_(0.1 * torch.randn_like(network.wave_projection.weight))
    record = uniform(1 / 3)(network)
    header = {**model.settings, "structure": [*model.settings["structure"], record]}
    write_model(tmp_path / "twice.safetensors", network, header)
    twice = load_model(tmp_path / "twice.safetensors")
    assert write_diffusers(tmp_path / "out", twice, "")["config"]["block_out_channels"] == [16, 32]
    assert (ours(twice) - theirs(tmp_path / "out")).abs().max() < TOLERANCE


def test_amounts_that_leave_no_such_network_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", **WIDE)

    def refusal(model: str, **prune: Any) -> str:
        overlay = {
            "models": {"mine": {"family": "unet2d", "pretrained": str(tmp_path / "folder")}},
            "optimizations": {
                "slim": {"training": "plain", "prune": {"method": "channels", "importance": "l1", **prune}}
            },
            "matrix": [{"dataset": "digits", "model": model, "optimizations": ["slim"], "seeds": [0]}],
        }
        with pytest.raises(UserError) as caught:
            validate(fill_pretrained(merge(CONFIG, overlay)), SCHEMA, {"config.yaml": CONFIG, "my.yaml": overlay})
        return str(caught.value)

    assert "prune.amount is 0.3; allowed with mode uniform and the widths of model mine: 0.25, 0.5, 0.75" in refusal(
        "mine", amount=0.3, mode="uniform"
    )
    assert "prune.mode is uniform; allowed for family ddpm: layers" in refusal("ddpm", amount=0.5, mode="uniform")
    assert "prune.mode is uniform, for networks that diffusers loads" in refusal("unet2d", amount=0.5, mode="uniform")
    network = loaded(tmp_path / "own", **WIDE).network.requires_grad_(True)
    with pytest.raises(UserError, match=r"prune\.amount is 0\.3; allowed in mode uniform for .* multiples of"):
        uniform(0.3)(network)


def test_a_card_says_what_was_done(tmp_path: Path) -> None:
    model = loaded(tmp_path, uniform(0.5))
    header = {**model.settings, "pretrained": {"source": "me/cats", "sha256": "a" * 64}}
    header |= {"steps": [{"prune": {"method": "channels", "amount": 0.5}}], "weights": "raw"}
    training = {"dataset": "digits", "training": {"epochs": 2}, "hook": {"sparsify": {"amount": 0.5}}}
    row = {"model": "mine", "optimization": "slim", "params": 1234, "fid_indomain": 1.23456, "kid": None}
    text = write_card(header, {**row, "settings": json.dumps({"train": training})}, "mit", "1.0")
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["library_name"]) == ("mit", "diffusers")
    assert "# mine, slim, on" in text
    for part in (
        "`me/cats`, SHA-256 " + "a" * 64,
        "2 epochs of digits",
        "| params | 1,234 |",
        "| fid_indomain | 1.235 |",
    ):
        assert part in text
    assert "| kid" not in text
    assert f"num_inference_steps={model.settings['sampler']['steps']}" in text


@pytest.mark.parametrize("classes", [0, 2])
def test_the_code_of_a_card_runs(tmp_path: Path, classes: int) -> None:
    model = loaded(tmp_path, uniform(0.5), "ddim", num_class_embeds=classes or None)
    header = {**model.settings, "steps": [], "weights": "raw"}
    text = write_card(header, None, "unknown", "1.0")
    write_diffusers(tmp_path / "out", model, text)
    code = text.split("```python\n")[1].split("```")[0].replace("FOLDER", str(tmp_path / "out"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["x" if classes else "images"]) == (classes or 1)


def test_the_command_writes_a_folder(tmp_path: Path, command: Command) -> None:
    loaded(tmp_path, uniform(0.5))
    arguments = ("export", str(tmp_path / "model.safetensors"), "--to", "diffusers", "--out", str(tmp_path / "out"))
    code, out, _ = command(*arguments)
    assert code == 0
    assert "UNet2DModel of block_out_channels [4, 8]" in out
    assert (tmp_path / "out" / "README.md").is_file()
    code, _, err = command(*arguments)
    assert code == 1
    assert "exists: name a new folder" in err
