"""slimdiff: how far can a diffusion model be slimmed before its images get worse?

Importing the package is cheap: torch and pandas load when a function needs them.

- `load(path)`: a cell's model, ready to sample.
- `read_matrix(path)`: the table of results.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd
    import torch

    from slimdiff.inference.model import LoadedModel

__all__ = ["__version__", "load", "read_matrix"]

__version__ = "0.1.0"


def read_matrix(path: "str | os.PathLike[str]" = "results/matrix.parquet") -> "pd.DataFrame":
    """Read a run's results: one row per cell.

    `attrs["units"]` maps columns to units; `attrs["provenance"]` holds code, config, machine, versions and date.

    Raises:
        UserError: the file is missing or damaged, or has unknown columns or other types.
    """
    from slimdiff.analysis.matrix import read_matrix as read

    matrix = read(path)
    matrix.frame.attrs = {"units": dict(matrix.units), "provenance": dict(matrix.provenance)}
    return matrix.frame


def load(
    path: "str | os.PathLike[str]",
    device: "torch.device | str" = "cpu",
    plugins: "Sequence[str | os.PathLike[str]]" = (),
    cache: "str | os.PathLike[str] | None" = None,
    guide: "str | os.PathLike[str] | None" = None,
) -> "LoadedModel":
    """Load the model in a cell's model.safetensors or model.packed, in evaluation mode on `device`.

    `sample(n, classes=…, class_index=…, sampler=…, steps=…, guidance=…, seed=…)` returns images (uint8, N C H W),
    `network` is the torch module, and `settings` is the file's header: model, training, dataset, steps, sampler, seed,
    status and more.

    Args:
        plugins: Python files that the model was made with. They are executed, so name only files you trust.
        cache: folder in which compilers keep code for later processes; None: their default.
        guide: the model.safetensors of the recipe that the sampler's `guide` names; sampling needs it.

    Raises:
        UserError: the file is missing, damaged, not a model, or needs a plugin that is not given.
    """
    if plugins:
        from slimdiff.plugins import loading

        loading.load(plugins)
    from slimdiff.inference import model

    return model.load(path, device, cache, guide)
