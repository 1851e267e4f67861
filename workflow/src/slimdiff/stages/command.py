"""Command lines of the stages: a frozen dataclass for each, and one parser built from it.

A field is annotated with its type and its help: `images: Annotated[Path, "images.safetensors of the data set"]`. Its
name is the option's name, a field without a default is required, a tuple takes any number of values, and a dict takes a
JSON object. The docstring of the class is the stage's description.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin

from slimdiff.errors import UserError
from slimdiff.io import files
from slimdiff.io.settings import parse
from slimdiff.io.streams import make_tolerant
from slimdiff.runtime import usage
from slimdiff.runtime.retries import FINAL, is_final

EPILOG = "Runs by hand as well as from a rule. It writes its --out… paths and nothing else."
ImagesPath = Annotated[Path, "images.safetensors of the data set"]
Identity = Annotated[str | None, "identity that the cell's files must have; without it none is checked"]
GuidePath = Annotated[Path | None, "model.safetensors of the recipe that the sampler's `guide` names"]
CacheFolder = Annotated[Path | None, "folder for compiled code that other jobs can reuse"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Options of every stage."""

    code: Annotated[str, "fingerprint of the code, recorded in the outputs that hold measurements"] = "unknown"
    usage: Annotated[Path | None, "record of the process's time and memory, written after success"] = None


@dataclass(frozen=True, kw_only=True)
class SettingsArguments(Arguments):
    """Options of a stage with settings."""

    settings: Annotated[dict[str, Any], "settings of this stage as a JSON object"]


@dataclass(frozen=True, kw_only=True)
class DeviceArguments(SettingsArguments):
    """Options of a stage that runs on a device."""

    gpu: Annotated[int, "0: never use a GPU; 1: use one if present"] = 1
    threads: Annotated[int, "CPU threads"] = 1


@dataclass(frozen=True, kw_only=True)
class MatrixArguments(Arguments):
    """Options of a stage that presents the matrix."""

    matrix: Annotated[Path, "matrix.parquet"]
    paper: Annotated[Path, "the paper's numbers: paper_reference.csv"]
    findings: Annotated[Path, "findings.json"]
    claims: Annotated[Path, "claims.json"]
    cells: Annotated[Path, "folder of the cells and their samples"]
    trainings: Annotated[Path, "folder of the trainings and their records"]
    benchmarks: Annotated[Path, "folder of the jobs' times; may be missing"]


A = TypeVar("A", bound=Arguments)


def parse_arguments(cls: type[A], argv: Sequence[str] | None) -> A:
    """Parse `argv` (None: the command line) into the dataclass `cls`."""
    parser = argparse.ArgumentParser(description=cls.__doc__, epilog=EPILOG)
    for field in dataclasses.fields(cls):
        kind, text = get_args(field.type)
        flag = f"--{field.name.replace('_', '-')}"
        options: dict[str, Any] = {"required": field.default is dataclasses.MISSING, "help": text}
        if not options["required"]:
            options["default"] = field.default
            if field.default not in (None, ()):
                options["help"] += f" (default: {field.default})"
        options["nargs"] = "*" if get_origin(kind) is tuple else None
        parser.add_argument(flag, type=_converter(kind, flag), **options)
    values: dict[str, Any] = {}
    for name, value in vars(parser.parse_args(argv)).items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def run(main: Callable[[Sequence[str] | None], None]) -> NoReturn:
    """Call `main` and exit: 0, or 1 with one line for an error that the user can fix; others raise.

    The line before says if Snakemake need not try again (slimdiff.runtime.retries).
    """
    make_tolerant()
    try:
        main(None)
        if record := _usage_path():
            record.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(record, json.dumps(usage.read()) + "\n")
    except Exception as error:
        if is_final(error):
            print(FINAL, file=sys.stderr, flush=True)
        if not isinstance(error, UserError | OSError):  # OSError: a full disk or a read-only folder, with its name
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)
    sys.exit(0)


def _usage_path() -> Path | None:
    """Return the value of `--usage` on the command line, which the stage has parsed."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--usage", type=Path)
    path: Path | None = parser.parse_known_args()[0].usage
    return path


def _converter(kind: Any, flag: str) -> Callable[[str], Any]:
    """Return the function from an option's text to its value."""
    item = next((part for part in get_args(kind) if part not in (NoneType, ...)), kind)
    if get_origin(kind) is dict or get_origin(item) is dict:
        return _settings if flag == "--settings" else functools.partial(parse, where=flag)
    converter: Callable[[str], Any] = item
    return converter


def _settings(text: str) -> dict[str, object]:
    """Parse the settings and load the plugins that they name, since the stage's code relies on them."""
    try:
        settings = parse(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if settings.get("plugins"):
        from slimdiff.plugins import loading  # imports torch, which not every stage needs

        loading.load_used(settings["plugins"])
    return settings
