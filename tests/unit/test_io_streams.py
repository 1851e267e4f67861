"""Output for terminals and locales that lack characters."""

import io
import os
import subprocess
import sys

import pytest
from builders import SOURCE

from slimdiff.cli import app
from slimdiff.io.streams import make_tolerant

TEXT = "a → 2 × 3 – 4 … −5 Ж \udce9"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "a → 2 × 3 – 4 … −5 Ж \\udce9"),
        ("iso8859-1", "a -> 2 × 3 - 4 ... -5 \\u0416 \\udce9"),
        ("ascii", "a -> 2 x 3 - 4 ... -5 \\u0416 \\udce9"),
        ("koi8-r", "a -> 2 x 3 - 4 ... -5 Ж \\udce9"),
        ("shift_jis", "a → 2 × 3 - 4 … −5 Ж \\udce9"),
    ],
)
def test_characters_that_a_stream_lacks_become_plain_ones(encoding: str, shown: str) -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding)
    make_tolerant(stream)
    print(TEXT, file=stream, end="", flush=True)
    assert content.getvalue().decode(encoding) == shown


def test_a_stream_without_an_encoding_stays_as_it_is() -> None:
    stream = io.StringIO()
    make_tolerant(stream)
    print(TEXT, file=stream, end="")
    assert stream.getvalue() == TEXT


@pytest.mark.parametrize("encoding", ["iso8859-1", "ascii", "cp437", "utf-8"])
def test_the_command_and_its_errors(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrow of a fix, rich's boxes in the help, and a preset whose name is no text."""
    for arguments in (["doctor", "absent→"], ["run", "\udce9"], ["--help"]):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "argv", ["slimdiff", *arguments])
            with pytest.raises(SystemExit) as stop:
                app.main()
        assert (stop.value.code == 0) == (arguments == ["--help"])
        shown = [stream.buffer.getvalue().decode(encoding) for stream in (out, err) if stream.flush() is None]
        assert any(shown)


@pytest.mark.parametrize("arguments", [["slimdiff.cli", "run", "\udce9"], ["slimdiff.stages.row", "--cell", "Ж"]])
def test_a_process_of_an_ascii_locale(arguments: list[str]) -> None:
    """For real: its standard error and its command line are bytes."""
    command = [sys.executable, "-m", *arguments, *(["--out", "Ж"] if "row" in arguments[0] else [])]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)} | dict.fromkeys(("PYTHONUTF8", "PYTHONCOERCECLOCALE"), "0")
    done = subprocess.run(command, env=environment | {"LC_ALL": "C"}, capture_output=True)
    assert done.returncode in (1, 2)
    assert done.stderr and done.stderr.isascii()
    assert b"Traceback" not in done.stderr
