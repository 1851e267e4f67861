"""`slimdiff doctor`: can this machine run the workflow, and with what?"""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.text import Text

from slimdiff import __version__
from slimdiff.cli.availability import find_data
from slimdiff.cli.cells import RESULTS, Results
from slimdiff.cli.config import Configs, Presets, cells_of, read_config, sources
from slimdiff.cli.console import console, size, table
from slimdiff.cli.run import count_gpus, find_root
from slimdiff.config.resolve import plugin_catalog
from slimdiff.errors import UserError

OK, NOTE, PROBLEM = "ok", "note", "problem"
STYLES = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}
TEXT_WIDTH = 100  # characters of a line that says what was found
SCHEMA = Path("workflow/schemas/config.schema.yaml")  # in a clone
DISK_BYTES = 1 << 30  # the default run leaves less than half of it
# Optional parts that a user, not a developer, may want, and what wants them.
EXTRAS = {"export": "slimdiff export --to onnx", "engines": "engine: openvino, engine: onnxruntime"}
REQUIREMENT = re.compile(r"([\w.-]+)\s*>=\s*([\d.]+)")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    name: str
    state: str  # ok, note, problem
    text: str
    way_out: str = ""


def doctor(
    presets: Presets = None,
    results: Results = RESULTS,
    config: Configs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Check whether a run is possible here.

    Versions, device, data, disk: exit code 0 if all is there, and if not 1, with what to do. Nothing is downloaded and
    nothing is written; it takes some seconds.
    """
    findings = []
    start, results = Path.cwd(), results.absolute()
    named = [Path(name).absolute() if Path(name).is_file() else name for name in presets or ()]
    configs = [path.absolute() for path in config or ()]
    with console().status("looking"):
        for part in (packages(), extras(), devices(), workflow(start), disk(results)):
            findings += list(part)
        if any(finding.name == "workflow" and finding.state == OK for finding in findings):
            with contextlib.chdir(find_root(start)):  # as a run does: what a configuration names lies there
                findings += list(configuration(list(map(str, named)), configs, results))
    possible = all(finding.state != PROBLEM for finding in findings)
    if as_json:
        versions = {name: _version(name) for extra in ("", *EXTRAS) for name in requirements(extra)}
        report = {"possible": possible, "findings": list(map(asdict, findings)), "versions": versions}
        print(json.dumps(report, indent=1))
    else:
        _print_findings(findings, possible)
    if not possible:
        raise typer.Exit(1)


def packages() -> Iterator[Finding]:
    """Python, slimdiff, and the packages that it needs, each against its oldest version that works."""
    yield Finding("python", OK, f"{platform.python_version()}, {sys.executable}")
    yield Finding("slimdiff", OK, __version__)
    needed = requirements()
    found = {name: _version(name) for name in needed}
    wrong = {name for name, version in found.items() if version is None or _numbers(version) < _numbers(needed[name])}
    for name in sorted(wrong):
        text = f"{found[name]} is older than {needed[name]}" if found[name] else "not installed"
        way_out = f"python -m pip install '{name}>={needed[name]}', or `make venv` in the clone"
        yield Finding(name, PROBLEM, text, way_out)
    yield Finding("packages", OK, ", ".join(f"{name} {found[name]}" for name in needed if name not in wrong))


def requirements(extra: str = "") -> dict[str, str]:
    """Package → oldest version, of the package itself or of one of its extras."""
    pyproject = Path(__file__).parents[4] / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    else:
        every = importlib.metadata.requires("slimdiff") or []
        lines = [line for line in every if (f'extra == "{extra}"' in line if extra else "extra ==" not in line)]
    matches = (REQUIREMENT.match(line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def extras() -> Iterator[Finding]:
    """What is optional, and which command wants it."""
    for extra, command in EXTRAS.items():
        missing = [name for name in requirements(extra) if _version(name) is None]
        if missing:
            text = f"without {', '.join(missing)}, which `{command}` needs"
            yield Finding(f"extra {extra}", NOTE, text, f"python -m pip install {' '.join(missing)}")
        else:
            yield Finding(f"extra {extra}", OK, f"`{command}` works")


def devices() -> Iterator[Finding]:
    """What would compute, and in which precision."""
    try:
        import torch

        from slimdiff.models import attention_avx512
        from slimdiff.runtime.devices import describe_device, has_amx, resolve_precision
    except (ImportError, OSError) as error:
        yield Finding(
            "torch", PROBLEM, f"cannot be loaded: {error}", "install it anew: `make venv` sets up all that is needed"
        )
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = describe_device(device, torch.get_num_threads())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", OK, f"{known['cpu_model']}, {cores} cores, {known['threads']} threads")
    if known["gpu_model"]:
        yield Finding("gpu", OK, f"{known['gpu_model']}, CUDA {torch.version.cuda}")
    elif count_gpus():
        text = f"nvidia-smi lists one, but torch {torch.__version__} cannot use it"
        yield Finding("gpu", NOTE, text, "install a build of torch for the driver's CUDA version")
    else:
        yield Finding("gpu", OK, "none: jobs run on the CPU")
    auto = resolve_precision(device, "auto")
    support = "supported" if auto == "bfloat16" else "not supported"
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler:
        yield Finding("compiler", OK, f"`engine: torch-compile` works with {compiler}")
    elif device.type == "cpu":
        text = "neither g++ nor clang++, which `engine: torch-compile` needs"
        yield Finding("compiler", NOTE, text, "install one, as in apt install g++")
    yield Finding("bf16", OK, f"{support} by the {device.type}'s instructions: precision auto is {auto}")
    if device.type == "cpu" and auto == "bfloat16" and not has_amx():
        why = attention_avx512.load()[1]
        text = (
            f"of large images takes two to three times as long as it could: {why}"
            if why
            else "of large images by our own kernel"
        )
        yield Finding("attention", NOTE if why else OK, text)


def workflow(start: Path) -> Iterator[Finding]:
    """Whether there is a workflow to run."""
    try:
        root = find_root(start)
    except UserError as error:
        yield Finding("workflow", PROBLEM, "not here", str(error))
        return
    yield Finding("workflow", OK, str(root))
    own = Path(__file__).parents[2]
    if own != root / "workflow" / "src":
        text = f"this command comes from {own}, and the jobs here run this clone's code"
        yield Finding("clone", NOTE, text, "`make venv` here sets up the command that belongs to them")


def configuration(presets: Sequence[str], configs: Sequence[Path], results: Path) -> Iterator[Finding]:
    """Whether the configuration is sound, and then whether its data can be had."""
    from slimdiff.config.validate import check

    try:
        paths = sources(presets, configs)
        schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
        check(read_config(paths), schema, {str(path): read_config([path]) for path in paths})
    except (UserError, OSError) as error:
        yield Finding("config", PROBLEM, str(error), "correct the file that is named")
        return
    except (KeyError, TypeError, yaml.YAMLError) as error:
        text = f"cannot be checked: the clone's schema is not this slimdiff's ({type(error).__name__}: {error})"
        yield Finding("config", PROBLEM, text, "`make venv` in the clone sets up what belongs to it")
        return
    yield Finding("config", OK, " + ".join(map(str, paths)))
    yield from data(paths, results)


def disk(results: Path) -> Iterator[Finding]:
    """Whether results can be written, and how much."""
    place = next(folder for folder in (results, *results.absolute().parents) if folder.is_dir())
    if not os.access(place, os.W_OK):
        yield Finding("results", PROBLEM, f"{place} cannot be written to", f"chmod u+w {place}, or run elsewhere")
        return
    free = shutil.disk_usage(place).free
    if free < DISK_BYTES:
        text = f"{size(free)} free at {place}, less than {size(DISK_BYTES)}"
        yield Finding("disk", PROBLEM, text, "make room, or see what `slimdiff clean --orphans` lists")
    else:
        yield Finding("disk", OK, f"{size(free)} free at {place}")


def data(paths: Sequence[Path], results: Path) -> Iterator[Finding]:
    """Whether each data set that the matrix of a sound configuration names can be had."""
    merged = read_config(paths)
    names = dict.fromkeys(cell.split("/")[0] for cell in cells_of(merged, paths))
    for name in names:
        if (results / "data" / name / "images.safetensors").is_file():
            yield Finding(f"data {name}", OK, f"read before, in {results / 'data' / name}")
            continue
        source = merged["datasets"][name]["source"]
        if source in plugin_catalog(merged).sources:
            yield Finding(f"data {name}", OK, f"comes with the plugin {plugin_catalog(merged).sources[source].path}")
            continue
        try:
            place, refusals = find_data(merged["datasets"][name], Path(merged["data_dir"]))
        except ImportError as error:
            yield Finding(f"data {name}", PROBLEM, f"cannot be looked for: {error}", "see the packages above")
            continue
        if place:
            yield Finding(f"data {name}", OK, place)
        else:
            *reasons, way_out = refusals
            yield Finding(f"data {name}", PROBLEM, "; ".join(reasons), way_out)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """2.14.1+cpu → (2, 14, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _print_findings(findings: Sequence[Finding], possible: bool) -> None:
    terminal = console()
    shown = table("", "", "")
    shown.show_header = False
    for column in shown.columns:
        column.justify = "left"
    for finding in findings:
        text = textwrap.fill(finding.text, TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
        shown.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, Text(text))
        if finding.way_out:
            shown.add_row("", "", Text(f"→ {finding.way_out}"))
    terminal.print(shown)
    terminal.print("\na run is possible here: `slimdiff run`" if possible else "\nno run is possible here yet")
