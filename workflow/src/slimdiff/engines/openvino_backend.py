"""OpenVINO: lower a body from torch, quantize it with NNCF, store the graph as uint8 tensors."""

import contextlib
import io
import logging
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slimdiff.engines.network import Backend, Placement
from slimdiff.errors import UserError

# Arithmetic outside int8. Without a hint OpenVINO runs "fp32" in bf16 on processors that support it.
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
# Elementwise arithmetic of the embedding and of norms, where 8 bits cost more than they save (docs/decisions).
FLOAT_OPERATIONS = ["Add", "Multiply", "Divide", "Subtract", "Power", "Sin", "Cos", "Concat", "Sqrt"]
CONVOLUTIONS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData")
MAX_INFLATED_BYTES = 1 << 28  # limit for a graph's description; ours are smaller


class OpenVINO(Backend):
    """One compiled model for each batch size: dynamic batches cost up to half of the speed (docs/decisions)."""

    fixed_batch = True

    def __init__(self, graph: Any, precision: str, placement: Placement) -> None:
        import openvino

        self.core = openvino.Core()
        if precision == "bf16" and "BF16" not in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError(
                "precision bf16 with engine openvino needs a processor with bf16 instructions; allowed on this one: "
                "fp32, int8"
            )
        self.graph = graph
        self.options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": placement.threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled: dict[int, Any] = {}

    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> None:
        """Compile for this batch size, in tenths of a second."""
        fixed = self.graph.clone()
        fixed.reshape({fixed.inputs[0]: list(x.shape), fixed.inputs[1]: list(embedding.shape)})
        self.compiled[len(x)] = self.core.compile_model(fixed, "CPU", self.options)

    def __call__(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        result = self.compiled[len(x)]([x.contiguous().numpy(), embedding.contiguous().numpy()])[0]
        return torch.from_numpy(np.ascontiguousarray(result))


def lower(body: nn.Module, x: torch.Tensor, embedding: torch.Tensor) -> Any:
    """Return the body as an OpenVINO model in float32 for any batch size; `x` and `embedding` are a batch of two."""
    import openvino

    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        exported = torch.export.export(body, (x, embedding), dynamic_shapes=({0: batch}, {0: batch}))
        return openvino.convert_model(exported)


def quantize(graph: Any, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """Quantize weights and activations to 8 bits statically.

    `batches` of (x, embedding) determine the ranges of the activations. The first and the last convolution stay float,
    as is usual: they have a thousandth of the weights and process the image itself.
    NNCF's model type `transformer` halves the error of both families (docs/decisions).
    """
    import nncf

    with _quiet():
        convolutions = [node.get_friendly_name() for node in graph.get_ordered_ops() if _type(node) in CONVOLUTIONS]
        return nncf.quantize(
            graph,
            nncf.Dataset([tuple(part.numpy() for part in batch) for batch in batches]),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(
                types=FLOAT_OPERATIONS, names=[convolutions[0], convolutions[-1]], validate=False
            ),
        )


def to_tensors(graph: Any) -> dict[str, torch.Tensor]:
    """Return the graph as uint8 (bytes,): its description (XML, deflated) and its constants."""
    import openvino

    graph = graph.clone()
    _number(graph)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "graph.xml")
        openvino.save_model(graph, path, compress_to_fp16=False)
        parts = {"graph.xml": zlib.compress(path.read_bytes(), 9), "graph.bin": path.with_suffix(".bin").read_bytes()}
    return {name: torch.frombuffer(bytearray(part), dtype=torch.uint8) for name, part in parts.items()}


def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return the graph that `to_tensors` wrote.

    Raises:
        UserError: OpenVINO cannot read it.
    """
    import openvino

    try:
        inflate = zlib.decompressobj()
        description = inflate.decompress(tensors["graph.xml"].numpy().tobytes(), MAX_INFLATED_BYTES)
        constants = openvino.Tensor(tensors["graph.bin"].numpy().copy())
        return openvino.Core().read_model(description, constants)
    except (KeyError, RuntimeError, zlib.error) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"this version of OpenVINO cannot read the model's graph ({first}): delete the file and run again"
        ) from None


def _number(graph: Any) -> None:
    """Name nodes by their position: OpenVINO's default names count all nodes created by the process."""
    graph.set_friendly_name("body")
    for position, node in enumerate(graph.get_ordered_ops()):
        node.set_friendly_name(f"{_type(node)}_{position}")


def _type(node: Any) -> str:
    name: str = node.get_type_name()
    return name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress and advice of torch.export and NNCF."""
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
