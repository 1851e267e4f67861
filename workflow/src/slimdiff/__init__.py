"""slimdiff: how far can a diffusion model be slimmed before its images get worse?

Importing the package is cheap: torch is loaded when something that needs it is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimdiff.checkpoint import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from slimdiff.checkpoint import load

        return load
    raise AttributeError(f"module 'slimdiff' has no attribute {name!r}")
