"""A cell's network for other programs: as plain tensors (safetensors) or as a graph (ONNX), with a description.

What is exported is the raw network F. How a denoiser, and so a sampler, is made of it stands in the description, whose
formulas are Python expressions of `sigma` and of the constants beside them.
"""

import copy
import io
import json
import logging
import os
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimdiff.catalog.samplers import TIMESTEPS
from slimdiff.compression.linear_quant import dense_weight, is_quantized
from slimdiff.diffusion.denoiser import WHITE
from slimdiff.engines.network import EngineNetwork
from slimdiff.errors import UserError
from slimdiff.inference.model import LoadedModel
from slimdiff.io.files import atomic, write_json
from slimdiff.io.tensors import save_tensors

KEY = "slimdiff"  # of the metadata in either file
TOLERANCE = 1e-4  # of ONNX Runtime's output against torch's, in units of the largest
CHECKED_BATCH = 3  # images in that comparison; the graph is traced with two
SETTINGS = ("model", "training", "dataset", "sampler", "seed", "weights", "steps", "sha256")

# c_skip, c_out, c_in, c_noise of slimdiff.diffusion.denoiser, in words that a program can evaluate
FORMULAS = {
    "score": ("1", "sigma", "1", "log1p(2 * log(base) * sigma**2) / (2 * log(base))"),
    "edm": (
        "sigma_data**2 / (sigma**2 + sigma_data**2)",
        "sigma * sigma_data / sqrt(sigma**2 + sigma_data**2)",
        "1 / sqrt(sigma**2 + sigma_data**2)",
        "noise_scale * log(sigma / (2 * sigma_data)) / 4",
    ),
    "epsilon": ("1", "-sigma", "1 / sqrt(sigma**2 + 1)", "step(sigma)"),
    "v": ("1 / (sigma**2 + 1)", "-sigma / sqrt(sigma**2 + 1)", "1 / sqrt(sigma**2 + 1)", "step(sigma)"),
}
STEP = (
    f"the step t, 0 to {TIMESTEPS - 1}, at which sqrt((1 - alpha_bar_t) / alpha_bar_t) is sigma, linear in log(sigma) "
    "between steps; alpha_bar_t is the product of 1 - beta up to t"
)
BETAS = {
    "linear": f"{TIMESTEPS} values in equal steps from 1e-4 to 0.02",
    "cosine": f"min(0.999, 1 - a(i + 1) / a(i)) with a(i) = cos((i / {TIMESTEPS} + 0.008) / 1.008 * pi / 2)**2",
}


def write_safetensors(path: str | os.PathLike[str], loaded: LoadedModel) -> dict[str, Any]:
    """Write the network's state dict, float throughout, with its description as metadata; returns that description.

    `load_state_dict` of the network that `slimdiff.models.registry.build_network` builds takes the tensors as they are.
    """
    network, dequantized = in_float(loaded.network)
    description = describe(loaded, dequantized)
    save_tensors(path, "export", network.state_dict(), description)
    return description


def write_onnx(path: str | os.PathLike[str], loaded: LoadedModel) -> dict[str, Any]:
    """Write the network as an ONNX graph for any batch size, with its description as metadata and beside it as JSON.

    Where ONNX Runtime is installed the graph is run once and held against torch; the description says how far the two
    were apart (`max_difference`, None where there was nothing to check with).

    Raises:
        UserError: the packages of the extra `export` are missing, or the graph computes something else.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it, and would say so in twenty lines
    except ImportError as error:
        raise UserError(
            f"an ONNX file needs the package {error.name}: `python -m pip install '.[export]'` in the clone has it"
        ) from None
    network, dequantized = in_float(loaded.network)
    network = network.cpu().to(memory_format=torch.contiguous_format)
    program = _trace(network, _example(loaded, 2))
    description = describe(loaded, dequantized)
    with atomic(path) as temporary:
        onnx.save(program, temporary)
        description["max_difference"] = _difference(temporary, network, _example(loaded, CHECKED_BATCH))
        entry = program.metadata_props.add()
        entry.key, entry.value = KEY, json.dumps(description)
        onnx.save(program, temporary)
    write_json(Path(path).with_suffix(".json"), description)
    return description


def describe(loaded: LoadedModel, dequantized: list[str]) -> dict[str, Any]:
    """What somebody needs who has nothing but the exported file."""
    model, classes = loaded.settings["model"], loaded.classes
    image = ["batch", model["channels"], model["image_size"], model["image_size"]]
    settings = loaded.denoiser.settings
    inputs: dict[str, dict[str, Any]] = {
        "x": {"dtype": "float32", "shape": image, "meaning": "c_in * (x_0 + sigma * noise)"},
        "noise_level": {"dtype": "float32", "shape": ["batch"], "meaning": "c_noise of sigma"},
    }
    if classes:
        names = loaded.settings["dataset"]["classes"]
        meaning = "class asked for, -1 for none; guidance: D_none + scale * (D_class - D_none)"
        inputs["labels"] = {"dtype": "int64", "shape": ["batch"], "meaning": meaning, "classes": names}
    coefficients = dict(zip(("c_skip", "c_out", "c_in", "c_noise"), FORMULAS[settings.name], strict=True))
    constants: dict[str, Any] = {}
    if settings.name == "score":
        constants = {"base": settings.sigma}
    elif settings.name == "edm":
        constants = {"sigma_data": settings.sigma_data, "noise_scale": settings.noise_scale}
    else:
        constants = {"step": STEP, "beta": BETAS[settings.noise_schedule]}
    low, high = loaded.denoiser.sigma_range()
    return {
        "inputs": inputs,
        "output": {"F": {"dtype": "float32", "shape": image, "meaning": "raw output of the network"}},
        "denoiser": {
            "meaning": "estimate of x_0: D = c_skip * (x_0 + sigma * noise) + c_out * F",
            "preconditioning": settings.name,
            **coefficients,
            "constants": constants,
            "sigma_min": low,
            "sigma_max": high,
        },
        "pixels": {"white": WHITE, "black": settings.black},
        "dequantized": dequantized,  # layers that ran in 8 or 4 bits, here as the float weights that those stand for
        "settings": {key: loaded.settings[key] for key in SETTINGS if key in loaded.settings},
    }


def in_float(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy with a float linear layer in the place of each quantized one, and the names of those.

    Raises:
        UserError: the file held an engine's quantized graph, which has no float weights.
    """
    if isinstance(network, EngineNetwork):
        runtime = network.runtime
        raise UserError(
            f"the model is a graph of engine {runtime.engine} in {runtime.precision}, which has no float weights "
            "to export: "
            "export a cell of the same recipe without its precision"
        )
    names = [name for name, module in network.named_modules() if is_quantized(module) and isinstance(module, nn.Linear)]
    made = copy.deepcopy(network)
    for name in names:
        old = network.get_submodule(name)
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
        new.weight.data.copy_(dense_weight(old))
        if old.bias is not None:
            new.bias.data.copy_(old.bias.data)
        made.set_submodule(name, new)
    return made.eval().requires_grad_(False), names


def _example(loaded: LoadedModel, n: int) -> dict[str, torch.Tensor]:
    """Inputs of the network, the first image told no class."""
    model, generator = loaded.settings["model"], torch.Generator().manual_seed(0)
    shape = (n, model["channels"], model["image_size"], model["image_size"])
    inputs = {
        "x": torch.randn(shape, generator=generator),
        "noise_level": loaded.denoiser.coefficients(torch.linspace(*loaded.denoiser.sigma_range(), n))[3].float(),
    }
    if loaded.classes:
        inputs["labels"] = torch.arange(n) % (loaded.classes + 1) - 1
    return inputs


def _trace(network: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    """The graph as an onnx.ModelProto; the exporter's progress and advice are for its developers."""
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=["F"],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _difference(path: Path, network: nn.Module, inputs: dict[str, torch.Tensor]) -> float | None:
    """How far the graph in `path` is from the network, in units of its largest output; None without ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0])
    with torch.inference_mode():
        expected = network(*inputs.values())
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= TOLERANCE:
        raise UserError(f"the ONNX graph is {difference:.1g} off the network, more than {TOLERANCE:g}: nothing written")
    return difference
