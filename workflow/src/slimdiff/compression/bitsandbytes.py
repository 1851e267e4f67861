"""bitsandbytes where it is needed: importing it takes four seconds of CPU time, more than most jobs' own work.

Without its advice about an optional package (`kernels`) that would fetch code from a hub: slimdiff does not use that
path (compression/linears.py says why), and the line would stand at the top of every log.
"""

import logging
from types import ModuleType

from torch import nn


def bitsandbytes() -> ModuleType:
    """The package."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes as bnb

    return bnb


def is_quantized(module: nn.Module | None) -> bool:
    """Whether `module` is one of its layers."""
    return type(module).__module__.startswith("bitsandbytes.")
