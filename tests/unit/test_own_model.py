"""Models of diffusers: what a folder says, and the same images as diffusers draws from it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import striped_images
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel, UniPCMultistepScheduler
from ownmodels import edit, write_folder
from presets import CONFIG, ROOT, SCHEMA, merge
from safetensors.torch import load_file, save_file

from slimdiff.checkpoints import weights
from slimdiff.config import resolve
from slimdiff.config.pretrained import fill_pretrained
from slimdiff.config.validate import validate
from slimdiff.data.image_set import ImageSet
from slimdiff.diffusion.denoiser import Denoiser, build_denoiser
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.processes import VP
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.errors import UserError
from slimdiff.io.diffusers_folder import read_folder
from slimdiff.io.files import digest
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network
from slimdiff.training.pretrained import take_in

TOLERANCE = 1e-4
SHAPE = (1, 8, 8)


def configured(folder: Path, dataset: str = "digits", recipe: str = "baseline", **entry: Any) -> dict[str, Any]:
    """Return config.yaml with the model `mine` from `folder`, filled and valid."""
    overlay = {
        "models": {"mine": {"family": "unet2d", "pretrained": str(folder), **entry}},
        "matrix": [{"dataset": dataset, "model": "mine", "optimizations": [recipe], "seeds": [0]}],
    }
    config = fill_pretrained(merge(CONFIG, overlay))
    validate(config, SCHEMA, {"config.yaml": CONFIG, "my.yaml": overlay})
    return config


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def own_images(classes: int = 2) -> ImageSet:
    images = striped_images(size=8)
    return images if classes == 2 else ImageSet(*list(vars(images).values())[:5], tuple(map(str, range(classes))), "")


def load(config: dict[str, Any], folder: Path, classes: int = 2) -> tuple[Denoiser, SamplerSettings]:
    """Return the denoiser and the sampler of the baseline."""
    settings = {**resolve.train_settings(config, "digits", "mine", "plain", 0), "dataset": "stripes"}
    trained = take_in(folder, own_images(classes), settings, "code")
    network = build_network(settings["model"])
    network.load_state_dict(trained.weights["raw"])
    sampler = resolve.compress_settings(config, "digits", "mine", "baseline", 0)["sampler"]
    denoiser = build_denoiser(network.eval().requires_grad_(False), settings["model"], settings["training"])
    return denoiser, build(SamplerSettings, sampler, "sampler")


def ours(denoiser: Denoiser, sampler: SamplerSettings, labels: torch.Tensor | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return sample(Guided(denoiser, labels, 1.0, clip=sampler.clip), ImageNoise(3, range(3)), SHAPE, sampler).x


@torch.inference_mode()
def theirs(unet: UNet2DModel, scheduler: Any, steps: int, labels: torch.Tensor | None = None) -> torch.Tensor:
    """The loop of diffusers' pipelines, which round images and take no labels."""
    noise = ImageNoise(3, range(3))
    x = noise.normal(SHAPE)
    scheduler.set_timesteps(steps)
    draws = {"generator": noise.generators} if isinstance(scheduler, DDPMScheduler) else {}
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, labels).sample, t, x, **draws).prev_sample
    return x


SCHEDULES = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 1e-3, "beta_end": 0.3},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50},
    {"trained_betas": [0.01 * n for n in range(1, 21)]},
    {"clip_sample": False, "timestep_spacing": "trailing"},
    {"clip_sample_range": 2.0, "timestep_spacing": "linspace"},
    {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("options", [*SCHEDULES, {"beta_schedule": "sigmoid"}, {"variance_type": "fixed_large"}])
def test_ddpm_draws_the_images_of_diffusers(tmp_path: Path, options: dict[str, Any], prediction: str) -> None:
    pipeline = write_folder(tmp_path, "ddpm", {"prediction_type": prediction, **options})
    denoiser, sampler = load(configured(tmp_path), tmp_path)
    assert (sampler.method, sampler.steps) == ("ddpm", options.get("num_train_timesteps", 20))
    expected = theirs(pipeline.unet, pipeline.scheduler, sampler.steps)
    assert (ours(denoiser, sampler) - expected).abs().max() < TOLERANCE
    assert expected.std() > 0.1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("options", [*SCHEDULES, {"set_alpha_to_one": False, "steps_offset": 1}])
def test_ddim_draws_the_images_of_diffusers(tmp_path: Path, options: dict[str, Any], prediction: str) -> None:
    pipeline = write_folder(tmp_path, "ddim", {"prediction_type": prediction, **options})
    denoiser, sampler = load(configured(tmp_path, sampler={"steps": 10}), tmp_path)
    assert sampler.method == "ddim"
    assert (ours(denoiser, sampler) - theirs(pipeline.unet, pipeline.scheduler, 10)).abs().max() < TOLERANCE


def test_the_images_of_diffusers_own_pipelines(tmp_path: Path) -> None:
    for method in ("ddpm", "ddim"):
        pipeline = write_folder(tmp_path / method, method)
        pipeline.set_progress_bar_config(disable=True)
        denoiser, sampler = load(configured(tmp_path / method), tmp_path / method)
        drawn = pipeline(3, ImageNoise(3, range(3)).generators, num_inference_steps=20, output_type="np").images
        images = (ours(denoiser, sampler) / 2 + 0.5).clamp(0, 1)
        assert (images - torch.from_numpy(drawn).permute(0, 3, 1, 2)).abs().max() < TOLERANCE


@pytest.mark.parametrize("method", ["ddim", "dpm-solver++", "unipc"])
def test_fewer_steps_by_another_scheduler_of_diffusers(tmp_path: Path, method: str) -> None:
    pipeline = write_folder(tmp_path, "ddpm", {"num_train_timesteps": 100})
    own = {"ddim": DDIMScheduler, "dpm-solver++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}[method]
    entry = {"sampler": {"method": method, "steps": 10, "clip": method == "ddim"}}
    denoiser, sampler = load(configured(tmp_path, **entry), tmp_path)
    saved = DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler")  # all options count as the user's
    expected = theirs(pipeline.unet, own.from_config(saved.config), 10)
    assert (ours(denoiser, sampler) - expected).abs().max() < 10 * TOLERANCE  # images of up to 30


def test_heun_takes_the_same_noise_levels(tmp_path: Path) -> None:
    pipeline = write_folder(tmp_path, "ddpm", {"num_train_timesteps": 100, "beta_schedule": "scaled_linear"})
    denoiser, sampler = load(configured(tmp_path, sampler={"method": "heun", "steps": 8}), tmp_path)
    alpha_bar = pipeline.scheduler.alphas_cumprod.double()
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
    assert denoiser.sigma_range() == (float(sigmas[0]), float(sigmas[-1]))
    assert torch.allclose(denoiser.vp.time(sigmas), torch.arange(100.0, dtype=torch.float64), atol=1e-9)
    assert sampler.clip
    assert sampler.scheduler is None
    assert ours(denoiser, sampler).isfinite().all()


@pytest.mark.parametrize("null_class", [False, True])
def test_classes_with_and_without_a_null_class(tmp_path: Path, null_class: bool) -> None:
    pipeline = write_folder(tmp_path, "ddim", num_class_embeds=10 + null_class)
    entry = {"network": {"null_class": True}} if null_class else {}
    config = configured(tmp_path, sampler={"steps": 10}, **entry)
    assert config["models"]["mine"]["network"]["classes"] == 10
    denoiser, sampler = load(config, tmp_path, classes=10)
    labels = torch.tensor([1, 0, 7])
    expected = theirs(pipeline.unet, pipeline.scheduler, 10, labels)
    assert (ours(denoiser, sampler, labels) - expected).abs().max() < TOLERANCE
    none = torch.tensor([10, 10, 10])
    if null_class:
        expected = theirs(pipeline.unet, pipeline.scheduler, 10, none)
        assert (ours(denoiser, sampler, torch.full((3,), -1)) - expected).abs().max() < TOLERANCE
        configured(tmp_path, sampler={"guidance": 2.0}, **entry)
    else:
        with pytest.raises(UserError, match=r"models\.mine\.sampler\.guidance is 2\.0; allowed .* 1$"):
            configured(tmp_path, sampler={"guidance": 2.0})
        with pytest.raises(UserError, match=r"models\.mine\.training\.label_dropout is 0\.1; .* no null class: 0$"):
            configured(tmp_path, training={"label_dropout": 0.1})


def test_taking_in_keeps_the_bytes_for_every_seed(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    config = configured(tmp_path / "folder")
    files = []
    for seed in (0, 1):
        settings = {**resolve.train_settings(config, "digits", "mine", "plain", seed), "dataset": "stripes"}
        taken = take_in(tmp_path / "folder", own_images(), settings, "code")
        weights.write_training(tmp_path / f"{seed}.safetensors", taken.weights, taken.header)
        files.append(load_file(tmp_path / f"{seed}.safetensors"))
        assert taken.header["pretrained"]["sha256"] == digest(
            tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors"
        )
        assert (taken.record["status"], taken.record["steps"], taken.record["epochs"]) == ("ok", 0, [])
        assert taken.record["settings"]["training"]["epochs"] == 0
    state = load_file(tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    for kind in ("raw", "ema"):
        for name, tensor in state.items():
            assert all(torch.equal(file[f"{kind}.{name}"], tensor) for file in files)
    assert set(files[0]) == {f"{kind}.{name}" for kind in ("raw", "ema") for name in state}


def test_options_of_the_optimizer_do_not_change_the_weights(tmp_path: Path) -> None:
    write_folder(tmp_path)
    plain, other = (
        configured(tmp_path, training=training)
        for training in ({}, {"learning_rate": 0.5, "epochs": 7, "batch_size": 3})
    )
    cell = ("digits", "mine", "plain", 0)
    assert resolve.train_settings(plain, *cell) == resolve.train_settings(other, *cell)
    later = ("digits", "mine", "longer", 0)
    assert resolve.finetune_settings(plain, *later) != resolve.finetune_settings(other, *later)


def test_filling_twice_changes_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path)
    config = configured(tmp_path)
    assert fill_pretrained(config) == config
    validate(config, SCHEMA, {"config.yaml": config})


def test_a_model_folder_with_its_scheduler(tmp_path: Path) -> None:
    pipeline = write_folder(tmp_path / "pipeline")
    pipeline.unet.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"scheduler_config\.json cannot be read .* scheduler\.save_pretrained"):
        read_folder(tmp_path / "model")
    pipeline.scheduler.save_pretrained(tmp_path / "model")
    one, other = read_folder(tmp_path / "model"), read_folder(tmp_path / "pipeline")
    assert (one.network, one.schedule, one.sampling) == (other.network, other.schedule, other.sampling)
    assert [path.name for path in one.files] == [
        "config.json",
        "scheduler_config.json",
        "diffusion_pytorch_model.safetensors",
    ]


UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"


@pytest.mark.parametrize(
    ("file", "changes", "key"),
    [
        (UNET, {"_class_name": "os.system"}, "_class_name is 'os.system'; allowed: UNet2DModel"),
        (UNET, {"_class_name": ["evil.py", "UNet2DModel"]}, "_class_name is "),
        (UNET, {"block_out_channels": [65536, 65536]}, "block_out_channels asks for a network of "),
        (UNET, {"block_out_channels": [10**15, 16]}, "block_out_channels is "),
        (UNET, {"block_out_channels": "8, 16"}, "block_out_channels is "),
        (UNET, {"block_out_channels": [8] * 4000}, "block_out_channels is "),
        (UNET, {"layers_per_block": 10**9}, "layers_per_block is '1000000000'"),
        (UNET, {"num_class_embeds": 10**12}, "num_class_embeds is "),
        (UNET, {"sample_size": 10**9}, "sample_size is "),
        (UNET, {"sample_size": 9}, "sample_size is 9; allowed"),
        (UNET, {"in_channels": 4, "out_channels": 4}, "in_channels is '4'; allowed: 1, 3"),
        (UNET, {"out_channels": 3}, "out_channels is 3; allowed: 1"),
        (UNET, {"down_block_types": ["DownBlock2D", "__import__('os')"]}, "down_block_types is "),
        (UNET, {"norm_num_groups": 3}, "norm_num_groups is 3; allowed: 1, 2, 4, 8"),
        (UNET, {"act_fn": "mish"}, 'act_fn is "mish"; allowed: "silu"'),
        (UNET, {"class_embed_type": "timestep"}, 'class_embed_type is "timestep"; allowed: null'),
        (UNET, {"time_embedding_type": "fourier"}, "time_embedding_type is "),
        (UNET, {"dropout": 0.1}, "dropout is 0.1; allowed: 0.0"),
        (UNET, {"auto_map": {"AutoModel": "evil.Model"}}, "auto_map is unknown"),
        (UNET, {"norm_eps": float("nan")}, "norm_eps is 'nan'"),
        (
            SCHEDULER,
            {"_class_name": "EulerDiscreteScheduler"},
            "_class_name is 'EulerDiscreteScheduler'; allowed: DDPM",
        ),
        (SCHEDULER, {"num_train_timesteps": 10**12}, "num_train_timesteps is "),
        (SCHEDULER, {"beta_schedule": "exec"}, "beta_schedule is 'exec'"),
        (SCHEDULER, {"beta_start": 0.5}, "beta_start is 0.5; allowed: up to beta_end, 0.02"),
        (SCHEDULER, {"beta_end": 1.0}, "beta_end is '1.0'"),
        (
            SCHEDULER,
            {"trained_betas": [0.1, 0.2]},
            "trained_betas has 2 numbers; allowed with num_train_timesteps 20: 20",
        ),
        (SCHEDULER, {"trained_betas": [0.1] * 5000}, "trained_betas is "),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "prediction_type is "),
        (SCHEDULER, {"variance_type": "learned_range"}, "variance_type is 'learned_range'"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is true; allowed: false"),
        (SCHEDULER, {"clip_sample": "yes"}, "clip_sample is 'yes'; allowed: true or false"),
        (INDEX, {"unet": ["evil", "UNet2DModel"]}, "unet is "),
        (INDEX, {"unet": ["diffusers", "UNet2DConditionModel"]}, "unet is 'UNet2DConditionModel'"),
        (INDEX, {"vqvae": ["diffusers", "VQModel"]}, "vqvae is a part of the pipeline"),
    ],
)
def test_hostile_json(tmp_path: Path, file: str, changes: dict[str, Any], key: str) -> None:
    write_folder(tmp_path)
    edit(tmp_path / file, **changes)
    (line,) = refused(tmp_path)
    assert f"{file}: {key}" in line


def test_an_index_above_files_at_the_top(tmp_path: Path) -> None:
    """As old pipelines on the Hub have them."""
    pipeline = write_folder(tmp_path / "folder")
    pipeline.unet.save_pretrained(tmp_path / "flat")
    pipeline.scheduler.save_pretrained(tmp_path / "flat")
    (tmp_path / "folder" / INDEX).rename(tmp_path / "flat" / INDEX)
    assert configured(tmp_path / "flat")["models"]["mine"]["network"]["block_out_channels"] == [8, 16]
    edit(tmp_path / "flat" / INDEX, vqvae=["diffusers", "VQModel"])
    assert "vqvae is a part of the pipeline" in refused(tmp_path / "flat")[0]


def refused(folder: Path) -> list[str]:
    """The lines of the refusal by the check of a configuration."""
    with pytest.raises(UserError) as caught:
        configured(folder)
    message = str(caught.value)
    assert message.startswith("my.yaml: models.mine.pretrained is ")
    assert len(message) < 700
    return message.splitlines()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, '{"_class_name": "' + "a" * (2 << 20) + '"}', "\x00", "3"]
)
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    write_folder(tmp_path)
    (tmp_path / UNET).write_text(text)
    (line,) = refused(tmp_path)
    assert UNET in line


@pytest.mark.parametrize("file", [UNET, SCHEDULER, INDEX, "unet/diffusion_pytorch_model.safetensors"])
def test_links_that_lead_out(tmp_path: Path, file: str) -> None:
    write_folder(tmp_path / "folder")
    (tmp_path / "folder" / file).rename(tmp_path / "outside")
    (tmp_path / "folder" / file).symlink_to(tmp_path / "outside")
    (line,) = refused(tmp_path / "folder")
    assert re.search(rf"{re.escape(file)} is a link that leads out", line)


def test_weights_in_other_files(tmp_path: Path) -> None:
    write_folder(tmp_path)
    path = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    path.rename(tmp_path / "unet/diffusion_pytorch_model-00001-of-00002.safetensors")
    assert "has no diffusion_pytorch_model.safetensors" in refused(tmp_path)[0]
    (tmp_path / "unet/diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert "as a pickle, which can run code" in refused(tmp_path)[0]
    (tmp_path / "unet/diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    assert "has its weights in several files" in refused(tmp_path)[0]


def rewrite(folder: Path, change: Any) -> Path:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: state.update({k: v.half() for k, v in state.items()}), "is F16; allowed: F32"),
        (lambda state: state.update({"mid_block.attentions.0.query.weight": torch.zeros(2)}), "diffusers before 0.17"),
    ],
)
def test_weights_of_another_kind(tmp_path: Path, change: Any, text: str) -> None:
    write_folder(tmp_path)
    rewrite(tmp_path, change)
    assert text in refused(tmp_path)[0]
    path = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert "is damaged (its size does not match its header)" in refused(tmp_path)[0]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: state.pop("conv_in.bias"), "lacks the tensor 'conv_in.bias'"),
        (
            lambda state: state.update({"conv_in.bias": torch.zeros(9)}),
            "'conv_in.bias' is 9; its config.json asks for 8",
        ),
        (lambda state: state.update({"evil": torch.zeros(9)}), "has the tensor 'evil'"),
    ],
)
def test_weights_of_another_network(tmp_path: Path, change: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    rewrite(tmp_path, change)
    config = configured(tmp_path)
    settings = {**resolve.train_settings(config, "digits", "mine", "plain", 0), "dataset": "stripes"}
    monkeypatch.setattr("slimdiff.training.pretrained.load_file", lambda path: pytest.fail("was read"))
    with pytest.raises(UserError) as caught:
        take_in(tmp_path, own_images(), settings, "code")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"image_size": 16}, "models.mine.image_size is 16; allowed with pretrained: 8; leave it out"),
        ({"patch": 2}, "models.mine.patch is 2; allowed with pretrained: 1; leave it out"),
        ({"network": {"norm_num_groups": 2}}, "models.mine.network.norm_num_groups is 2; allowed with pretrained: 4"),
        ({"network": {"null_class": True}}, "models.mine.network.null_class is true; allowed for a folder without"),
        ({"training": {"preconditioning": "edm"}}, "models.mine.training.preconditioning is edm; allowed with"),
        ({"training": {"noise_schedule": "cosine"}}, "models.mine.training.noise_schedule is cosine; allowed with"),
        ({"family": "ddpm"}, "models.mine.family is 'ddpm'; allowed with pretrained: unet2d"),
        ({"pretrained": "nowhere"}, "models.mine.pretrained is 'nowhere': nowhere is neither a folder nor"),
        ({"sampler": {"method": "ode"}}, "models.mine.sampler.method is ode"),
        ({"sampler": {"scheduler": {"solver_order": 9}}}, "models.mine.sampler.scheduler"),
        ({"sampler": {"steps": 21}}, "models.mine.sampler.steps is 21; allowed for ddpm: up to 20"),
    ],
)
def test_keys_that_contradict_the_folder(tmp_path: Path, entry: dict[str, Any], text: str) -> None:
    write_folder(tmp_path)
    with pytest.raises(UserError) as caught:
        configured(tmp_path, **entry)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_training_from_random_weights_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(UserError, match=r"trainings\.groups-2 trains from random weights, and model mine has those of"):
        configured(tmp_path, recipe="groups-2")


def test_classes_of_another_data_set_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, num_class_embeds=7)
    with pytest.raises(UserError, match=r"models\.mine\.network\.classes is 7; allowed with data set digits: 10"):
        configured(tmp_path)


def test_a_schedule_that_ends_without_signal_is_refused() -> None:
    schedule = {"num_train_timesteps": 400, "beta_start": 0.5, "beta_end": 0.9, "beta_schedule": "linear"}
    with pytest.raises(UserError, match=r"training\.noise_schedule ends without any signal"):
        VP({**schedule, "trained_betas": None})


def test_a_recipe_replaces_single_options_of_the_scheduler(tmp_path: Path) -> None:
    write_folder(tmp_path, "ddim", {"thresholding": True})
    trailing = {"training": "plain", "sampler": {"scheduler": {"timestep_spacing": "trailing"}}}
    config = merge(configured(tmp_path), {"optimizations": {"mine": trailing}})
    sampler = resolve.compress_settings(config, "digits", "mine", "mine", 0)["sampler"]
    assert sampler["scheduler"]["timestep_spacing"] == "trailing"
    assert sampler["scheduler"]["thresholding"] is True
    assert json.loads((tmp_path / SCHEDULER).read_text())["timestep_spacing"] == "leading"
