"""Every engine in each of its precisions: the network's function within tolerance, and reproducible files."""

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import SOURCE, TRAININGS, model_header, small_model, small_unet2d_model, small_unet_model, striped_images

import slimdiff
from slimdiff.catalog import engines
from slimdiff.catalog.engines import ENGINES, Runtime
from slimdiff.checkpoints.model import write_model
from slimdiff.data.image_set import ImageSet
from slimdiff.engines import lowering
from slimdiff.engines.calibration import NetworkInputs, noised_inputs, sampler_sigmas
from slimdiff.engines.network import Backend, EngineNetwork, Placement, count_parameters
from slimdiff.engines.split import split_network
from slimdiff.errors import UserError
from slimdiff.inference import export
from slimdiff.inference.model import LoadedModel
from slimdiff.io.tensors import load_tensors, save_tensors
from slimdiff.models.registry import build_network
from slimdiff.profiling.profile import profile

# The compiler's workers would each import torch, for a few small kernels.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

CPU = torch.device("cpu")
RUNTIMES = [Runtime(engine, precision) for engine, facts in ENGINES.items() for precision in facts.precisions]
LOWERED = [runtime for runtime in RUNTIMES if not runtime.is_eager_fp32]
# Allowed error relative to the network in float32: order of sums, 8 bits of mantissa, 256 levels.
TOLERANCE = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.2}
FILE_SHARE = {"fp32": 1.0, "bf16": 0.5, "int8": 0.25}


def small_ddpm(**network: Any) -> dict[str, Any]:
    """Return a U-Net with attention at one size instead of three: lowering takes time by the number of layers."""
    return small_unet_model({"attention_levels": [3], **network})


MODELS = {"ncsn": small_model, "ddpm": small_ddpm, "unet2d": small_unet2d_model}
FAMILIES = list(MODELS)


def case(engine: str, precision: str, family: str):
    slow = (pytest.mark.slow,) if engine != "torch" else ()
    return pytest.param(Runtime(engine, precision), family, marks=slow, id=f"{engine}-{precision}-{family}")


# Every runtime once, and OpenVINO with every family: lowering and compiling take seconds to half a minute.
CASES = [
    case("torch", "bf16", "ncsn"),
    case("torch", "bf16", "ddpm"),
    case("openvino", "fp32", "unet2d"),
    case("openvino", "bf16", "ncsn"),
    case("openvino", "int8", "ddpm"),
    case("onnxruntime", "fp32", "ddpm"),
    case("onnxruntime", "int8", "ncsn"),
]
CALIBRATED = [("openvino", "ddpm"), ("onnxruntime", "ncsn")]  # cases above in int8
COMPILED = [case("torch-compile", "fp32", "ncsn"), case("torch-compile", "bf16", "ncsn")]
# Runtimes with their own content in the file. torch-compile's shared cache has a test below. OpenVINO exports a network
# whenever it loads a float one, the U-Net for fifteen seconds.
KEPT = [
    case("torch", "bf16", "ncsn"),
    case("torch", "bf16", "ddpm"),
    case("openvino", "bf16", "ncsn"),
    case("openvino", "int8", "ddpm"),
    case("onnxruntime", "int8", "ncsn"),
]


def test_every_runtime_has_a_case():
    assert {each.values[0] for each in [*CASES, *COMPILED]} == set(LOWERED)
    assert {each.values[0] for each in KEPT} == {each.values[0] for each in CASES if each.values[0].precision != "fp32"}


def unmet(runtime: Runtime) -> str | None:
    """Return why this machine cannot run a runtime, None if it can."""
    missing = engines.missing_modules(runtime.engine)
    if missing:
        return f"engine {runtime.engine} needs {', '.join(missing)}"
    if runtime == Runtime("openvino", "bf16"):
        import openvino

        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return "this processor has no bf16 instructions"
    return None


def skip_unless_possible(runtime: Runtime) -> None:
    if reason := unmet(runtime):
        pytest.skip(reason)


def network_of(family: str) -> torch.nn.Module:
    """A small network with active attention: output projections start at random instead of zero."""
    network = build_network(MODELS[family](), seed=1)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.detach().any():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return network.eval().requires_grad_(False)


def inputs_of(family: str, n: int = 5) -> tuple[torch.Tensor, ...]:
    model, generator = MODELS[family](), torch.Generator().manual_seed(3)
    x = torch.randn(n, model["channels"], model["image_size"], model["image_size"], generator=generator)
    labels = (torch.arange(n) % 3 - 1,) if model["network"]["classes"] else ()
    return (x, torch.linspace(-1.0, 1.0, n), *labels)


def header_of(family: str, runtime: Runtime) -> dict:
    header = model_header(MODELS[family](), TRAININGS[family](), engine=runtime.engine, precision=runtime.precision)
    header["sampler"] = {**header["sampler"], "steps": 3}
    return header


def images_of(family: str) -> ImageSet:
    return striped_images(size=20)


def write(path: Path, family: str, runtime: Runtime, cache: Path | None = None) -> dict:
    """Write a cell's file as the stage does; return its header."""
    header = header_of(family, runtime)
    lowered = lowering.lower_network(network_of(family), header, images_of(family), Placement(CPU, cache))
    save_tensors(path, "model", lowered.tensors, {**header, **lowered.header})
    return {**header, **lowered.header}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache of compiled code for all tests; they compute the same with an empty one."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def written(tmp_path_factory, cache) -> Callable[[str, Runtime], tuple[Path, dict]]:
    """Return a function that writes a cell's file once, and returns it with its header."""
    files: dict[tuple[str, Runtime], tuple[Path, dict]] = {}

    def get(family: str, runtime: Runtime) -> tuple[Path, dict]:
        if (family, runtime) not in files:
            path = tmp_path_factory.mktemp("written") / "model.safetensors"
            files[family, runtime] = (path, write(path, family, runtime, cache))
        return files[family, runtime]

    return get


@pytest.fixture(scope="module")
def loaded(written, cache) -> Callable[[str, Runtime], LoadedModel]:
    """Return a function that loads a cell's file once."""
    return functools.cache(lambda family, runtime: slimdiff.load(written(family, runtime)[0], cache=cache))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread, as SCRIPT does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_compose_to_exactly_the_network(family):
    network, inputs = network_of(family), inputs_of(family)
    before = copy.deepcopy(network.state_dict())
    embedder, body = split_network(network)
    x, *rest = inputs
    assert torch.equal(body(x, embedder(*rest)), network(*inputs))
    inner, outer = set(body.state_dict()), set(embedder.state_dict())
    assert inner | {name for name in before if name not in inner} == set(before)
    assert not inner & outer or family == "none"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_unconditional_network_splits():
    network = build_network(MODELS["ddpm"](classes=0)).eval()
    embedder, body = split_network(network)
    x, level, _ = inputs_of("ddpm")
    assert torch.equal(body(x, embedder(level)), network(x, level))


def test_an_unknown_network_is_refused():
    with pytest.raises(UserError, match=r"Linear has no method split\(\)"):
        split_network(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(("runtime", "family"), [*CASES, *COMPILED])
def test_an_engine_computes_the_networks_function(runtime, family, written, loaded):
    """Output within tolerance at prepared and unprepared batch sizes; the file has the expected size."""
    skip_unless_possible(runtime)
    path, header = written(family, runtime)
    assert 0 <= header["output_error"] <= TOLERANCE[runtime.precision]
    if runtime.precision != "fp32":
        assert header["output_error"] > 1e-4  # otherwise nothing was rounded

    model = loaded(family, runtime)
    running = model.denoiser.network
    assert isinstance(running, EngineNetwork)
    # as many as lowering measured the error of, for which the cache has compiled code
    network, inputs = network_of(family), inputs_of(family, lowering.ERROR_IMAGES)
    expected = network(*inputs)
    found = running(*inputs)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) <= TOLERANCE[runtime.precision]
    # padded to the previous batch size, or run unpadded: the same images
    fewer = running(*(part[:2] for part in inputs))
    assert float((fewer - found[:2]).norm() / found[:2].norm()) <= max(1e-5, TOLERANCE[runtime.precision] / 3)

    assert count_parameters(model.network) == count_parameters(network)
    stored = sum(t.numel() * t.element_size() for n, t in load_tensors(path, "model")[0].items() if n != "graph.xml")
    floats = sum(4 * value.numel() for value in network.state_dict().values())
    if runtime.precision != "int8":  # in networks this small, the graph's description is the larger part
        assert stored / floats == pytest.approx(FILE_SHARE[runtime.precision], abs=0.1)


SCRIPT = """
import sys, torch, slimdiff
torch.set_num_threads(1)
n, batch_size = map(int, sys.argv[2:4])
for path in sys.argv[4:]:
    torch.save(slimdiff.load(path, cache=sys.argv[1]).sample(n, seed=5, batch_size=batch_size).images, path + ".pt")
"""


def sampled_elsewhere(folder: Path, cache: Path, n: int, batch_size: int, *paths: Path) -> list[torch.Tensor]:
    """Return images of the files from a new process."""
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(cache), str(n), str(batch_size), *map(str, paths)],
        env={
            "PYTHONPATH": str(SOURCE),
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        },
        check=True,
        timeout=600,
    )
    return [torch.load(f"{path}.pt", weights_only=True) for path in paths]


@pytest.fixture(scope="module")
def images_elsewhere(written, cache, tmp_path_factory) -> dict[tuple[Runtime, str], torch.Tensor]:
    """The images of all possible KEPT from one new process, since each start imports torch and the engines."""
    possible = [each.values for each in KEPT if unmet(each.values[0]) is None]
    paths = [written(family, runtime)[0] for runtime, family in possible]
    return dict(zip(possible, sampled_elsewhere(tmp_path_factory.mktemp("home"), cache, 3, 2, *paths), strict=True))


@pytest.mark.parametrize(("runtime", "family"), KEPT)
def test_a_fresh_process_samples_the_same_images(runtime, family, loaded, images_elsewhere):
    skip_unless_possible(runtime)
    here = loaded(family, runtime).sample(3, seed=5, batch_size=2).images
    assert torch.equal(loaded(family, runtime).sample(3, seed=5, batch_size=2).images, here)
    assert torch.equal(images_elsewhere[runtime, family], here)


@pytest.mark.slow
def test_libraries_truncated_by_a_killed_compiler_are_rebuilt(written, cache, tmp_path, capfd):
    """In a new process, since a process loads a library only once; and in a copy of the cache, which has their code."""
    runtime = Runtime("torch-compile", "fp32")
    skip_unless_possible(runtime)
    path, _ = written("ncsn", runtime)
    cache = shutil.copytree(cache, tmp_path / "cache")
    n = lowering.ERROR_IMAGES  # the batch size of that code
    first = slimdiff.load(path, cache=cache).sample(n, seed=5, batch_size=n).images

    sources = sorted(cache.glob("inductor/**/*.main.cpp"))
    needed = [source.with_suffix(".so") for source in sources if "BFloat16" not in source.read_text(encoding="utf-8")]
    assert len(needed) > 2
    for library in needed[:2]:
        library.write_bytes(b"")
    (again,) = sampled_elsewhere(tmp_path, cache, n, n, path)
    assert torch.equal(again, first)
    assert capfd.readouterr().err.count("compiling it again") == 2
    assert all(library.stat().st_size for library in needed)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "family"), CALIBRATED)
def test_calibration_writes_the_same_bytes_twice(engine, family, written, tmp_path):
    runtime = Runtime(engine, "int8")
    skip_unless_possible(runtime)
    first, _ = written(family, runtime)
    write(tmp_path / "model.safetensors", family, runtime)
    text = (tmp_path / "model.safetensors").read_bytes()
    assert text == first.read_bytes()
    assert str(SOURCE).encode() not in text  # no trace of the machine


def test_only_the_body_is_rounded(tmp_path):
    """Noise-level sines and class vectors stay in float32, in the file and in the arithmetic."""
    for family, kept in {
        "ncsn": {"fourier.frequencies"},
        "ddpm": {"label.weight"},
    }.items():
        write(tmp_path / family, family, Runtime("torch", "bf16"))
        tensors, _ = load_tensors(tmp_path / family, "model")
        assert {name for name, tensor in tensors.items() if tensor.dtype == torch.float32} == kept
        assert all(tensor.dtype == torch.bfloat16 for name, tensor in tensors.items() if name not in kept)


class Echo(Backend):
    """A backend that records its inputs."""

    fixed_batch = True

    def __init__(self) -> None:
        self.prepared, self.sizes = [], []

    def prepare(self, x, embedding):
        self.prepared.append(len(x))

    def __call__(self, x, embedding):
        self.sizes.append(len(x))
        return x + embedding.mean(dim=1)[:, None, None, None]


def test_batches_are_padded_to_a_prepared_size():
    embedder, _ = split_network(network_of("ncsn"))
    backend = Echo()
    network = EngineNetwork(embedder, backend, Runtime("openvino", "fp32"), Placement(CPU), (1, 20, 20), (1, 1))
    x, level = inputs_of("ncsn", 7)
    whole = network(x, level)
    assert backend.prepared == [7]
    assert torch.equal(network(x[:3], level[:3]), whole[:3])
    assert (backend.prepared, backend.sizes[-1]) == ([7], 7)
    assert network.prepare(3) > 0
    assert network.prepare(3) == 0
    assert torch.equal(network(x[:2], level[:2]), whole[:2])
    assert (backend.prepared, backend.sizes[-1]) == ([7, 3], 3)
    assert torch.equal(network(x.repeat(2, 1, 1, 1), level.repeat(2))[:7], whole)
    assert backend.prepared == [7, 3, 14]


def test_calibration_covers_training_and_sampling_noise_levels():
    header = header_of("ddpm", Runtime("torch", "bf16"))
    denoiser = slimdiff.inference.model.build_denoiser(network_of("ddpm"), header["model"], header["training"])
    sigmas = sampler_sigmas(denoiser, header["model"], header["sampler"])
    assert len(sigmas.unique()) == 3  # Heun's three steps evaluate at three levels
    low, high = denoiser.sigma_range()
    assert float(sigmas.min()) == pytest.approx(low)
    assert float(sigmas.max()) == pytest.approx(high)
    images = striped_images(size=20)
    given = noised_inputs(denoiser, header["model"], images.train_images, images.train_labels, sigmas, 60, seed=0)
    requested = denoiser.coefficients(sigmas)[3].float()
    own = torch.isclose(given.noise_level[:, None], requested[None]).any(1)
    assert own[1::2].all()
    assert not own[::2].any()
    assert given.noise_level[::2].unique().numel() == 30
    assert set(given.labels.tolist()) == {-1, 0, 1}
    again = noised_inputs(denoiser, header["model"], images.train_images, images.train_labels, sigmas, 60, seed=0)
    assert torch.equal(given.x, again.x)


@pytest.mark.parametrize(
    ("runtime", "device", "message"),
    [
        (Runtime("torch", "int8"), CPU, "engine torch with precision int8; allowed: torch in fp32, bf16; "),
        (Runtime("onnxruntime", "bf16"), CPU, "engine onnxruntime with precision bf16; allowed: "),
        (Runtime("tensorrt", "fp32"), CPU, "engine tensorrt with precision fp32; allowed: "),
        (Runtime("openvino", "fp32"), torch.device("cuda"), "engine openvino runs on cpu, not on cuda"),
    ],
)
def test_unsupported_combinations_of_engine_and_precision_are_refused(runtime, device, message):
    with pytest.raises(UserError) as caught:
        lowering.check_runtime(runtime, device)
    assert str(caught.value).startswith(message)


def test_a_missing_engine_is_refused(monkeypatch):
    changed = {**ENGINES, "openvino": replace(ENGINES["openvino"], modules=("no_such_module_here",))}
    monkeypatch.setattr(engines, "ENGINES", changed)
    with pytest.raises(UserError, match=r"needs no_such_module_here: .*\[engines\]"):
        lowering.check_runtime(Runtime("openvino", "fp32"), CPU)


def test_compiling_needs_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        write(tmp_path / "model", "ncsn", Runtime("torch-compile", "fp32"))


def test_quantized_linears_are_refused():
    from slimdiff.compression.linear_quant import quantize_linears

    network = network_of("ncsn")
    quantize_linears(network, "8bit")
    with pytest.raises(UserError, match=r"layer embed multiplies in 8 or 4 bits.*quantized linears"):
        split_network(network)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "family"), CALIBRATED)
def test_graphs_are_not_exported_and_damaged_graphs_are_refused(engine, family, written, loaded, tmp_path):
    runtime = Runtime(engine, "int8")
    skip_unless_possible(runtime)
    whole, header = written(family, runtime)
    with pytest.raises(UserError, match="no float weights"):
        export.in_float(loaded(family, runtime).network)
    tensors, _ = load_tensors(whole, "model")
    path = tmp_path / "model.safetensors"
    name = "graph.xml" if engine == "openvino" else "graph.onnx"
    save_tensors(path, "model", {**tensors, name: tensors[name][:100].clone()}, header)
    with pytest.raises(UserError, match="cannot read"):
        slimdiff.load(path)


def test_an_output_of_zeros_has_no_relative_error():
    class Scaled(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x, noise_level):
            return self.factor * x

    inputs = NetworkInputs(torch.ones(2, 1, 4, 4), torch.ones(2), None)
    assert lowering.output_error(Scaled(0.0), Scaled(1.0), inputs) is None
    assert lowering.output_error(Scaled(1.0), Scaled(0.75), inputs) == 0.25


def test_a_profile_has_load_and_compile_times_and_the_error(tmp_path):
    settings = {"batch_size": 4, "repeats": 2, "warmup": 1, "seed": 0}
    write(tmp_path / "lowered", "ncsn", Runtime("torch", "bf16"))
    write_model(tmp_path / "plain", network_of("ncsn"), header_of("ncsn", Runtime("torch", "fp32")))
    lowered = profile(tmp_path / "lowered", settings, CPU)
    plain = profile(tmp_path / "plain", settings, CPU)
    for column in ("params", "params_nonzero", "macs"):
        assert lowered[column] == plain[column] > 0
    assert lowered["size_bytes"] < 0.7 * plain["size_bytes"]
    assert plain["compile_s"] is plain["output_error"] is None
    assert lowered["compile_s"] > 0
    assert min(plain["load_s"], lowered["load_s"]) > 0
    assert 0 < lowered["output_error"] < TOLERANCE["bf16"]
    json.dumps(lowered, allow_nan=False)
