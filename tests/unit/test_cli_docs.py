"""docs/cli.md: every command on it runs, and every command and exit code is on it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clifolders
import pandas as pd
import pytest
import torch
from PIL import Image

import slimdiff
from slimdiff.analysis.columns import COLUMNS
from slimdiff.cli import app, doctor, run
from slimdiff.data import mnist
from slimdiff.errors import UserError
from slimdiff.inference import export
from slimdiff.report.figures import style

Command = Callable[..., tuple[int, str, str]]
TEXT = (clifolders.REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
LINES = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]
NAMES = [command.name for command in app.app.registered_commands]
TERMINAL_ONLY = "slimdiff status --watch"  # has its own test


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with two cells, and one for `renoise`."""
    root = clifolders.write_clone(tmp_path_factory.mktemp("docs") / "clone")
    clifolders.write_tuned(root)
    return root


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it without Snakemake, servers, ONNX export and drawn figures, which have other tests."""
    root = Path(shutil.copytree(finished, tmp_path / "clone", symlinks=True))
    (root / "my.yaml").write_text("sampling: {n_samples: 500}\n", encoding="utf-8")
    monkeypatch.chdir(root)
    monkeypatch.setattr(os, "execv", lambda program, command: None)
    monkeypatch.setattr(run, "count_gpus", lambda: 0)
    monkeypatch.setattr(mnist, "url_exists", lambda url: True)
    monkeypatch.setattr(doctor, "count_gpus", lambda: 0)
    monkeypatch.setattr(export, "write_onnx", fake_onnx)
    monkeypatch.setattr(style, "save_all", lambda chart, folder, name: None)
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    return root


def fake_onnx(path: Path, loaded: Any) -> dict[str, Any]:
    path.touch()
    return {**export.describe(loaded, []), "max_difference": 0.0}


@pytest.mark.parametrize("line", [line for line in LINES if line != TERMINAL_ONLY and "completion" not in line])
def test_every_command_of_the_page_runs(here: Path, command: Command, line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "slimdiff"
    code, out, err = command(*arguments)
    assert code == 0, err
    assert out or arguments[0] == "run"
    if "--out" in arguments:
        made = Path(arguments[arguments.index("--out") + 1])
        assert made.is_file() or any((made / name).is_file() for name in ("report.html", "claims.json"))
        if made.suffix == ".png":
            Image.open(made).verify()


def test_the_page_has_every_command() -> None:
    assert {shlex.split(line)[1] for line in LINES if "completion" not in line} == set(NAMES)
    assert TERMINAL_ONLY in LINES


def test_the_page_has_the_exit_codes() -> None:
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)]
    assert codes == [0, app.FAILED, app.USAGE, app.INTERRUPTED]


@pytest.mark.parametrize("name", NAMES)
def test_help(command: Command, name: str) -> None:
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"Usage: slimdiff {name}" in out
    assert "\x1b[" not in out


def test_help_lists_every_command(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for name in NAMES:
        assert re.search(rf"^  {name} +\S", out, re.MULTILINE)
    assert command() == (app.USAGE, out, "")  # no arguments: the same output
    assert command("--version")[1] == f"slimdiff {slimdiff.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("stats",), "No such command 'stats'. Did you mean 'status'? (see `slimdiff --help`)"),
        (("--jsno",), "--jsno"),
        (("show",), "Missing argument 'CELL'"),
        (("show", "a", "b"), "b"),
        (("sample", "x", "--out", "a.png", "--n", "many"), "--n"),
        *(((name, "--no-such-option"), f"`slimdiff {name} --help`") for name in NAMES),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    command: Command, arguments: tuple[str, ...], part: str
) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (app.USAGE, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert part in err


def test_an_operating_system_error_is_one_line(here: Path, command: Command) -> None:
    """The output's parent folder is a file."""
    Path("taken").touch()
    code, _, err = command("compare", *clifolders.REAL, "--out", "taken/both.png")
    assert code == app.FAILED
    assert err.startswith("error: ") and "taken" in err and err.count("\n") == 1


def test_ctrl_c_is_exit_code_130(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_safetensors", interrupted)
    code, _, err = command("export", clifolders.REAL[0], "--to", "safetensors", "--out", "x.safetensors")
    assert code == app.INTERRUPTED
    assert "Traceback" not in err


def process(*arguments: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "slimdiff.cli", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(Path(app.__file__).parents[2]), "PATH": os.defpath, "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_closed_pipe_is_not_an_error(finished: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m slimdiff.cli show {clifolders.REAL[0]} | true"
    environment = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2])}
    done = subprocess.run(["sh", "-c", command], cwd=finished, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("slimdiff sh", {"show"}),
        ("slimdiff show mnist/ddpm/l", {"mnist/ddpm/l1-30/seed0"}),
        ("slimdiff show ", {*clifolders.REAL, clifolders.TUNED}),
        ("slimdiff run sm", {"smoke"}),
        ("slimdiff export x --to o", {"onnx"}),
    ],
)
def test_the_shell_completes(finished: Path, words: str, expected: set[str]) -> None:
    done = process(
        folder=finished,
        _SLIMDIFF_COMPLETE="complete_bash",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert set(done.stdout.split()) == expected, done.stderr


def test_completion_is_offered(finished: Path) -> None:
    done = process("--show-completion", "bash", folder=finished, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0, done.stderr
    assert "_SLIMDIFF_COMPLETE=complete_bash" in done.stdout


# --- the public API


def test_read_matrix(here: Path) -> None:
    frame = slimdiff.read_matrix()
    assert isinstance(frame, pd.DataFrame)
    assert frame["fid_indomain"].tolist() == [10.0, 11.0]
    assert frame.attrs["units"] == {column.name: column.unit for column in COLUMNS if column.unit}
    assert frame.attrs["units"]["size_gzip_bytes"] == "bytes"
    assert frame.attrs["provenance"] == {"slimdiff": "test"}
    assert slimdiff.read_matrix(here / "results" / "matrix.parquet").equals(frame)
    with pytest.raises(UserError, match=r"absent\.parquet does not exist"):
        slimdiff.read_matrix("absent.parquet")


def test_python_as_the_page_shows_it(here: Path) -> None:
    """The code block runs unchanged; its images have the size of the small model's."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(block, names)
    assert list(names["matrix"]["optimization"]) == ["baseline", "l1-30"]
    assert names["images"].shape == (16, 1, 16, 16)
    assert names["images"].dtype == torch.uint8


def test_importing_the_package_loads_nothing_else() -> None:
    script = "import sys, slimdiff; assert slimdiff.read_matrix; assert not {'torch', 'pandas'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)
