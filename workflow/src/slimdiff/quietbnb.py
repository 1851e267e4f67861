"""bitsandbytes, imported without its advice about an optional package (`kernels`) that would fetch code from a hub.

slimdiff does not use that path (compression/linears.py says why), and the line would stand at the top of every log.
"""

import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

import bitsandbytes as bnb  # noqa: E402

__all__ = ["bnb"]
