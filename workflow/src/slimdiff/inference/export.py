"""Export a cell's network as plain tensors (safetensors) or a graph (ONNX), with a description.

The export contains the raw network F. The description defines the denoiser, and so the sampler, by formulas: Python
expressions of `sigma` and the listed constants.
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
from slimdiff.catalog.schedules import timesteps_of
from slimdiff.compression.linear_quant import computes_in_bits, dense_weight
from slimdiff.diffusion.denoiser import WHITE
from slimdiff.engines.network import EngineNetwork
from slimdiff.errors import UserError
from slimdiff.inference.model import LoadedModel
from slimdiff.io.files import atomic, write_json
from slimdiff.io.tensors import save_tensors

KEY = "slimdiff"  # key of the metadata in either file
TOLERANCE = 1e-4  # limit for the difference between ONNX Runtime's and torch's output, relative to the largest output
CHECKED_BATCH = 3  # number of images in that comparison; tracing uses two
SETTINGS = ("model", "training", "dataset", "sampler", "seed", "weights", "steps", "sha256")

# c_skip, c_out, c_in, c_noise of slimdiff.diffusion.denoiser, as expressions that a program can evaluate
FORMULAS = {
    "score": ("1", "sigma", "1", "log1p(2 * log(base) * sigma**2) / (2 * log(base))"),
    "edm": (
        "sigma_data**2 / (sigma**2 + sigma_data**2)",
        "sigma * sigma_data / sqrt(sigma**2 + sigma_data**2)",
        "1 / sqrt(sigma**2 + sigma_data**2)",
        "noise_scale * log(sigma / (2 * sigma_data)) / 4",
    ),
    "epsilon": ("1", "-sigma", "1 / sqrt(sigma**2 + 1)", "step(sigma)"),
    "sample": ("0", "1", "1 / sqrt(sigma**2 + 1)", "step(sigma)"),
    "v": ("1 / (sigma**2 + 1)", "-sigma / sqrt(sigma**2 + 1)", "1 / sqrt(sigma**2 + 1)", "step(sigma)"),
}
STEP = (
    "the step t, 0 to {}, at which sqrt((1 - alpha_bar_t) / alpha_bar_t) is sigma, linear in log(sigma) "
    "between steps; alpha_bar_t is the product of 1 - beta up to t"
)
BETAS = {
    "linear": f"{TIMESTEPS} values in equal steps from 1e-4 to 0.02",
    "cosine": f"min(0.999, 1 - a(i + 1) / a(i)) with a(i) = cos((i / {TIMESTEPS} + 0.008) / 1.008 * pi / 2)**2",
}


def write_safetensors(path: str | os.PathLike[str], loaded: LoadedModel) -> dict[str, Any]:
    """Write the network's state dict in floats, with its description as metadata; return the description.

    A network from `slimdiff.models.registry.build_network` loads the tensors with `load_state_dict`.
    """
    network, dequantized = in_float(loaded.network)
    description = describe(loaded, dequantized)
    save_tensors(path, "export", network.state_dict(), description)
    return description


def write_onnx(path: str | os.PathLike[str], loaded: LoadedModel) -> dict[str, Any]:
    """Write the network as an ONNX graph for any batch size, with its description as metadata and as a JSON file.

    With ONNX Runtime installed, the graph runs once and is compared with torch; `max_difference` in the description
    is the result, or None.

    Raises:
        UserError: the packages of the extra `export` are missing, or the graph's output differs from torch's.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it, and its own error has twenty lines
    except ImportError as error:
        raise UserError(
            f"an ONNX file needs the package {error.name}: run `python -m pip install '.[export]'` in the clone"
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
    """Return the description that makes the exported file usable on its own."""
    model, classes = loaded.settings["model"], loaded.classes
    image = ["batch", model["channels"], model["image_size"], model["image_size"]]
    settings = loaded.denoiser.settings
    inputs: dict[str, dict[str, Any]] = {
        "x": {"dtype": "float32", "shape": image, "meaning": "c_in * (x_0 + sigma * noise)"},
        "noise_level": {"dtype": "float32", "shape": ["batch"], "meaning": "c_noise of sigma"},
    }
    if classes:
        names = loaded.settings["dataset"]["classes"]
        meaning = "requested class, -1 for none; guidance: D_none + scale * (D_class - D_none)"
        inputs["labels"] = {"dtype": "int64", "shape": ["batch"], "meaning": meaning, "classes": names}
    coefficients = dict(zip(("c_skip", "c_out", "c_in", "c_noise"), FORMULAS[settings.name], strict=True))
    constants: dict[str, Any] = {}
    if settings.name == "score":
        constants = {"base": settings.sigma}
    elif settings.name == "edm":
        constants = {"sigma_data": settings.sigma_data, "noise_scale": settings.noise_scale}
    else:
        schedule = settings.noise_schedule
        beta: Any = BETAS[schedule] if isinstance(schedule, str) else {"diffusers.DDPMScheduler": dict(schedule)}
        constants = {"step": STEP.format(timesteps_of(schedule) - 1), "beta": beta}
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
        "dequantized": dequantized,  # layers that run in 8 or 4 bits, exported as their dequantized weights
        "settings": {key: loaded.settings[key] for key in SETTINGS if key in loaded.settings},
    }


def in_float(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return a copy whose quantized linear layers are replaced by float ones, and the names of these layers.

    Raises:
        UserError: the network is an engine's quantized graph, which has no float weights.
    """
    if isinstance(network, EngineNetwork):
        runtime = network.runtime
        raise UserError(
            f"the model is a graph of engine {runtime.engine} in {runtime.precision}, which has no float weights: "
            "export a cell of the same recipe without `precision`"
        )
    names = [name for name, module in network.named_modules() if computes_in_bits(module)]
    floats = copy.deepcopy(network)
    for name in names:
        old = network.get_submodule(name)
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
        new.weight.data.copy_(dense_weight(old))
        if old.bias is not None:
            new.bias.data.copy_(old.bias.data)
        floats.set_submodule(name, new)
    return floats.eval().requires_grad_(False), names


def _example(loaded: LoadedModel, n: int) -> dict[str, torch.Tensor]:
    """Return inputs of the network; the first image has no label where the network has a null class."""
    model, generator = loaded.settings["model"], torch.Generator().manual_seed(0)
    shape = (n, model["channels"], model["image_size"], model["image_size"])
    inputs = {
        "x": torch.randn(shape, generator=generator),
        "noise_level": loaded.denoiser.coefficients(torch.linspace(*loaded.denoiser.sigma_range(), n))[3].float(),
    }
    if loaded.classes:
        null = int(loaded.settings["model"]["network"].get("null_class", True))
        inputs["labels"] = torch.arange(n) % (loaded.classes + null) - null
    return inputs


def _trace(network: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    """Return the graph as an onnx.ModelProto, without printing the exporter's progress and advice."""
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
    """Return the graph's largest difference from the network, relative to its largest output; None without runtime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    actual = torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0])
    with torch.inference_mode():
        expected = network(*inputs.values())
    difference = float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= TOLERANCE:
        raise UserError(
            f"the ONNX graph differs by {difference:.1g} from the network, more than {TOLERANCE:g}: not written"
        )
    return difference
