"""The parser of the stages: typed fields become options, and every rule passes options that its stage has."""

import dataclasses
import importlib
import re
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
