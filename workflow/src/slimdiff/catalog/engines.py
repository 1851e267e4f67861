"""Engines that run a network, and the precisions they support. Free of torch, as the rules must be.

A recipe's `precision` is that of the network's weights and of the graph that the engine runs. A sampler's `precision`
is torch's autocast around float32 weights, which only engine torch in fp32 has. The two never apply at once.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRECISIONS = ("fp32", "bf16", "int8")
EXTRA = "engines"  # extra of pyproject.toml with the packages of all engines but torch


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine supports, and the packages it needs."""

    precisions: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu", "cuda")
    modules: tuple[str, ...] = ()  # importable names of its packages


ENGINES = {
    "torch": Engine(("fp32", "bf16")),
    "torch-compile": Engine(("fp32", "bf16")),
    "openvino": Engine(("fp32", "bf16", "int8"), ("cpu",), ("openvino", "nncf")),
    "onnxruntime": Engine(("fp32", "int8"), ("cpu",), ("onnxruntime", "onnx", "onnxscript")),
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """The engine and precision of a recipe."""

    engine: str
    precision: str  # of weights and graph: fp32, bf16, int8

    @property
    def is_eager_fp32(self) -> bool:
        """Whether eager torch runs float32 weights, so that the sampler's `precision` applies."""
        return self.engine == "torch" and self.precision == "fp32"

    @property
    def needs_images(self) -> bool:
        """Whether real images calibrate the lowered network, or measure its error."""
        return not self.is_eager_fp32


def runtime_of(recipe: Mapping[str, Any]) -> Runtime:
    """Return the runtime that a recipe or a checkpoint's header names; torch in fp32 by default."""
    return Runtime(recipe.get("engine", "torch"), recipe.get("precision", "fp32"))


def list_engines() -> str:
    """Return every engine with its precisions, for messages."""
    return "; ".join(f"{name} in {', '.join(engine.precisions)}" for name, engine in ENGINES.items())


def missing_modules(engine: str) -> list[str]:
    """Return the modules that `engine` needs and that are not installed."""
    return [name for name in ENGINES[engine].modules if importlib.util.find_spec(name) is None]
