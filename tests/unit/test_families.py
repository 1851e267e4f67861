"""Torch-free declarations of each network family agree with its implementation: names, keys and limits."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from builders import MODELS, SMALL_NETWORK, TRAININGS
from presets import SCHEMA

from slimdiff.catalog import compression, engines, families, limits
from slimdiff.catalog.layers import MIXED_LINEAR
from slimdiff.catalog.limits import BUILT_IN, DatasetFacts
from slimdiff.catalog.samplers import SAMPLER_ALWAYS, SAMPLER_FACTS, TIMESTEPS
from slimdiff.checkpoints import header
from slimdiff.compression.allocation import ALLOCATIONS
from slimdiff.compression.importance import IMPORTANCES
from slimdiff.compression.linear_quant import BITS
from slimdiff.compression.steps import STEPS
from slimdiff.compression.unstructured import METHODS
from slimdiff.compression.weight_only import WEIGHT_FORMATS
from slimdiff.config import lookup
from slimdiff.config.checks import networks
from slimdiff.config.checks.names import PRUNE_KEYS
from slimdiff.config.checks.trainings import DISTILL_KEYS, training_problems
from slimdiff.config.lookup import COMPRESSION_STEPS
from slimdiff.data import sources
from slimdiff.diffusion import denoiser, schedulers
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.processes import NOISE_SCHEDULES, VP
from slimdiff.diffusion.samplers import SAMPLERS, SamplerSettings, sample
from slimdiff.errors import UserError
from slimdiff.models import ncsn, registry, unet, unet2d
from slimdiff.models.ncsn import NCSNSettings
from slimdiff.runtime.devices import PRECISIONS
from slimdiff.training.compression_aware import SPARSITY_SCHEDULES
from slimdiff.training.loop import TrainingSettings
from slimdiff.training.optimizers import LR_SCHEDULES, OPTIMIZERS

DEFINITIONS = SCHEMA["$defs"]
TRAINING = DEFINITIONS["training"]["properties"]


def fields(settings):
    return {field.name for field in dataclasses.fields(settings)}


def test_families_have_the_same_names_everywhere():
    names = set(families.FAMILIES)
    assert names == set(registry.NETWORKS) == set(MODELS) == set(TRAININGS)
    assert names == set(denoiser.EDM_NOISE_SCALE)
    assert names == set(limits.NETWORK_FAULTS) == set(networks.GROUPED_CHANNELS)
    assert names == set(DEFINITIONS["model"]["properties"]["family"]["enum"])


def test_choices_of_the_schema_match_the_implemented_ones():
    assert set(TRAINING["preconditioning"]["enum"]) == set(families.PRECONDITIONINGS)
    assert set(families.PRECONDITIONINGS) == {p for f in families.FAMILIES.values() for p in f.preconditionings}
    assert list(SAMPLERS) == list(SAMPLER_FACTS)
    assert set(SAMPLERS) == {method for family in families.FAMILIES.values() for method in family.samplers}
    assert set(TRAINING["noise_schedule"]["anyOf"][0]["enum"]) == set(NOISE_SCHEDULES)
    assert set(DEFINITIONS["precision"]["enum"]) == set(PRECISIONS)
    pairs = {(n, s) for n in TRAINING["optimizer"]["enum"] for s in TRAINING["optimizer_state"]["enum"]}
    assert pairs - {(name, "8bit") for name in compression.FLOAT_ONLY} == set(OPTIMIZERS)
    assert set(DEFINITIONS["network_ddpm"]["properties"]["grouped"]["enum"]) == set(unet.GROUPED)
    assert set(DEFINITIONS["sampler"]["properties"]["method"]["enum"]) == set(SAMPLERS)
    assert set(TRAINING["lr_schedule"]["enum"]) == set(LR_SCHEDULES)


def test_choices_of_compression_match_the_implemented_ones():
    recipe = DEFINITIONS["optimization"]["properties"]
    prune, quantize = recipe["prune"]["properties"], recipe["quantize"]["properties"]
    assert set(COMPRESSION_STEPS) == set(STEPS) <= set(recipe)
    assert set(prune["method"]["enum"]) == {*METHODS, "channels", "blocks"} == set(PRUNE_KEYS)
    assert set(prune["allocation"]["enum"]) == set(ALLOCATIONS)
    assert set(DEFINITIONS["importance"]["enum"]) == set(IMPORTANCES) == set(compression.IMPORTANCES)
    assert set(compression.LOSS_IMPORTANCES) < set(IMPORTANCES)
    assert set(quantize["linear"]["enum"]) == set(BITS)
    assert set(TRAINING["linear"]["enum"]) == {"float", *BITS, MIXED_LINEAR}
    assert set(quantize["weights"]["enum"]) == set(WEIGHT_FORMATS)
    assert set(TRAINING["quantize"]["properties"]["weights"]["enum"]) < set(WEIGHT_FORMATS)
    assert set(TRAINING["sparsify"]["properties"]["schedule"]["enum"]) == set(SPARSITY_SCHEDULES)
    solvers = {name for name, sampler in SAMPLERS.items() if sampler.step}
    assert set(TRAINING["distill"]["properties"]["teacher"]["enum"]) == solvers
    keys = {key for keys in DISTILL_KEYS.values() for key in keys}
    assert set(TRAINING["distill"]["properties"]) == {"method", *keys}
    assert set(TRAINING["distill"]["properties"]["method"]["enum"]) == set(DISTILL_KEYS)
    assert set(recipe["engine"]["enum"]) == set(engines.ENGINES)
    assert set(recipe["precision"]["enum"]) == set(engines.PRECISIONS)
    assert set(engines.PRECISIONS) == {name for engine in engines.ENGINES.values() for name in engine.precisions}


@pytest.mark.parametrize(
    ("settings", "definition"),
    [
        (TrainingSettings, "training"),
        (SamplerSettings, "sampler"),
        (NCSNSettings, "network_ncsn"),
        (unet.UNetSettings, "network_ddpm"),
        (unet2d.UNet2DSettings, "network_unet2d"),
    ],
)
def test_keys_of_the_schema_match_the_settings(settings, definition):
    start_keys = lookup.START_KEYS if definition == "training" else ()
    assert set(DEFINITIONS[definition]["properties"]) == fields(settings).union(start_keys)


def required_of(family, part):
    """The keys of a model's `training` or `sampler` that the schema requires of this family besides those of all."""
    taken = [
        rule["then"] if rule["if"]["properties"]["family"]["const"] == family else rule.get("else", {})
        for rule in DEFINITIONS["model"]["allOf"]
    ]
    return [key for branch in taken for key in branch.get("properties", {}).get(part, {"required": []})["required"]]


@pytest.mark.parametrize("family", families.FAMILIES)
def test_trainings_may_omit_options_of_other_families(family):
    """TrainingSettings has defaults for exactly the keys that some family lacks, or that any model may leave out."""
    optional = {"ema_sampled_after", "compile", "log_sigma_mean", "log_sigma_std"}
    defaulted = {
        f.name for f in dataclasses.fields(TrainingSettings) if f.default is not dataclasses.MISSING
    } - optional
    assert defaulted == {key for known in families.FAMILIES.values() for key in known.training}
    everywhere = DEFINITIONS["model"]["properties"]["training"]["required"]
    own = required_of(family, "training")
    assert not set(everywhere) & set(own)
    allowed = fields(TrainingSettings) - optional
    assert {*everywhere, *own} == allowed - defaulted | set(families.FAMILIES[family].training)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_models_must_set_every_option_of_their_samplers(family):
    """`sampler_options` reads each of them from the model; the schema and not a KeyError says which one is missing."""
    required = {*DEFINITIONS["model"]["properties"]["sampler"]["required"], *required_of(family, "sampler")}
    known = families.FAMILIES[family]
    options = {option for method in known.samplers for option in SAMPLER_FACTS[method].options}
    assert required == {"method", *SAMPLER_ALWAYS, *known.sampler, *options}


def test_headers_of_models_may_hold_every_option_of_a_sampler():
    assert set(header.SCHEMA["properties"]["sampler"]["properties"]) == fields(SamplerSettings)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_sampler_of_a_family_runs_with_every_preconditioning(family):
    model = MODELS[family]()
    network = registry.build_network(model, seed=1).eval()
    shape = (1, model["image_size"], model["image_size"])
    for name in families.FAMILIES[family].preconditionings:
        built = denoiser.build_denoiser(network, model, TRAININGS[family](preconditioning=name))
        for method in families.FAMILIES[family].samplers:
            for steps in (SAMPLER_FACTS[method].min_steps, 4):
                settings = SamplerSettings(method, steps=steps, renoise=[2.0, 1.0, 0.5][: steps - 1], tolerance=1e-1)
                with torch.inference_mode():
                    end = sample(Guided(built), ImageNoise(0, range(2)), shape, settings)
                assert end.x.shape == (2, *shape), (name, method)
                assert bool(torch.isfinite(end.x).all()), (name, method)
                assert int(end.evaluations.min()) > 0, (name, method)


def problems(check, *arguments):
    return list(check(*arguments))


@pytest.mark.parametrize("size", [4, 8, 12, 16, 17, 20, 24, 25])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_validation_refuses_the_image_sizes_that_networks_cannot_run(monkeypatch, family, size):
    assert_refused_as_it_runs(monkeypatch, MODELS[family](image_size=size))


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 8, 16])
def test_validation_refuses_the_heads_that_networks_cannot_run(monkeypatch, heads):
    assert_refused_as_it_runs(monkeypatch, MODELS["ddpm"]({"heads": heads}))


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_num_groups": 3},
        {"norm_num_groups": 16},
        {"attention_head_dim": 5},
        {"attention_head_dim": None},
        {"attention_head_dim": 32},
        {"block_out_channels": [8, 16, 24]},
        {"down_block_types": ["DownBlock2D"]},
        {"up_block_types": ["UpBlock2D", "DownBlock2D"]},
        {"layers_per_block": 0},
        {"add_attention": False},
        {"attn_norm_num_groups": 4},
        {"attn_norm_num_groups": 5},
        {"attn_norm_num_groups": 5, "add_attention": False},
        {"freq_shift": 3.5},
        {"freq_shift": 4},
    ],
)
def test_validation_refuses_the_sizes_that_a_unet2d_cannot_have(monkeypatch, changes):
    assert_refused_as_it_runs(monkeypatch, MODELS["unet2d"](changes))


@pytest.mark.parametrize("key", ["norm_num_groups", "attn_norm_num_groups"])
@pytest.mark.parametrize("groups", [4, 8, 16])
@pytest.mark.parametrize("patch", [1, 2])
def test_validation_refuses_norms_of_single_values_in_a_unet2d(monkeypatch, key, groups, patch):
    """With patches of 2, the inner level of a 4×4 image is one pixel."""
    widths = [16, 16] if key == "norm_num_groups" else [8, 16]
    model = MODELS["unet2d"]({"block_out_channels": widths, key: groups}, image_size=4, patch=patch)
    assert_refused_as_it_runs(monkeypatch, model)


def test_the_size_that_a_network_of_patches_needs_is_that_of_the_image():
    (text,) = [text for keys, text in limits.network_faults("ncsn", 20, SMALL_NETWORK, 2) if keys == ("image_size",)]
    assert re.findall(r"\d+", text) == ["20", "2", "34"]
    assert not problems(limits.network_faults, "ncsn", 34, SMALL_NETWORK, 2)


@pytest.mark.parametrize("patch", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_validation_refuses_the_patches_that_networks_cannot_take(monkeypatch, family, patch):
    assert_refused_as_it_runs(monkeypatch, MODELS[family](image_size=48, patch=patch))


def test_networks_of_plugins_take_no_patches():
    assert problems(limits.network_faults, "mine", 16, {}, 1) == []
    assert [keys for keys, _ in limits.network_faults("mine", 16, {}, 2)] == [("patch",)]


@pytest.mark.parametrize("groups", [1, 3, 8, 16, 32])
@pytest.mark.parametrize("size", [17, 24, 25])
def test_validation_refuses_the_norm_groups_that_networks_cannot_run(monkeypatch, size, groups):
    """On a map of one pixel a group of one channel is one value, which a norm makes 0, or refuses for one image."""
    model = MODELS["ncsn"](image_size=size, network={**SMALL_NETWORK, "norm_groups": [4, 4, 4, groups]})
    assert_refused_as_it_runs(monkeypatch, model)


def assert_refused_as_it_runs(monkeypatch, model):
    """A network is refused by the config and when it is built, or it runs on a single image."""
    place = (model["family"], model["image_size"], model["network"], model.get("patch", 1))
    refused = problems(limits.network_faults, *place)
    assert bool(refused) == cannot_build(model, 1)
    for module in (ncsn, unet, unet2d):
        monkeypatch.setattr(module, "refuse", lambda faults, *place: None)
    try:
        network = registry.build_network(model)
        x = torch.rand(1, model["channels"], model["image_size"], model["image_size"])
        out = network(x, torch.ones(1))
        assert out.shape == x.shape
        runs = bool(out.isfinite().all())
    except (ValueError, RuntimeError, ZeroDivisionError):
        runs = False
    assert runs != bool(refused)


@pytest.mark.parametrize("grouped", unet.GROUPED)
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8, 12, 16, 32, 64])
def test_validation_and_networks_refuse_the_same_groups(grouped, groups):
    model = MODELS["ddpm"]({"grouped": grouped})
    whole = {
        "models": {"mine": {**model, "training": TRAININGS["ddpm"]()}},
        "trainings": {"mine": {"groups": groups}},
    }
    refused = bool(problems(training_problems, whole, "mine", "mine"))
    assert refused == cannot_build(model, groups)


def cannot_build(model, groups):
    try:
        registry.build_network(model, groups)
    except UserError:
        return True
    return False


def test_constants_shared_with_torch_free_code_agree():
    from slimdiff.diffusion import guidance
    from slimdiff.training import loop

    assert denoiser.NO_LABEL == loop.NO_LABEL == guidance.NO_LABEL == -1


def test_rules_and_models_agree_on_noise_schedule_steps_and_samplers():
    assert len(VP("linear").betas) == TIMESTEPS
    assert {name for name, facts in SAMPLER_FACTS.items() if facts.scheduled} == set(schedulers.SCHEDULERS)


def test_the_facts_of_built_in_sources_are_those_of_their_images(mnist_images):
    assert set(BUILT_IN) == set(DEFINITIONS["dataset"]["properties"]["source"]["enum"]) - {"folder"}
    digits = sources.load(sources.DataSettings(name="digits", source="digits"), Path("nowhere"))
    for name, found in (("digits", digits), ("mnist", mnist_images)):
        sizes = (found.image_shape, len(found.train_images), len(found.test_images))
        assert BUILT_IN[name] == DatasetFacts(len(found.classes), (), *sizes)


def test_the_schema_has_the_limits_of_the_networks_that_score():
    assert SCHEMA["properties"]["sampling"]["properties"]["n_samples"]["minimum"] == limits.FEATURES
    assert DEFINITIONS["dataset"]["properties"]["image_size"]["minimum"] == limits.MIN_SIDE


@pytest.mark.parametrize("groups", [1, 2, "max"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_convolutions_are_counted_as_they_are_built(family, groups):
    model = MODELS[family]()
    network = registry.build_on_meta(model, groups)
    built = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim == 4)
    counted = limits.conv_weights(family, model["channels"], model["network"], groups)
    assert 0.9 * built <= counted <= built
