"""What a stage says about its failure, and what the scheduler makes of it."""

import http.client
import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import SOURCE

from slimdiff import errors
from slimdiff.runtime import retries
from slimdiff.stages import command

FOR_GOOD = [
    *(errors.UserError, ValueError, KeyError, ZeroDivisionError, AssertionError, TypeError, AttributeError, NameError),
    *(ImportError, ModuleNotFoundError, SyntaxError, NotImplementedError, RecursionError, EOFError),
    *(zlib.error, struct.error, pickle.UnpicklingError),  # a damaged file, whichever library reads it
]
PASSING = [
    *(errors.TransientError, OSError, FileNotFoundError, PermissionError, TimeoutError, ConnectionResetError),
    *(RuntimeError, MemoryError, http.client.IncompleteRead, subprocess.SubprocessError, KeyboardInterrupt),
]


@pytest.mark.parametrize("kind", [*FOR_GOOD, *PASSING])
def test_a_stage_says_whether_another_try_could_succeed(
    kind: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line before the error, which stays the last one of the log."""

    def main(argv: object) -> None:
        raise kind("as planned")

    with pytest.raises((SystemExit, kind)) as caught:
        command.run(main)
    printed = capsys.readouterr().err.splitlines()
    assert (retries.FINAL in printed) == (kind in FOR_GOOD)
    expected = issubclass(kind, errors.UserError | OSError)
    assert isinstance(caught.value, SystemExit) == expected
    if expected:
        assert caught.value.code == 1
        assert printed[-1] == "error: as planned"


class Job(SimpleNamespace):
    """What the scheduler asks of a job of Snakemake's."""

    log: list[Path]
    jobs: list[Any]

    def is_group(self) -> bool:
        return bool(self.jobs)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("text", "age_s", "attempt"),
    [
        (f"step 1\n{retries.FINAL}\nerror: x\n", 0, 4),
        (f"{retries.FINAL}\nTraceback\n" + "  File\n" * 500 + "ValueError\n", 0, 4),
        ("step 1\nerror: x\n", 0, 1),
        (f"step 1, {retries.FINAL}\n", 0, 1),
        (f"{retries.FINAL}\nerror: x\n", 60, 1),  # of an earlier run: this one's job did not even begin
        (None, 0, 1),
        ("\xff\x00" * 99_999, 0, 1),
    ],
)
def test_a_failure_for_good_counts_as_the_last_try(
    tmp_path: Path, text: str | None, age_s: int, attempt: int, grouped: bool
) -> None:
    log, since = tmp_path / "job.log", 1e9
    if text is not None:
        log.write_text(text, encoding="latin-1")
        os.utime(log, (since - age_s, since - age_s))
    job = Job(log=[log], jobs=[], attempt=1, restart_times=3)
    if grouped:
        job = Job(jobs=[Job(log=[tmp_path / "other.log"], jobs=[]), job], attempt=1, restart_times=3)
    reported: list[Job] = []
    scheduler = SimpleNamespace(error_callback=reported.append)
    retries.keep_for_passing_failures(scheduler, since)
    scheduler.error_callback(job)
    assert reported == [job]
    assert job.attempt == attempt


def test_a_real_stage_that_with_invalid_settings_is_final(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("")
    command_line = [
        sys.executable,
        "-m",
        "slimdiff.stages.data",
        "--settings",
        json.dumps({"name": "x", "source": "y"}),
    ]
    done = subprocess.run(
        [*command_line, "--data-dir", tmp_path, "--out", tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == retries.FINAL
    assert done.stderr.splitlines()[1].startswith("error: datasets.x.source is 'y'")
