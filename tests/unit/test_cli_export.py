"""`slimdiff export`: exported files compute the same as the cell's network and describe themselves."""

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from builders import (
    UNET_SAMPLER,
    model_header,
    small_model,
    small_unet_model,
    training,
    unet_training,
    write_small_model,
)
from clifolders import REAL
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import slimdiff
from slimdiff.checkpoints.model import write_model
from slimdiff.compression.linear_quant import quantize_linears
from slimdiff.diffusion.denoiser import Denoiser, build_denoiser
from slimdiff.diffusion.guidance import Guided, labels_in_turn
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.errors import UserError
from slimdiff.inference import export
from slimdiff.inference.model import LoadedModel
from slimdiff.io import packed
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network

Command = Callable[..., tuple[int, str, str]]


class Session(nn.Module):
    """An ONNX graph that is called like a network."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.names = [entry.name for entry in self.session.get_inputs()]
        self.anchor = nn.Parameter(torch.zeros(()))  # samplers read the device from the network's parameters

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        values = {name: tensor.numpy() for name, tensor in zip(self.names, inputs, strict=True)}
        return torch.from_numpy(self.session.run(None, values)[0])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[LoadedModel, Path, dict[str, Any]]]:
    """A small model of a family, its ONNX file and its description; made once per family."""
    made: dict[str, tuple[LoadedModel, Path, dict[str, Any]]] = {}

    def get(family: str) -> tuple[LoadedModel, Path, dict[str, Any]]:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            write_small_model(folder / "model.safetensors", family)
            loaded = slimdiff.load(folder / "model.safetensors")
            made[family] = loaded, folder / "out.onnx", export.write_onnx(folder / "out.onnx", loaded)
        return made[family]

    return get


@torch.inference_mode()
def drawn(denoiser: Denoiser, loaded: LoadedModel, n: int, **options: Any) -> torch.Tensor:
    """n images in [-1, 1] from slimdiff's own sampler, before rounding."""
    settings = build(SamplerSettings, {**loaded.settings["sampler"], **options}, "sampler")
    model = loaded.settings["model"]
    labels = labels_in_turn(n, loaded.classes) if loaded.classes else None
    guided = Guided(denoiser, labels, settings.guidance, interval=settings.guidance_interval, clip=settings.clip)
    shape = (model["channels"], model["image_size"], model["image_size"])
    end = sample(guided, ImageNoise(3, range(n)), shape, settings)
    return denoiser.to_images(end.x)


SLOW_DDPM = pytest.param("ddpm", marks=pytest.mark.slow)  # torch's exporter is slow for attention


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("ncsn", {}),
        ("ncsn", {"steps": 10}),
        pytest.param("ddpm", {}, marks=pytest.mark.slow),
        pytest.param("ddpm", {"method": "ddim", "steps": 5}, marks=pytest.mark.slow),
        pytest.param("ddpm", {"guidance": 1.0}, marks=pytest.mark.slow),
    ],
)
def test_onnx_runtime_samples_the_same_images(
    exported: Callable[..., Any], family: str, options: dict[str, Any]
) -> None:
    loaded, path, _ = exported(family)
    header = loaded.settings
    replaced = build_denoiser(Session(path), header["model"], header["training"])
    expected = drawn(loaded.denoiser, loaded, 5, **options)
    found = drawn(replaced, loaded, 5, **options)
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < 1e-4


def test_the_check_detects_another_network(exported: Callable[..., Any]) -> None:
    """A graph of equal shapes with other weights differs clearly, so the check above and the command's own can fail."""
    loaded, path, _ = exported("ncsn")
    other = build_network(loaded.settings["model"], seed=2).eval()
    with pytest.raises(UserError, match=r"the ONNX graph differs by .* from the network.*not written"):
        export._difference(path, other, export._example(loaded, 3))
    assert export._difference(path, loaded.network, export._example(loaded, 3)) < 1e-5


@pytest.mark.parametrize("family", ["ncsn", SLOW_DDPM])
def test_the_graph_describes_itself(exported: Callable[..., Any], family: str) -> None:
    loaded, path, description = exported(family)
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == description
    (entry,) = [entry for entry in graph.metadata_props if entry.key == "slimdiff"]
    assert json.loads(entry.value) == description
    assert [value.name for value in graph.graph.input] == list(description["inputs"])
    assert [value.name for value in graph.graph.output] == list(description["output"])
    for value in graph.graph.input:
        sizes = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        assert sizes == description["inputs"][value.name]["shape"]
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        assert str(kind) == description["inputs"][value.name]["dtype"]
    assert ("labels" in description["inputs"]) == bool(loaded.classes)
    assert 0 <= description["max_difference"] < 1e-5
    assert description["settings"]["sampler"] == loaded.settings["sampler"]


PRECONDITIONINGS = [
    (small_model(), training(preconditioning="score")),
    (small_model(), training(preconditioning="edm")),
    (small_unet_model(), unet_training(preconditioning="edm")),
    (small_unet_model(), unet_training(preconditioning="epsilon")),
    (small_unet_model(), unet_training(preconditioning="v", noise_schedule="cosine")),
]


@pytest.mark.parametrize(("model", "options"), PRECONDITIONINGS, ids=lambda value: value.get("preconditioning", ""))
def test_the_formulas_match_the_denoiser(model: dict[str, Any], options: dict[str, Any]) -> None:
    """They are Python: with the listed constants, and `step` computed by hand, they give the coefficients."""
    network = build_network(model).eval()
    loaded = LoadedModel(network, build_denoiser(network, model, options), model_header(model, options))
    denoiser = export.describe(loaded, [])["denoiser"]
    constants = {name: value for name, value in denoiser["constants"].items() if not isinstance(value, str)}
    low, high = denoiser["sigma_min"], denoiser["sigma_max"]
    assert (low, high) == loaded.denoiser.sigma_range()
    for sigma in (low, math.sqrt(low * high), high):
        one = torch.tensor([sigma], dtype=torch.float64)
        names = {**vars(math), **constants, "sigma": sigma, "step": lambda s: by_hand(denoiser["constants"]["beta"], s)}
        for name, coefficient in zip(
            ("c_skip", "c_out", "c_in", "c_noise"), loaded.denoiser.coefficients(one), strict=True
        ):
            assert eval(denoiser[name], {}, names) == pytest.approx(coefficient.item(), rel=1e-6, abs=1e-6)


def by_hand(beta: str, sigma: float) -> float:
    """The step as the description defines it in words, with its betas."""
    if beta.startswith("1000 values in equal steps from 1e-4 to 0.02"):
        betas = [1e-4 + i * (0.02 - 1e-4) / 999 for i in range(1000)]
    else:
        formula = beta.partition(" with a(i) = ")[2]
        assert beta.startswith("min(0.999, 1 - a(i + 1) / a(i)) with")

        def a(i: int) -> float:
            return float(eval(formula, {}, {**vars(math), "i": i}))

        betas = [min(0.999, 1 - a(i + 1) / a(i)) for i in range(1000)]
    logs, product = [], 1.0
    for value in betas:
        product *= 1 - value
        logs.append(math.log(math.sqrt((1 - product) / product)))
    target = min(max(math.log(sigma), logs[0]), logs[-1])
    above = next(i for i in range(1, 1000) if logs[i] >= target)
    return above - 1 + (target - logs[above - 1]) / (logs[above] - logs[above - 1])


@pytest.mark.parametrize("family", ["ncsn", "ddpm"])
def test_safetensors_hold_the_plain_state_dict(tmp_path: Path, family: str) -> None:
    """torch and safetensors suffice to read it; our registry only builds the network."""
    network = write_small_model(tmp_path / "model.safetensors", family).eval()
    loaded = slimdiff.load(tmp_path / "model.safetensors")
    export.write_safetensors(tmp_path / "out.safetensors", loaded)
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()["slimdiff"])
    other = build_network(description["settings"]["model"], seed=5).eval()
    other.load_state_dict(load_file(tmp_path / "out.safetensors"))
    inputs = export._example(loaded, 3).values()
    assert torch.equal(other(*inputs), network(*inputs))
    assert description["denoiser"]["preconditioning"] == "edm"
    assert description["dequantized"] == []


@pytest.mark.parametrize(("bits", "tolerance"), [("4bit", 1e-5), ("8bit", 0.05)])
def test_quantized_layers_are_exported_in_float(tmp_path: Path, bits: str, tolerance: float) -> None:
    """Exported files do not round the inputs, as 8-bit layers do."""
    model, options = small_unet_model(), unet_training()
    network = build_network(model, seed=1)
    names = quantize_linears(network, bits)
    header = model_header(model, options, structure=[{"linear": bits, "layers": names}], sampler=UNET_SAMPLER)
    write_model(tmp_path / "model.safetensors", network, header)
    loaded = slimdiff.load(tmp_path / "model.safetensors")
    description = export.write_safetensors(tmp_path / "out.safetensors", loaded)
    assert description["dequantized"] == names
    tensors = load_file(tmp_path / "out.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    other = build_network(model, seed=5).eval()
    other.load_state_dict(tensors)
    inputs = export._example(loaded, 3).values()
    expected = loaded.network(*inputs)
    assert (other(*inputs) - expected).abs().max() < tolerance * expected.abs().max()
    assert loaded.network.state_dict().keys() != tensors.keys()  # the loaded network is unchanged


def test_the_command_writes_and_prints_its_files(
    clone: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = command("export", REAL[1], "--to", "safetensors", "--out", "x/out.safetensors")
    assert code == 0
    assert "x/out.safetensors: " in out and "inputs x, noise_level, labels" in out
    assert Path("x/out.safetensors").is_file()

    def write(path: Path, loaded: LoadedModel) -> dict[str, Any]:
        path.write_bytes(b"graph")
        return {"inputs": {"x": {}}, "dequantized": ["a", "b"], "max_difference": differences.pop()}

    monkeypatch.setattr(export, "write_onnx", write)
    differences: list[float | None] = [None, 1e-6]
    out = command("export", REAL[1], "--to", "onnx", "--out", "out.onnx")[1]
    assert "2 quantized layers are exported as float weights" in out
    assert "out.json: inputs" in out
    assert "1e-06 of the largest output" in out
    out = command("export", REAL[1], "--to", "onnx", "--out", "out.onnx")[1]
    assert "difference between ONNX Runtime and torch: not checked" in out


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ((REAL[0], "--to", "diffusers", "--out", "x"), 1, ("family is ddpm; allowed: unet2d", "--to onnx")),
        ((REAL[0], "--to", "gguf", "--out", "x"), 2, ("gguf", "onnx", "safetensors")),
        ((REAL[0], "--to", "onnx"), 2, ("--out",)),
        ((REAL[0], "--out", "x.onnx"), 2, ("--to",)),
        ((REAL[0], "--to", "onnx", "--out", "x.safetensors"), 1, ("x.safetensors", ".onnx")),
        (("mnist/ddpm/l1-3/seed0", "--to", "onnx", "--out", "x.onnx"), 1, (f"did you mean {REAL[1]}",)),
        (
            (REAL[0], "--to", "safetensors", "--out", f"results/cells/{REAL[0]}/model.safetensors"),
            1,
            ("is the cell's own model",),
        ),
    ],
)
def test_errors_are_one_line(
    clone: Path, command: Command, arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    found, out, err = command("export", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
    assert not Path("x.onnx").exists()
    assert slimdiff.load(f"results/cells/{REAL[0]}/model.safetensors").settings["kind"] == "model"


def test_a_packed_file_is_written_loaded_and_exported_like_the_cell(clone: Path, command: Command) -> None:
    model = Path(f"results/cells/{REAL[0]}/model.safetensors")
    code, out, _ = command("export", REAL[0], "--to", "packed", "--out", "x.packed")
    assert (code, out.split(":")[0]) == (0, "x.packed")
    assert b"".join(packed.read("x.packed")) == model.read_bytes()
    for name, source in (("one", REAL[0]), ("two", "x.packed")):
        assert command("export", source, "--to", "safetensors", "--out", f"{name}.safetensors")[0] == 0
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()
    code, out, err = command("export", "x.packed", "--to", "packed", "--out", "y.packed")
    assert (code, out) == (1, "")
    assert "x.packed is already packed" in err
    assert not Path("y.packed").exists()
    for name in ("x.packed", "one.safetensors", "two.safetensors"):
        Path(name).unlink()


def test_without_the_extra_the_error_names_the_package_to_install(
    clone: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, err = command("export", REAL[0], "--to", "onnx", "--out", "x.onnx")
    assert code == 1
    assert "needs the package onnxscript: run `python -m pip install '.[export]'`" in err
    assert not Path("x.onnx").exists()


def test_without_onnx_runtime_nothing_is_checked(exported: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, path, _ = exported("ncsn")
    assert importlib.util.find_spec("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export._difference(path, loaded.network, export._example(loaded, 3)) is None


def test_an_output_that_is_nan_is_refused(exported: Callable[..., Any]) -> None:
    loaded, path, _ = exported("ncsn")
    broken = build_network(loaded.settings["model"], seed=1).eval()
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(UserError, match=r"differs by .* from the network"):
        export._difference(path, broken, export._example(loaded, 3))
