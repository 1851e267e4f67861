"""Which cells draw the same noise as the baseline: by the config, and by what samplers take from their generators."""

from typing import Any

import pytest
import torch
from builders import MODELS, SAMPLERS, TRAININGS
from presets import CONFIG, merge

from slimdiff.catalog.families import FAMILIES
from slimdiff.catalog.samplers import SAMPLER_FACTS
from slimdiff.config.cells import Cell
from slimdiff.config.lookup import same_noise_cell
from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network

STOCHASTIC = {"method": "euler-maruyama", "steps": 500}


def states(family: str, method: str, steps: int) -> list[torch.Tensor]:
    """Return the state of each image's generator after sampling."""
    model = MODELS[family]()
    denoiser = build_denoiser(build_network(model, seed=1).eval(), model, TRAININGS[family]())
    options = {"method": method, "steps": steps, "renoise": [4.0, 2.0, 1.0, 0.5][: steps - 1]}
    settings = build(SamplerSettings, {**SAMPLERS[family], **options}, "sampler")
    noise = ImageNoise(3, range(2))
    with torch.inference_mode():
        sample(Guided(denoiser, None, 1.0), noise, (1, model["image_size"], model["image_size"]), settings)
    return [generator.get_state() for generator in noise.generators]


@pytest.mark.parametrize(
    ("family", "method"), [(name, method) for name, family in FAMILIES.items() for method in family.samplers]
)
def test_a_sampler_draws_noise_after_its_start_if_and_only_if_it_is_stochastic(family: str, method: str) -> None:
    size = MODELS[family]()["image_size"]
    noise = ImageNoise(3, range(2))
    noise.normal((1, size, size))
    start = [generator.get_state() for generator in noise.generators]
    few, more = states(family, method, 4), states(family, method, 5)
    for place in range(2):
        assert torch.equal(few[place], start[place]) != SAMPLER_FACTS[method].stochastic
        assert torch.equal(few[place], more[place]) != SAMPLER_FACTS[method].stochastic


def compared(recipe: dict[str, Any], baseline: dict[str, Any] | None = None, listed: bool = True) -> Cell | None:
    """Return the cell that the NCSN's recipe `mine` is compared with at seed 1."""
    names = ["baseline", "mine"] if listed else ["mine"]
    entry = {"dataset": "mnist", "model": "ncsn", "optimizations": names, "seeds": [0, 1]}
    recipes = {"mine": {"training": "plain", **recipe}, "baseline": {"training": "plain", **(baseline or {})}}
    config = merge(CONFIG, {"optimizations": recipes, "matrix": [entry]})
    return same_noise_cell(config, "mnist", "ncsn", "mine", "1")


@pytest.mark.parametrize(
    "recipe",
    [
        {"prune": {"method": "l1", "amount": 0.7, "scope": "global"}},
        {"training": "groups-2"},
        {"weights": "ema"},
        {"engine": "openvino", "precision": "int8"},
        {"sampling_seed": 1},
        {"sampler": {"steps": 4}},
        {"sampler": {"method": "ode"}},
        {"training": "distilled-4", "sampler": {"method": "euler", "steps": 4, "grid": 8}},
    ],
)
def test_networks_and_deterministic_samplers_leave_the_noise_as_it_is(recipe: dict[str, Any]) -> None:
    assert compared(recipe) == Cell("mnist", "ncsn", "baseline", 1)


def test_another_seed_or_noise_at_each_step_is_other_noise() -> None:
    assert compared({"sampling_seed": 0}) is None
    assert compared({}, {"sampling_seed": 0}) is None
    assert compared({"sampler": STOCHASTIC}) is None
    assert compared({}, {"sampler": STOCHASTIC}) is None


def test_stochastic_samplers_of_one_kind_draw_the_same() -> None:
    longer, other = {**STOCHASTIC, "steps": 400}, {"method": "predictor-corrector", "steps": 500}
    assert compared({"sampler": STOCHASTIC}, {"sampler": STOCHASTIC}) == Cell("mnist", "ncsn", "baseline", 1)
    assert compared({"sampler": longer}, {"sampler": STOCHASTIC}) is None
    assert compared({"sampler": other}, {"sampler": STOCHASTIC}) is None


def test_the_baseline_and_a_matrix_without_it_have_nothing_to_compare() -> None:
    assert compared({}, listed=False) is None
    assert same_noise_cell(CONFIG, "mnist", "ncsn", "baseline", "0") is None
    assert same_noise_cell(CONFIG, "mnist", "ncsn", "l1-70", "0") == Cell("mnist", "ncsn", "baseline", 0)
    assert same_noise_cell(CONFIG, "mnist", "ncsn", "l1-70", "1") is None
