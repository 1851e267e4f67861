"""slimdiff: how far can a diffusion model be slimmed before its images get worse?

Importing the package is cheap: torch and pandas are loaded when something that needs them is asked for.

- `load(path)`: a cell's model, ready to sample: `.sample(n, …)`, `.network`, `.settings`.
- `read_matrix(path)`: the table of results, with units in `attrs["units"]`.
"""

from typing import TYPE_CHECKING

from slimdiff.version import __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import pandas as pd
    import torch

    from slimdiff.inference.model import LoadedModel

__all__ = ["__version__", "load", "read_matrix"]


def read_matrix(path: "str | os.PathLike[str]" = "results/matrix.parquet") -> "pd.DataFrame":
    """Read a run's results: one row per cell.

    `attrs["units"]` maps columns to units and `attrs["provenance"]` holds code, config, machine, versions and date; both
    are plain dicts.

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
) -> "LoadedModel":
    """The model in a cell's model.safetensors, in evaluation mode on `device`.

    Its `sample(n, labels=…, sampler=…, steps=…, guidance=…, seed=…)` draws images (uint8, N C H W), `network` is the
    torch module, `settings` the file's header: model, training, dataset, steps, sampler, seed, status and so on.

    Args:
        plugins: files whose families and steps the model was made with; they are run, so name only those you trust.
        cache: folder where compilers keep what they made for other processes; None: where they do so by themselves.

    Raises:
        UserError: the file is missing, damaged, or no model; or it needs a plugin that is not among them.
    """
    if plugins:
        from slimdiff.plugins import loading

        loading.load(plugins)
    from slimdiff.inference import model

    return model.load(path, device, cache)
