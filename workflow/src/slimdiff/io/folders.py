"""What lies in a data set's folder, seen without opening a file: the rules hold it against what was read before.

Links that lead out of the folder are refused here, before any job: a folder from somebody else must not bring a file of
this machine into the images, and from there into results that are passed on.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from slimdiff.errors import UserError
from slimdiff.io.text import one_line


def listing(folder: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Names below `folder`, from there, and their sizes in bytes, in order.

    Raises:
        UserError: a link leads out of the folder or nowhere, or something cannot be read; the message names it.
    """
    root = Path(folder)
    inside = Path(os.path.realpath(root))
    found = sorted((path.relative_to(root), size) for path, size in _below(root, inside))
    return [(str(path), size) for path, size in found]


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file that one may look at; False, too, for what no path can be."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def is_folder(path: str | os.PathLike[str]) -> bool:
    """As `is_file`, for folders."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def _below(folder: Path, inside: Path) -> Iterator[tuple[Path, int]]:
    """Everything below `folder`; folders behind links are named, and not entered."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
        for entry in found:
            path = Path(entry.path)
            if entry.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                raise UserError(
                    f"{one_line(path)} is a link that leads out of the folder; allowed: files and links within it; put "
                    "the file itself there"
                )
            yield path, entry.stat().st_size
            if entry.is_dir(follow_symlinks=False):
                yield from _below(path, inside)
    except OSError as error:
        place = one_line(error.filename or folder)
        raise UserError(f"{place} cannot be read ({error.strerror}); mend or delete it") from None
