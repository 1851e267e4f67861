"""The `slimdiff` command in the test's own process, and folders to run it in."""

import sys
from collections.abc import Callable
from pathlib import Path

import clifolders
import pytest

from slimdiff.cli import app

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results in the working directory, and a config.yaml with a matrix of four cells."""
    monkeypatch.chdir(tmp_path)
    return clifolders.write_results(tmp_path / "results")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory is a clone with two real small cells."""
    root = clifolders.write_clone(tmp_path / "clone")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process; return exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["slimdiff", *arguments])
        with pytest.raises(SystemExit) as stop:
            app.main()
        printed = capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else int(code is not None)), printed.out, printed.err

    return run
