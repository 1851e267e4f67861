"""From a float network to what a cell's file holds for its engine, and from the file back to a network that runs.

Precisions fp32 and bf16 keep weights in the file, under the network's own names, and the engine's graph is made of
them on loading. Precision int8 keeps the quantized graph itself, as bytes, with the embedder's float32 tensors beside
it: what calibration chose is part of the model, and loading needs no images.
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
from slimdiff.engines.network import Backend, EngineNetwork, Placement
from slimdiff.engines.split import split_network
from slimdiff.engines.torch_backend import DTYPES, Compiled, Eager
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network

CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 16
ERROR_IMAGES = 128  # test images that the output's error is measured on
EMBEDDER = "embedder."  # before the names of its tensors in a file that holds a graph
GRAPHS = {"openvino": openvino_backend, "onnxruntime": onnxruntime_backend}


@dataclass(frozen=True)
class Lowered:
    """What a file is to hold."""

    tensors: dict[str, torch.Tensor]
    header: dict[str, Any]  # what the header is to say beside what it says of every model


def lower_network(network: nn.Module, header: Mapping[str, Any], images: ImageSet, placement: Placement) -> Lowered:
    """Make of a float network what its header's engine and precision ask for, and measure what that costs in accuracy.

    Args:
        network: float32, on the CPU, with all compression done.
        header: of the checkpoint: `model`, `training`, `sampler`, `seed`, `engine`, `precision`, …
        images: training images calibrate, test images measure; noised, at all levels (slimdiff.engines.calibration).

    Returns:
        Tensors, and `output_error`: ‖y − y32‖ / ‖y32‖ over the test images, y32 being the float network's output in
        float32. For int8 also `graph`: the `params` and `params_nonzero` it stands for, and the engine's `version`.
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
        given = noised_inputs(
            denoiser, model, images.train_images, images.train_labels, sigmas, CALIBRATION_IMAGES, seed
        )
        embedding = embedder(given.noise_level, given.labels)
        batches = list(zip(given.x.split(CALIBRATION_BATCH), embedding.split(CALIBRATION_BATCH), strict=True))
        graphs = GRAPHS[runtime.engine]
        made = graphs.quantize(graphs.lower(body, *_example(batches)), batches)
        tensors = graphs.to_tensors(made)
        tensors |= {EMBEDDER + name: tensor for name, tensor in embedder.state_dict().items()}
        params, nonzero = _count(network)
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
    shown = noised_inputs(denoiser, model, images.test_images, images.test_labels, sigmas, ERROR_IMAGES, seed + 1)
    additions["output_error"] = output_error(network, running, shown)
    return Lowered(tensors, additions)


def start_network(header: Mapping[str, Any], network: nn.Module, placement: Placement) -> EngineNetwork:
    """A network whose float weights were in the file, run as its header says."""
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
    return EngineNetwork(embedder, backend, runtime, placement, _shape(header), _count(network))


def start_graph(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], placement: Placement) -> EngineNetwork:
    """A network whose quantized graph was in the file."""
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
def output_error(network: nn.Module, other: nn.Module, inputs: NetworkInputs) -> float:
    """‖other − network‖ / ‖network‖ over all outputs, with everything in float32 outside `other`."""
    arguments = (inputs.x, inputs.noise_level, *(() if inputs.labels is None else (inputs.labels,)))
    expected = network(*arguments)
    device = next((buffer.device for buffer in other.buffers()), inputs.x.device)
    found = other(*(argument.to(device) for argument in arguments)).cpu()
    return float((found - expected).norm() / expected.norm())


def check_runtime(runtime: Runtime, device: torch.device) -> None:
    """Refuse what no engine does, what this device cannot, and what is not installed.

    Raises:
        UserError: with the way out.
    """
    if runtime.engine not in ENGINES or runtime.precision not in ENGINES[runtime.engine].precisions:
        raise UserError(f"engine {runtime.engine} with precision {runtime.precision}; allowed: {list_engines()}")
    if device.type not in ENGINES[runtime.engine].devices:
        raise UserError(
            f"engine {runtime.engine} runs on {', '.join(ENGINES[runtime.engine].devices)}, not on {device.type}: "
            "start it with --gpu 0, or load(path, 'cpu')"
        )
    missing = missing_modules(runtime.engine)
    if missing:
        raise UserError(
            f"engine {runtime.engine} needs {', '.join(missing)}: "
            f"`python -m pip install '.[{EXTRA}]'` in the clone has it"
        )


def _make_backend(runtime: Runtime, graph: Any, placement: Placement) -> Backend:
    if runtime.engine == "openvino":
        return openvino_backend.OpenVINO(graph, runtime.precision, placement)
    return onnxruntime_backend.OnnxRuntime(graph, placement)


def _shape(header: Mapping[str, Any]) -> tuple[int, int, int]:
    model = header["model"]
    return model["channels"], model["image_size"], model["image_size"]


def _example(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    x, embedding = batches[0]
    return x[:2].clone(), embedding[:2].clone()


def _count(network: nn.Module) -> tuple[int, int]:
    """Parameters, and those that are not zero."""
    values = list(network.parameters())
    return sum(value.numel() for value in values), sum(int(torch.count_nonzero(value)) for value in values)


def _with(network: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of the network with other values."""
    made = copy.deepcopy(network)
    made.load_state_dict(state)
    return made
