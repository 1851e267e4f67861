"""slimdiff: how far can a diffusion model be slimmed before its images get worse?

Importing the package is cheap: torch and pandas are loaded when something that needs them is asked for.

- `load(path)`: a cell's model, ready to sample.
- `read_matrix(path)`: the table of results, with units in `attrs["units"]`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    import pandas as pd

    from slimdiff.checkpoint import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load", "read_matrix"]


def read_matrix(path: "str | os.PathLike[str]" = "results/matrix.parquet") -> "pd.DataFrame":
    """The matrix in `path`: a row for each cell; units in `attrs["units"]`, provenance in `attrs["provenance"]`.

    Raises:
        UserError: the file is missing, is no Parquet, or was written with other columns.
    """
    from slimdiff.analysis import results

    return results.read_matrix(path)


def __getattr__(name: str) -> Any:
    if name == "load":
        from slimdiff.checkpoint import load

        return load
    raise AttributeError(f"module 'slimdiff' has no attribute {name!r}")
