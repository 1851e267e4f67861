"""The parser of the stages: typed fields become options, and every rule passes options that its stage has."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from builders import SOURCE

from slimdiff.errors import UserError
from slimdiff.stages import command

RULES = SOURCE.parent / "rules"
STAGES = sorted(path.stem for path in (SOURCE / "slimdiff" / "stages").glob("[!_]*.py") if path.stem != "command")
CALL = re.compile(r"-m slimdiff\.stages\.(\w+)((?:[^\n]*\n\s+\")*[^\n]*)")


@dataclass(frozen=True, kw_only=True)
class Example(command.DeviceArguments):
    """Do something."""

    images: command.ImagesPath
    inputs: Annotated[tuple[Path, ...], "some files"] = ()
    cell: Annotated[dict[str, Any] | None, "JSON"] = None
    out_grid: Annotated[Path, "a picture"]


REQUIRED = ["--settings", '{"a": 1}', "--images", "x", "--out-grid", "y"]


def test_fields_become_typed_options() -> None:
    options = [*REQUIRED, "--threads", "3", "--inputs", "p", "q", "--cell", '{"seed": 2}']
    assert command.parse_arguments(Example, options) == Example(
        settings={"a": 1},
        threads=3,
        images=Path("x"),
        inputs=(Path("p"), Path("q")),
        cell={"seed": 2},
        out_grid=Path("y"),
    )
    assert command.parse_arguments(Example, REQUIRED).code == "unknown"


def test_a_missing_option_and_bad_json_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        command.parse_arguments(Example, REQUIRED[:-2])
    assert exit_code.value.code == 2
    assert "--out-grid" in capsys.readouterr().err
    with pytest.raises(UserError, match="--cell must be a JSON object, not list"):
        command.parse_arguments(Example, [*REQUIRED, "--cell", "[]"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_option_has_help(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"slimdiff.stages.{stage}")
    with pytest.raises(SystemExit) as exit_code:
        module.main(["--help"])
    assert exit_code.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " ".join(module.Arguments.__doc__.split()) in text
    for field in dataclasses.fields(module.Arguments):
        assert f"--{field.name.replace('_', '-')} " in text


@pytest.mark.parametrize("path", sorted(RULES.glob("*.smk")), ids=lambda path: path.name)
def test_rules_pass_the_options_of_their_stages(path: Path) -> None:
    for stage, rest in CALL.findall(path.read_text(encoding="utf-8")):
        fields = dataclasses.fields(importlib.import_module(f"slimdiff.stages.{stage}").Arguments)
        flags = set(re.findall(r"--([\w-]+)", rest))
        required = {field.name for field in fields if field.default is dataclasses.MISSING}
        assert {name.replace("_", "-") for name in required} <= flags <= {f.name.replace("_", "-") for f in fields}


STAGE = """
import time
from slimdiff.stages import command
def main(_):
    block, end = bytes(300_000_000), time.process_time() + 0.5
    while time.process_time() < end:
        pass
    time.sleep(0.5)
command.run(main)
"""


def test_a_stage_records_what_the_kernel_says_that_it_used(tmp_path: Path) -> None:
    record, started = tmp_path / "new" / "used.jsonl", time.monotonic()
    command_line = [sys.executable, "-c", STAGE, "--usage", str(record)]
    process = subprocess.Popen(command_line, env={**os.environ, "PYTHONPATH": str(SOURCE)})
    _, status, expected = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    assert status == 0
    used = json.loads(record.read_text(encoding="utf-8"))
    assert used["cpu_time"] == pytest.approx(expected.ru_utime + expected.ru_stime, abs=0.2)
    assert used["cpu_time"] + 0.4 < used["s"] <= seconds + 0.02
    assert used["s"] > seconds - 0.5
    assert used["max_rss"] == pytest.approx(expected.ru_maxrss / 1024, rel=0.01)


def test_a_stage_that_fails_records_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["stage", "--usage", str(tmp_path / "used.jsonl")])

    def main(_: Sequence[str] | None) -> None:
        raise UserError("no")

    with pytest.raises(SystemExit):
        command.run(main)
    assert not (tmp_path / "used.jsonl").exists()
