"""ONNX Runtime: lower a body from torch, quantize it with ONNX Runtime's tools, store the graph as a uint8 tensor."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from slimdiff.engines.network import Backend, Placement
from slimdiff.errors import UserError

INPUTS, OUTPUT = ("x", "embedding"), "F"
# Most of the arithmetic. Quantizing every operation gave an output error of 0.4, and invalid graphs (docs/decisions).
QUANTIZED_OPERATIONS = ["Conv", "ConvTranspose", "MatMul", "Gemm"]
PERCENTILE = 99.99  # percentile of the activations' range: outliers would coarsen all other values


class OnnxRuntime(Backend):
    """One session for every batch size."""

    fixed_batch = False

    def __init__(self, graph: bytes, placement: Placement) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = placement.threads, 1
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.set_denormal_as_zero", "1")  # like torch in every stage
        try:
            self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common class
            raise _unreadable(error) from None

    def prepare(self, x: torch.Tensor, embedding: torch.Tensor) -> None:
        """Do nothing: a session takes any batch size."""

    def __call__(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        inputs = dict(zip(INPUTS, (x.contiguous().numpy(), embedding.contiguous().numpy()), strict=True))
        return torch.from_numpy(np.ascontiguousarray(self.session.run([OUTPUT], inputs)[0]))


def lower(body: nn.Module, x: torch.Tensor, embedding: torch.Tensor) -> bytes:
    """Return the body as an ONNX graph in float32 for any batch size; `x` and `embedding` are a sample batch of two."""
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.onnx.export(
            body,
            (x, embedding),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch}, {0: batch}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return _without_origin(program.model_proto)


def quantize(graph: bytes, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> bytes:
    """Quantize weights (int8, per output channel) and activations (uint8) statically.

    `batches` of (x, embedding) determine the ranges of the activations. The first and the last convolution stay float,
    as is usual: they have a thousandth of the weights and process the image itself.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {n: part.numpy() for n, part in zip(INPUTS, batch, strict=True)}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("source", "prepared", "quantized"))
        source.write_bytes(graph)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        convolutions = [node.name for node in onnx.load(prepared).graph.node if node.op_type.startswith("Conv")]
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED_OPERATIONS,
            nodes_to_exclude=[convolutions[0], convolutions[-1]],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
        )
        return _without_origin(onnx.load(quantized))


def to_tensors(graph: bytes) -> dict[str, torch.Tensor]:
    """Return the graph as uint8 (bytes,)."""
    return {"graph.onnx": torch.frombuffer(bytearray(graph), dtype=torch.uint8)}


def from_tensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return the graph that `to_tensors` wrote.

    Raises:
        UserError: the tensor is not a graph, or the graph reads weights from other files, as slimdiff's never do.
    """
    import onnx

    try:
        graph = tensors["graph.onnx"].numpy().tobytes()
        program = onnx.load_model_from_string(graph)
    except Exception as error:  # protobuf's errors have no common class
        raise _unreadable(error) from None
    outside = next((tensor.name for tensor in _tensors(program) if tensor.external_data or tensor.data_location), None)
    if outside is not None:
        raise UserError(
            f"the model's graph reads the weights {outside!r} from another file; allowed: weights within the graph: do "
            "not use it, or fetch it again"
        )
    return graph


def _unreadable(error: Exception) -> UserError:
    """Return the error for a graph that onnx or ONNX Runtime cannot read."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"the model's graph is not ONNX, or this version of ONNX Runtime cannot read it ({first}): delete the file and "
        "run again"
    )


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor in a graph, at any depth: initializers, constants in nodes, branches, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


def _without_origin(program: Any) -> bytes:
    """Serialize a graph without traces of its origin, such as the paths of source files on every node."""
    for node in program.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*program.graph.value_info, *program.graph.input, *program.graph.output, *program.graph.initializer):
        del value.metadata_props[:]
    del program.metadata_props[:], program.graph.metadata_props[:]
    text: bytes = program.SerializeToString(deterministic=True)
    return text


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress and advice of exporter and quantizer."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
