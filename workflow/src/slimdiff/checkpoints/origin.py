"""A training's weights as a cell takes them: verified to be those that it is to be made from."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from slimdiff.checkpoints import identity
from slimdiff.checkpoints import weights as weightfile
from slimdiff.errors import UserError
from slimdiff.io.safetensors_header import read_header


def read(
    path: str | os.PathLike[str], weights: str, expected: Mapping[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The network with its `raw` or `ema` weights (CPU), and the header.

    Args:
        expected: values that the header must have (slimdiff.checkpoints.identity.check_training); None: any.

    Raises:
        UserError: the file is missing or damaged, or not the expected one.
    """
    header = read_header(path, "training")
    try:
        if expected is not None:
            identity.check_provenance(path, header, expected)
        return weightfile.read_training(path, weights)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({_line(error)}): delete it and run again to rebuild it") from None
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path} is damaged ({error}): delete it and run again to rebuild it") from None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
