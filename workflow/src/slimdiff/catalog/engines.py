"""What runs a network, and in which precision: facts that configuration, rules and engines share.

Apart from the engines themselves (slimdiff.engines), since the rules must not import torch.

A recipe's `precision` is that of the network's weights and of the graph that the engine runs. A sampler's `precision`
is another thing: torch's autocast around float32 weights, which engine torch with precision fp32 alone can have. So one
of the two decides, never both.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRECISIONS = ("fp32", "bf16", "int8")
EXTRA = "engines"  # of pyproject.toml: what engines other than torch's own need


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine can do, and what must be installed for it."""

    precisions: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu", "cuda")
    modules: tuple[str, ...] = ()  # importable names, of the extra `engines`


ENGINES = {
    "torch": Engine(("fp32", "bf16")),
    "torch-compile": Engine(("fp32", "bf16")),
    "openvino": Engine(("fp32", "bf16", "int8"), ("cpu",), ("openvino", "nncf")),
    "onnxruntime": Engine(("fp32", "int8"), ("cpu",), ("onnxruntime", "onnx", "onnxscript")),
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a recipe's network is run."""

    engine: str
    precision: str  # of weights and graph: fp32, bf16, int8

    @property
    def plain(self) -> bool:
        """torch's own kernels one by one with float32 weights, in the precision that the sampler names."""
        return self.engine == "torch" and self.precision == "fp32"

    @property
    def needs_images(self) -> bool:
        """Whether the network is lowered to something else, which real images calibrate or are held against."""
        return not self.plain


def runtime_of(recipe: Mapping[str, Any]) -> Runtime:
    """The way that a recipe, or a checkpoint's header, names; torch in fp32 where it names none."""
    return Runtime(recipe.get("engine", "torch"), recipe.get("precision", "fp32"))


def allowed() -> str:
    """Every engine with its precisions, as messages list them."""
    return "; ".join(f"{engine} in {', '.join(runtime.precisions)}" for engine, runtime in ENGINES.items())


def missing_modules(engine: str) -> list[str]:
    """Packages that `engine` needs and that are not installed."""
    return [name for name in ENGINES[engine].modules if importlib.util.find_spec(name) is None]
