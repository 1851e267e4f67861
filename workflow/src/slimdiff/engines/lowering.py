"""Lower a float network to the tensors that its engine stores, and start a stored network.

In fp32 and bf16 the file stores the weights under the network's own names, and loading builds the engine's graph. In
int8 it stores the quantized graph as bytes, and the embedder's float32 tensors: the calibration is part of the model,
so loading does not need images.
"""

import copy
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimdiff.catalog.engines import ENGINES, EXTRA, Runtime, list_engines, missing_modules, runtime_of
from slimdiff.compression.restore import restore_structure
from slimdiff.data.image_set import ImageSet
from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.engines import onnxruntime_backend, openvino_backend
from slimdiff.engines.calibration import NetworkInputs, noised_inputs, sampler_sigmas
from slimdiff.engines.network import Backend, EngineNetwork, Placement, count_parameters
from slimdiff.engines.split import split_network
from slimdiff.engines.torch_backend import DTYPES, Compiled, Eager
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network

CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 16
ERROR_IMAGES = 128  # number of test images for the output error
EMBEDDER = "embedder."  # prefix of the embedder's tensors in a file with a graph
GRAPHS = {"openvino": openvino_backend, "onnxruntime": onnxruntime_backend}


@dataclass(frozen=True)
class Lowered:
    """The content of a model file for an engine."""

    tensors: dict[str, torch.Tensor]
    header: dict[str, Any]  # keys to add to the model's header


def lower_network(network: nn.Module, header: Mapping[str, Any], images: ImageSet, placement: Placement) -> Lowered:
    """Lower a float network to its header's engine and precision, and measure the output error.

    Args:
        network: float32, on the CPU, after all compression steps.
        header: of the checkpoint: `model`, `training`, `sampler`, `seed`, `engine`, `precision`, …
        images: noised training images calibrate, noised test images measure (slimdiff.engines.calibration).

    Returns:
        Tensors, and `output_error`: ‖y − y32‖ / ‖y32‖ over the test images, y32 being the output in float32. For int8
        also `graph`: `params` and `params_nonzero` of the float network, and the engine's `version`.
    """
    runtime = runtime_of(header)
    check_runtime(runtime, placement.device)
    network = network.eval().requires_grad_(False)
    model, seed = header["model"], header["seed"]
    denoiser = build_denoiser(network, model, header["training"])
    sigmas = sampler_sigmas(denoiser, model, header["sampler"])
    embedder, body = split_network(network)
    additions: dict[str, Any] = {}
    if runtime.precision == "int8":
        inputs = noised_inputs(
            denoiser, model, images.train_images, images.train_labels, sigmas, CALIBRATION_IMAGES, seed
        )
        embedding = embedder(inputs.noise_level, inputs.labels)
        batches = list(zip(inputs.x.split(CALIBRATION_BATCH), embedding.split(CALIBRATION_BATCH), strict=True))
        graphs = GRAPHS[runtime.engine]
        tensors = graphs.to_tensors(graphs.quantize(graphs.lower(body, *_example(batches)), batches))
        tensors |= {EMBEDDER + name: tensor for name, tensor in embedder.state_dict().items()}
        params, nonzero = count_parameters(network)
        version = importlib.metadata.version(runtime.engine)
        additions["graph"] = {"params": params, "params_nonzero": nonzero, "version": version}
        running = start_graph({**header, **additions}, tensors, placement)
    else:
        tensors = dict(network.state_dict())
        inner = body.state_dict()
        for name, tensor in tensors.items():
            if name in inner and tensor.is_floating_point():
                tensors[name] = tensor.to(DTYPES[runtime.precision])
        rounded = {name: tensor.to(network.state_dict()[name].dtype) for name, tensor in tensors.items()}
        running = start_network({**header, **additions}, _with(network, rounded), placement)
    test_inputs = noised_inputs(denoiser, model, images.test_images, images.test_labels, sigmas, ERROR_IMAGES, seed + 1)
    additions["output_error"] = output_error(network, running, test_inputs)
    return Lowered(tensors, additions)


def start_network(header: Mapping[str, Any], network: nn.Module, placement: Placement) -> EngineNetwork:
    """Run a network from a file with float weights on the engine in its header."""
    runtime = runtime_of(header)
    check_runtime(runtime, placement.device)
    embedder, body = split_network(network)
    backend: Backend
    if runtime.engine == "torch":
        backend = Eager(body, runtime.precision, placement)
    elif runtime.engine == "torch-compile":
        backend = Compiled(body, runtime.precision, placement)
    else:
        x = torch.zeros(2, *_shape(header))
        graph = GRAPHS[runtime.engine].lower(body.float(), x, embedder(torch.zeros(2), None))
        backend = _make_backend(runtime, graph, placement)
    return EngineNetwork(embedder, backend, runtime, placement, _shape(header), count_parameters(network))


def start_graph(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], placement: Placement) -> EngineNetwork:
    """Run a network from a file with a quantized graph."""
    runtime, graph = runtime_of(header), header["graph"]
    check_runtime(runtime, placement.device)
    network = build_network(header["model"], header["training"]["groups"])
    restore_structure(network, header["structure"], tensors)
    embedder, _ = split_network(network)
    embedder.load_state_dict(
        {name.removeprefix(EMBEDDER): tensor for name, tensor in tensors.items() if name.startswith(EMBEDDER)}
    )
    backend = _make_backend(runtime, GRAPHS[runtime.engine].from_tensors(tensors), placement)
    counts = (int(graph["params"]), int(graph["params_nonzero"]))
    return EngineNetwork(embedder, backend, runtime, placement, _shape(header), counts)


@torch.no_grad()
def output_error(network: nn.Module, other: nn.Module, inputs: NetworkInputs) -> float | None:
    """Return ‖other − network‖ / ‖network‖ over all outputs, with everything outside `other` in float32.

    None if the network's output is 0 everywhere.
    """
    arguments = (inputs.x, inputs.noise_level, *(() if inputs.labels is None else (inputs.labels,)))
    expected = network(*arguments)
    device = next((buffer.device for buffer in other.buffers()), inputs.x.device)
    actual = other(*(argument.to(device) for argument in arguments)).cpu()
    norm = float(expected.norm())
    return float((actual - expected).norm()) / norm if norm else None


def check_runtime(runtime: Runtime, device: torch.device) -> None:
    """Raise UserError if the engine lacks the precision, does not support the device, or is not installed."""
    if runtime.engine not in ENGINES or runtime.precision not in ENGINES[runtime.engine].precisions:
        raise UserError(f"engine {runtime.engine} with precision {runtime.precision}; allowed: {list_engines()}")
    if device.type not in ENGINES[runtime.engine].devices:
        raise UserError(
            f"engine {runtime.engine} runs on {', '.join(ENGINES[runtime.engine].devices)}, not on {device.type}: "
            "use --gpu 0 or load(path, 'cpu')"
        )
    missing = missing_modules(runtime.engine)
    if missing:
        raise UserError(
            f"engine {runtime.engine} needs {', '.join(missing)}: run `python -m pip install '.[{EXTRA}]'` in the clone"
        )


def _make_backend(runtime: Runtime, graph: Any, placement: Placement) -> Backend:
    match runtime.engine:
        case "openvino":
            return openvino_backend.OpenVINO(graph, runtime.precision, placement)
        case "onnxruntime":
            return onnxruntime_backend.OnnxRuntime(graph, placement)
    raise UserError(f"engine is {runtime.engine}, which runs no graph; allowed: openvino, onnxruntime")


def _shape(header: Mapping[str, Any]) -> tuple[int, int, int]:
    model = header["model"]
    return model["channels"], model["image_size"], model["image_size"]


def _example(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    x, embedding = batches[0]
    return x[:2].clone(), embedding[:2].clone()


def _with(network: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a copy of the network with the values of `state`."""
    result = copy.deepcopy(network)
    result.load_state_dict(state)
    return result
