"""Plugin loading: arguments and results of plugin functions, what files record of plugins, and errors."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import SOURCE, model_header, ncsn_model, small_model, training, write_small_model
from presets import ROOT
from torch import nn

import slimdiff
from slimdiff.catalog.families import FAMILIES
from slimdiff.checkpoints import weights
from slimdiff.checkpoints.model import write_model
from slimdiff.compression import restore, steps
from slimdiff.data import image_set, sources
from slimdiff.diffusion import denoiser
from slimdiff.engines.network import count_parameters
from slimdiff.errors import UserError
from slimdiff.inference.model import LoadedModel
from slimdiff.io.settings import canonical
from slimdiff.models import registry
from slimdiff.plugins import REGISTERED, declarations, loading
from slimdiff.stages import compress, data

EXAMPLE = ROOT / "examples" / "my_recipes.py"
HEAD = "import torch\nfrom torch import nn\nfrom slimdiff.plugins import family, source, step\n"
RESIDUAL = {
    "family": "residual",
    "image_size": 12,
    "channels": 1,
    "fit": "resize",
    "network": {"width": 8, "blocks": 1, "classes": 3},
}
TABLES: tuple[dict[Any, Any], ...] = (
    FAMILIES,
    registry.NETWORKS,
    steps.STEPS,
    restore.RESTORERS,
    sources.SOURCES,
    denoiser.EDM_NOISE_SCALE,
    REGISTERED,
    loading.LOADED,
)


@pytest.fixture(autouse=True)
def unplugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unload all plugins after the test."""
    tables, modules, path = [dict(table) for table in TABLES], set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    forget()
    yield
    for table, before in zip(TABLES, tables, strict=True):
        table.clear()
        table.update(before)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(tmp_path), str(EXAMPLE.parent))):
            del sys.modules[name]
    sys.path[:] = path


def forget() -> None:
    declarations.read.cache_clear()
    declarations._load_catalog.cache_clear()


def plug(text: str, name: str = "mine.py") -> str:
    """Write a plugin here and load it."""
    Path(name).write_text(HEAD + text, encoding="utf-8")
    forget()
    loading.load([name])
    return name


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the example's functions, against independent implementations


@pytest.fixture
def example() -> Any:
    loading.load([EXAMPLE])
    return sys.modules["my_recipes"]


def test_rounding_equals_that_of_types_with_as_many_bits(example: Any) -> None:
    """float16 has 10 bits of mantissa, bfloat16 has 7; torch rounds to nearest even, too."""
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).reshape(100, 100)
    values[0, :4] = torch.tensor([0.0, -0.0, 1.0 + 2**-8, 2.0 - 2**-9])  # zeros, a tie, a carry
    assert torch.equal(example.rounded(values, 7), values.to(torch.bfloat16).float())
    normal = values.clone()
    normal[abs(normal) < 2**-14] = 1.0  # smaller numbers are subnormal in float16, with fewer bits
    assert torch.equal(example.rounded(normal, 10), normal.to(torch.float16).float())
    assert torch.equal(example.rounded(values.T, 7), example.rounded(values, 7).T)
    assert torch.equal(example.rounded(values, 22).view(torch.int32) & 1, torch.zeros(100, 100, dtype=torch.int32))


def test_low_rank_is_the_best_approximation_of_its_rank(example: Any) -> None:
    """The squared error is the sum of the squared omitted singular values (Eckart and Young 1936)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))
    weight, bias, untouched = network[0].weight.data.clone(), network[0].bias.data.clone(), network[2]
    assert example.low_rank(network, {"share": 0.25}, 0) == {"0": 4}
    product = network[0][1].weight @ network[0][0].weight
    error = float((product.detach() - weight).square().sum())
    assert error == pytest.approx(float(torch.linalg.svdvals(weight)[4:].square().sum()), rel=1e-4)
    assert torch.equal(network[0][1].bias.data, bias)
    assert network[2] is untouched, "a pair would hold more than 16 × 1"
    with pytest.raises(UserError, match=r"low-rank\.share is 1, .*smaller"):
        example.low_rank(nn.Sequential(nn.Linear(8, 8)), {"share": 1}, 0)


def test_the_examples_network_matches_its_declaration(example: Any) -> None:
    network = registry.build_network(RESIDUAL)
    x, noise_level = torch.randn(4, 1, 12, 12), torch.randn(4)
    none, first, second = (network(x, noise_level, torch.full((4,), label)) for label in (-1, 0, 1))
    assert none.shape == x.shape
    assert torch.equal(none, network(x, noise_level))
    assert not torch.equal(first, second)
    parameters = dict(network.named_modules())
    for names in network.prune_scopes().values():
        assert set(names) <= parameters.keys()


def test_the_examples_images_match_their_declaration(example: Any) -> None:
    options = {"train_images": 30, "test_images": 6}
    found = sources.load(sources.DataSettings("shapes", "shapes", options=options, plugins=({},)), Path())
    assert found.train_images.shape == (30, 1, 12, 12)
    assert found.train_labels.tolist() == [0, 1, 2] * 10
    assert found.classes == ("disk", "square", "cross")
    assert all(len(image.unique()) == 2 for image in found.test_images), "one shape of one brightness on black"
    assert found.source == f"the plugin {EXAMPLE}"


# --- the stages, started as by the rules


def entry(kind: str, name: str, path: str = "mine.py") -> dict[str, str]:
    (found,) = [one for one in declarations.read(path) if (one.declared.kind, one.declared.name) == (kind, name)]
    return found.entry


PLUGIN = HEAD + (
    """
@step("halve", settings={"times": {"type": "integer", "minimum": 1}})
def halve(network, settings, seed):
    for parameter in network.parameters():
        parameter.data /= 2 ** settings["times"]

def rebuild(network, record, tensors):
    network.embed = nn.Sequential(nn.Identity(), network.embed)

@step("wrap", settings={}, restore=rebuild)
def wrap(network, settings, seed):
    rebuild(network, {}, {})
    network.embed[1].bias.data = torch.rand(32)
    return {"seed": seed}

@source("noise", classes=["a", "b"], options={"n": {"type": "integer"}})
def noise(options, data_dir):
    images = torch.randint(0, 256, (options["n"], 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(options["n"]) % 2
    return images, labels, images, labels
"""
)


def test_all_stages_from_training_to_images() -> None:
    """Stages with settings that name a plugin write files that name it and are loaded with it."""
    Path("mine.py").write_text(PLUGIN, encoding="utf-8")
    network = registry.build_network(small_model(), seed=1)
    dataset = {"name": "x", "channels": 1, "height": 20, "width": 20, "classes": ["a"], "saturated": 0.0}
    header = {"model": small_model(), "training": training(), "structure": [], "dataset": dataset}
    header |= {"seed": 0, "code": "", "status": "ok", "reason": ""}
    weights.write_training("weights.safetensors", {"raw": network.state_dict()}, header)
    used = [entry("step", "wrap"), entry("step", "halve")]
    settings = {"weights": "raw", "steps": [{"wrap": {}}, {"halve": {"times": 2}}], "engine": "torch", "seed": 3}
    settings |= {"sampler": {"method": "heun", "steps": 3, "precision": "float32"}, "plugins": used}
    arguments = ["--settings", canonical(settings), "--weights", "weights.safetensors"]
    for name in ("model", "again"):
        compress.main([*arguments, "--out", f"{name}.safetensors", "--out-packed", f"{name}.packed"])
    assert Path("model.safetensors").read_bytes() == Path("again.safetensors").read_bytes(), "the seed decides"
    loaded = slimdiff.load("model.safetensors")
    assert isinstance(loaded, LoadedModel)
    assert loaded.settings["plugins"] == used
    assert loaded.settings["structure"][0]["step"] == "wrap"
    assert torch.equal(loaded.network.conv1.weight, network.conv1.weight / 4)
    assert isinstance(loaded.network.embed, nn.Sequential)
    images = loaded.sample(2).images
    load = "slimdiff.load('model.safetensors', plugins=['mine.py'])"
    script = f"import slimdiff; print({load}.sample(2).images.sum())"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == str(images.sum()), "a fresh process with the plugin draws the same"


def test_the_data_stage_reads_a_plugins_source() -> None:
    Path("mine.py").write_text(PLUGIN, encoding="utf-8")
    settings = {"name": "x", "source": "noise", "options": {"n": 6}, "plugins": [entry("source", "noise")]}
    data.main(["--settings", canonical(settings), "--data-dir", ".", "--out", "images.safetensors"])
    assert image_set.read(Path("images.safetensors")).classes == ("a", "b")


def test_a_plugin_edited_after_training_is_refused() -> None:
    Path("mine.py").write_text(PLUGIN, encoding="utf-8")
    planned = {**entry("step", "halve"), "code": "0123456789ab"}
    text = refused(lambda: loading.load_used([planned]))
    assert text.startswith("step 'halve' of the plugin mine.py has changed: it was 0123456789ab and mine.py has ")


def test_only_models_that_need_their_plugin_are_refused_without_it() -> None:
    """A step that keeps the structure is named in the header but not needed for loading."""
    halve = {"path": "mine.py", "kind": "step", "name": "halve", "code": "0"}
    write_small_model(Path("dense.safetensors"), steps=[{"halve": {}}], plugins=[halve])
    assert count_parameters(slimdiff.load("dense.safetensors").network)[0] > 0
    wrap = {**halve, "name": "wrap"}
    write_small_model(Path("wrapped.safetensors"), plugins=[wrap], structure=[{"step": "wrap", "record": {}}])
    residual = {**halve, "kind": "family", "name": "residual"}
    header = {**model_header(small_model(), training(), plugins=[residual]), "model": RESIDUAL}
    write_model("residual.safetensors", nn.Linear(1, 1), header)
    for name, what in (("wrapped", "step 'wrap'"), ("residual", "family 'residual'")):
        assert refused(lambda name=name: slimdiff.load(f"{name}.safetensors")) == (
            f"{name}.safetensors: {what} of the plugin mine.py is needed: name that file under `plugins`, with "
            "--plugin or in load(…, plugins=[…])"
        )
    assert "has changed: it was 0 and " in refused(lambda: slimdiff.load("residual.safetensors", plugins=[EXAMPLE]))


def test_a_header_without_its_plugins_fails_clearly() -> None:
    write_small_model(Path("m.safetensors"), structure=[{"step": "wrap", "record": {}}])
    message = refused(lambda: slimdiff.load("m.safetensors"))
    assert "'wrap'" in message and "load its plugin" in message
    assert "'residual'; allowed: ncsn, ddpm, unet2d; others need their plugin" in refused(
        lambda: registry.build_network(RESIDUAL)
    )


def test_loading_twice_has_no_effect(example: Any) -> None:
    before = dict(REGISTERED)
    loading.load([EXAMPLE, str(EXAMPLE)])
    assert before == REGISTERED
    assert sys.modules["my_recipes"] is example


# --- mistakes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "1 / 0\n@step('a', settings={})\ndef f(n, s, r): ...\n",
            "mine.py, line 4: loading it: ZeroDivisionError: div",
        ),
        (
            "import nowhere\n@step('a', settings={})\ndef f(n, s, r): ...\n",
            "mine.py, line 4: loading it: ModuleNotFoun",
        ),
        (
            "@step('a', settings={})\ndef f(n, s, r): ...\nstep('b', settings={})(f)\n",
            "mine.py registers something that no top-level decorator",
        ),
        ("if False:\n    pass\n", "mine.py registers nothing"),
        ("@step('prune', settings={})\ndef f(n, s, r): ...\n", "step 'prune' conflicts"),
        (
            "@family('ncsn', network={}, preconditionings=['edm'], samplers=['heun'])\ndef f(*a): ...\n",
            "'ncsn' conflicts",
        ),
        ("@source('digits', classes=['a', 'b'])\ndef f(o, d): ...\n", "source 'digits' conflicts"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(text: str, said: str) -> None:
    assert said in refused(lambda: plug(text))


def test_a_plugin_that_does_not_exist() -> None:
    assert refused(lambda: loading.load(["absent.py"])) == "the plugin absent.py does not exist; correct its path"


def test_the_name_of_another_module_is_refused() -> None:
    step = "@step('a', settings={})\ndef f(n, s, r): ...\n"
    assert "torch.py has the name of a module of an installed package" in refused(lambda: plug(step, "torch.py"))
    Path("torch.py").unlink()
    Path("json.py").write_text("x = 1\n", encoding="utf-8")
    assert "json.py has the name of a module of the standard library" in refused(lambda: plug(f"import json\n{step}"))


def test_a_plugins_folder_hides_no_library() -> None:
    """Neither from a plugin, which imports them late, nor from a job."""
    for name in ("tabnanny", "markdown_it"):
        Path(f"{name}.py").write_text("raise SystemExit('hidden')\n", encoding="utf-8")
    plug("@step('a', settings={})\ndef f(n, s, r): ...\n")
    assert importlib.import_module("tabnanny").check
    assert importlib.import_module("markdown_it").MarkdownIt


@pytest.mark.parametrize(
    ("body", "settings", "said"),
    [
        ("return 3", {"k": 1}, "mine.py, step 'a' must return None"),
        (
            "raise ValueError('no\\n  way')",
            {"k": 1},
            "the plugin mine.py, line 6: mine.py, step 'a': ValueError: no way",
        ),
        ("pass", {"k": "x"}, "mine.py, step 'a', settings.k: 'x' is not of type 'integer'"),
        ("pass", {}, "mine.py, step 'a', settings: 'k' is a required property"),
        ("pass", {"k": 1, "l": 1}, "mine.py, step 'a', settings: Additional properties are not allowed"),
    ],
)
def test_an_error_in_a_step_is_one_line(body: str, settings: dict[str, Any], said: str) -> None:
    plug(f"@step('a', settings={{'k': {{'type': 'integer'}}}})\ndef f(network, settings, seed):\n    {body}\n")
    assert said in refused(lambda: steps.apply_steps(nn.Linear(1, 1), [{"a": settings}], 0))


def test_a_step_draws_from_its_seed_and_keeps_the_global_generator() -> None:
    plug("@step('a', settings={})\ndef f(network, settings, seed):\n    network.weight.data = torch.rand(1, 1)\n")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn, layer = [], nn.Linear(1, 1, bias=False)
    for seed in (0, 0, 1):
        steps.apply_steps(layer, [{"a": {}}], seed)
        drawn.append(layer.weight.item())
    assert drawn[0] == drawn[1] != drawn[2]
    torch.manual_seed(5)
    steps.apply_steps(layer, [{"a": {}}], 7)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 3", "family 'a' must return a torch.nn.Module, not int"),
        ("return nn.Linear(1, 1)", "family 'a': its network needs the method prune_scopes()"),
        ("return Scoped()", "prune_scopes() returns middle; declared are global"),
        ("return nn.Lnear(1, 1)", "mine.py, line 11: mine.py, family 'a': AttributeError: module 'torch.nn' has no"),
    ],
)
def test_an_error_in_a_family_is_one_line(body: str, said: str) -> None:
    plug(
        "class Scoped(nn.Module):\n    def prune_scopes(self):\n        return {'middle': []}\n\n\n"
        "@family('a', network={}, preconditionings=['edm'], samplers=['heun'])\n"
        f"def f(network, channels, image_size, groups):\n    {body}\n"
    )
    model = ncsn_model(family="a", network={})
    assert said in refused(lambda: registry.build_network(model))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return x, y, x", "source 'a' must return train_images, train_labels, test_images, test_labels"),
        (
            "return x / 255, y, x, y",
            "train_images must be uint8 (N, C, H, W), C 1 or 3, not torch.float32 (4, 1, 8, 8)",
        ),
        ("return x[:, 0], y, x, y", "train_images must be uint8 (N, C, H, W), C 1 or 3, not torch.uint8 (4, 8, 8)"),
        ("return x, y, x, y[:2]", "test_labels must be integers (4,), not torch.int64 (2,)"),
        ("return x, y, x, y + 1", "test_labels must be 0 to 1"),
        ("return x, y, x[..., :4], y", "training and test images differ in size"),
        ("return x, y, x[:0], y[:0]", "test_images must be uint8"),
    ],
)
def test_an_error_in_a_source_is_one_line(body: str, said: str) -> None:
    plug(
        "@source('a', classes=['x', 'y'])\ndef f(options, data_dir):\n"
        "    x, y = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2\n"
        f"    {body}\n"
    )
    assert said in refused(lambda: sources.load(sources.DataSettings("x", "a", plugins=({},)), Path()))


def test_only_plugin_sources_take_options() -> None:
    found = sources.DataSettings("x", "digits", options={})
    assert "datasets.x.options: only sources from plugins take it, not 'digits'" in refused(
        lambda: sources.load(found, Path())
    )


# --- the plugins of docs/how-to


def block(page: str, name: str) -> str:
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```python\n# {name}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_pages_step_adds_noise_of_its_level() -> None:
    plug(block("add-a-recipe.md", "noisy.py"), "noisy.py")
    layer = nn.Linear(100, 100)
    before = layer.weight.data.clone()
    steps.apply_steps(layer, [{"add-noise": {"level": 0.1}}], 0)
    assert float((layer.weight.data - before).std() / before.std()) == pytest.approx(0.1, rel=0.05)


def test_the_pages_network_runs() -> None:
    plug(block("add-a-model.md", "tiny.py"), "tiny.py")
    model = {"family": "tiny", "image_size": 8, "channels": 3, "fit": "resize", "network": {"width": 4}}
    network = registry.build_network(model)
    x = torch.randn(2, 3, 8, 8)
    assert network(x, torch.zeros(2)).shape == x.shape
    assert not torch.equal(network(x, torch.zeros(2)), network(x, torch.ones(2)))


def test_the_pages_images_are_gradients() -> None:
    plug(block("add-a-data-set.md", "gradients.py"), "gradients.py")
    found = sources.load(sources.DataSettings("x", "gradients", options={"n": 8}, plugins=({},)), Path())
    assert (len(found.train_images), len(found.test_images)) == (8, 2)
    across, down = found.train_images[:2, 0].int()
    assert (across.diff(dim=1) > 0).all() and (across.diff(dim=0) == 0).all()
    assert torch.equal(down.diff(dim=1), across.diff(dim=0).T)
