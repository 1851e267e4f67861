"""A cell's file of samples, opened: what scoring and drawing both do before they read from it."""

import contextlib
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from slimdiff.errors import UserError

# What NumPy and zipfile raise where bits of an archive, of a member or of an array's header are not what was written.
DAMAGED = (
    *(OSError, EOFError, KeyError, ValueError, RuntimeError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The arrays in `path` by name (npz, no pickle); whatever goes wrong within the block is laid to the file.

    Raises:
        UserError: the file is missing, damaged, or not one of samples.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except DAMAGED as error:
        raise UserError(f"{path} is not a whole file of samples ({error}): delete it and run again") from None
