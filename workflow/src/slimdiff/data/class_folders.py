"""The class folders of a data set of image files: names alone, without torch and without opening a file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.errors import UserError
from slimdiff.io.text import comparable, one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Folders that a system adds between those of the user, in small letters → where they come from.
FOREIGN = {
    "__macosx": "what a Mac adds to zip archives",
    "network trash folder": "the trash of a Mac on a server",
    "temporary items": "what a Mac adds to a server",
    "@eadir": "what a Synology server adds",
    "@tmp": "what a Synology server adds",
    "#recycle": "the recycle bin of a Synology server",
    "#snapshot": "what a Synology server adds",
    "@recycle": "the recycle bin of a QNAP server",
    "@recently-snapshot": "what a QNAP server adds",
    "$recycle.bin": "the recycle bin of Windows",
    "recycler": "the recycle bin of Windows",
    "recycled": "the recycle bin of Windows",
    "found.000": "what Windows adds to a drive",
    "system volume information": "what Windows adds to a drive",
    "lost+found": "what Linux adds to a drive",
    "__pycache__": "what Python adds to a folder of code",
}
MAX_NAMED = 12  # names in a message
MIN_FILES = 2  # of a class: one to train, one to test


@dataclass(frozen=True)
class ClassFolder:
    """A class: the folder of its files."""

    name: str
    files: tuple[Path, ...]  # sorted by the bytes of their names


def find(root: Path) -> list[ClassFolder]:
    """Return the classes in `root`, sorted by name, with their image files; hidden entries are ignored.

    Raises:
        UserError: `root` cannot be read, or holds fewer than two classes, a folder that a system adds, a file outside
            the class folders, a class whose name is not text or looks like another one, a class of fewer than two
            files, or a file that is not an image by its name. The message names no config key.
    """
    entries = _visible(root)
    names = [entry.name for entry in entries if entry.is_dir()]
    stray = next((entry.name for entry in entries if not entry.is_dir()), None)
    if stray is not None:
        raise UserError(f"{one_line(root / stray)} lies outside the class folders: move or delete it")
    if len(names) < 2:
        raise UserError(
            f"{one_line(root)} needs one subfolder of images per class, two or more; found {_listed(names) or 'none'}"
        )
    first: dict[str, str] = {}  # by what a reader sees
    for name in names:
        if origin := FOREIGN.get(name.lower()):
            raise UserError(
                f"{one_line(root)} holds the class folders {_listed(names)}, and {name} is {origin}: delete it"
            )
        if (other := first.setdefault(comparable(_text(root, name)), name)) != name:
            raise UserError(
                f"the class folders {other!a} and {name!a} in {one_line(root)} have names that look alike: rename one"
            )
    return [ClassFolder(_text(root, name), _files(root / name)) for name in names]


def count_test(n: int, test_fraction: float) -> int:
    """Return how many of the `n` files of a class, 2 or more, are test images; neither side is empty."""
    return min(max(1, round(test_fraction * n)), n - 1)


def _listed(names: Sequence[str]) -> str:
    """Return quoted names for a message, at most MAX_NAMED of them."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return one_line(", ".join(f"'{name}'" for name in names[:MAX_NAMED])) + more


def _text(root: Path, name: str) -> str:
    """Return the folder's name as the text that results show, the same in every locale."""
    try:
        text = os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or not text:
        raise UserError(
            f"the class folder {os.fsencode(name)!r} in {one_line(root)} has a name that is not UTF-8 text on one "
            "line: rename it"
        )
    return text


def _files(folder: Path) -> tuple[Path, ...]:
    entries = _visible(folder)
    for entry in entries:
        if not entry.is_file() or not entry.name.lower().endswith(SUFFIXES):
            raise UserError(
                f"{one_line(entry.path)} is not an image file; allowed: {', '.join(SUFFIXES)}. Move or delete it"
            )
    if len(entries) < MIN_FILES:
        raise UserError(
            f"class folder {one_line(folder)} holds {len(entries)} image files; it needs one to train and one to test"
        )
    return tuple(Path(entry.path) for entry in entries)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in `folder`, hidden entries left out, sorted by the bytes of the names."""
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"{one_line(folder)} cannot be read ({error.strerror}): correct its path or rights") from None
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))
