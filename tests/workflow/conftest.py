"""Clones and finished runs for tests of the workflow."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from clones import SMOKE, clone, finish, with_stand_ins
from shared import once


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a finished run of config/smoke.yaml, with stub stages."""
    return once(tmp_path_factory, "stood-in", lambda folder: finish(with_stand_ins(clone(folder)), *SMOKE))


@pytest.fixture
def stood_in(tmp_path: Path) -> Path:
    """A fresh clone with stub stages that take no time."""
    return with_stand_ins(clone(tmp_path / "slimdiff"))


@pytest.fixture
def tree(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` to edit, with dates preserved as by `cp -a`."""
    return Path(shutil.copytree(finished, tmp_path / "slimdiff"))


@pytest.fixture
def edit(tree: Path) -> Callable[[str, str, str], None]:
    """Replace the only occurrence of a text in a file of `tree`."""

    def replace(name: str, old: str, new: str) -> None:
        path = tree / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {name}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    return replace
