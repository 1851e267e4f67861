"""`slimdiff doctor`: check whether this machine can run the workflow."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
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
from slimdiff.cli.cells import RESULTS, Results
from slimdiff.cli.config import Configs, Presets, cells_of, read_config, sources
from slimdiff.cli.console import console, table
from slimdiff.cli.run import count_gpus, find_root
from slimdiff.config.lookup import plugin_catalog
from slimdiff.errors import UserError
from slimdiff.io.folders import existing
from slimdiff.io.text import size

OK, NOTE, PROBLEM = "ok", "note", "problem"
STYLES = {OK: "green", NOTE: "yellow", PROBLEM: "bold red"}
TEXT_WIDTH = 100  # characters per line
SCHEMA = Path("workflow/schemas/config.schema.yaml")  # in a clone
DISK_BYTES = 1 << 30  # more than twice the need of the default run
EXTRAS = {
    "export": "slimdiff export --to onnx",
    "engines": "engine: openvino, engine: onnxruntime",
    "gpu": "profile: energy and processes of a GPU",
}  # extra → features that need it
REQUIREMENT = re.compile(r"([\w.-]+)\s*>=\s*([\d.]+)")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    name: str
    state: str  # ok, note, problem
    text: str
    fix: str = ""


def doctor(
    presets: Presets = None,
    results: Results = RESULTS,
    config: Configs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Check whether a run is possible here.

    Checks versions, devices, data and disk in a few seconds, and downloads and writes nothing. Exits with 1 and
    a fix for each problem if a run is impossible.
    """
    findings = []
    start, results = Path.cwd(), results.absolute()
    named = [Path(name).absolute() if Path(name).is_file() else name for name in presets or ()]
    configs = [path.absolute() for path in config or ()]
    with console().status("checking", spinner="line"):
        for part in (packages(), extras(), devices(), workflow(start), disk(results), folders()):
            findings += list(part)
        if any(finding.name == "workflow" and finding.state == OK for finding in findings):
            with contextlib.chdir(find_root(start)):  # paths in a config are relative to the clone
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
    """Check Python, slimdiff, and the required packages against their oldest supported versions."""
    yield Finding("python", OK, f"{platform.python_version()}, {sys.executable}")
    yield Finding("slimdiff", OK, __version__)
    minimum = requirements()
    installed = {name: _version(name) for name in minimum}
    wrong = {name for name, version in installed.items() if not version or _numbers(version) < _numbers(minimum[name])}
    for name in sorted(wrong):
        text = f"{installed[name]} is older than {minimum[name]}" if installed[name] else "not installed"
        fix = f"python -m pip install '{name}>={minimum[name]}', or `make venv` in the clone"
        yield Finding(name, PROBLEM, text, fix)
    yield Finding("packages", OK, ", ".join(f"{name} {installed[name]}" for name in minimum if name not in wrong))


def requirements(extra: str = "") -> dict[str, str]:
    """Return package → oldest supported version, for slimdiff's requirements or one of its extras."""
    pyproject = Path(__file__).parents[4] / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    else:
        declared = importlib.metadata.requires("slimdiff") or []
        lines = [line for line in declared if (f'extra == "{extra}"' in line if extra else "extra ==" not in line)]
    matches = (REQUIREMENT.match(line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def extras() -> Iterator[Finding]:
    """Check the optional packages."""
    for extra, command in EXTRAS.items():
        if extra == "gpu" and not count_gpus():
            continue
        missing = [name for name in requirements(extra) if _version(name) is None]
        if missing:
            text = f"`{command}` needs {', '.join(missing)}"
            yield Finding(f"extra {extra}", NOTE, text, f"python -m pip install {' '.join(missing)}")
        else:
            yield Finding(f"extra {extra}", OK, f"`{command}` works")


def devices() -> Iterator[Finding]:
    """Check the devices and engines that run the networks, and their precisions."""
    try:
        import torch

        from slimdiff.runtime.devices import describe_device, find_compiler, resolve_precision
    except (ImportError, OSError) as error:
        yield Finding(
            "torch", PROBLEM, f"cannot be loaded: {error}", "reinstall it: `make venv` sets up all that is needed"
        )
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = describe_device(device, torch.get_num_threads())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", OK, f"{machine['cpu_model']}, {cores} cores, {machine['threads']} threads")
    if machine["gpu_model"]:
        yield Finding("gpu", OK, f"{machine['gpu_model']}, CUDA {torch.version.cuda}")
    elif count_gpus():
        text = f"nvidia-smi lists one, but torch {torch.__version__} cannot use it"
        yield Finding("gpu", NOTE, text, "install a build of torch that fits the driver's CUDA version")
    else:
        yield Finding("gpu", OK, "none: jobs run on the CPU")
    auto = resolve_precision(device, "auto")
    speed = "faster in it" if auto == "bfloat16" else "not faster in it"
    compilers = {"g++ or clang++": find_compiler(torch.device("cpu"))}  # compress compiles for it
    if device.type == "cuda":
        compilers["gcc or clang"] = find_compiler(device)
    if missing := [names for names, path in compilers.items() if path is None]:
        text = f"`engine: torch-compile` needs {' and '.join(missing)}"
        yield Finding("compiler", NOTE, text, "install one, for example apt install g++")
    else:
        yield Finding("compiler", OK, f"`engine: torch-compile` works with {', '.join(map(str, compilers.values()))}")
    yield Finding("bf16", OK, f"the {device.type} is {speed}: precision auto is {auto}")


def workflow(start: Path) -> Iterator[Finding]:
    """Check that the current folder belongs to a clone."""
    try:
        root = find_root(start)
    except UserError as error:
        yield Finding("workflow", PROBLEM, "not found", str(error))
        return
    if can_write(root / ".snakemake"):
        yield Finding("workflow", OK, str(root))
    else:
        text = f"{root / '.snakemake'} cannot be written, where Snakemake keeps what it knows about a run"
        yield Finding("workflow", PROBLEM, text, f"chmod u+w {root}, or clone into another folder")
    yield from environment(root)
    own = Path(__file__).parents[2]
    if own != root / "workflow" / "src":
        text = f"this command comes from {own}; jobs run the code of this clone"
        yield Finding("clone", NOTE, text, "`make venv` here installs the clone's own command")


def environment(root: Path) -> Iterator[Finding]:
    """Check that the clone's .venv was made in it: one that came with a copy runs the code of another clone."""
    python = root / ".venv" / "bin" / "python"
    if not python.parent.is_dir():
        return
    try:
        command = [str(python), "-I", "-c", "import os, slimdiff; print(os.path.dirname(slimdiff.__file__))"]
        printed = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
        place = os.fsdecode(printed.removesuffix(b"\n"))
    except (OSError, subprocess.SubprocessError):
        place = ""
    if place and Path(place).resolve() == (root / "workflow" / "src" / "slimdiff").resolve():
        yield Finding("environment", OK, str(python.parents[1]))
    else:
        stamped = (root / ".venv" / ".run").exists()  # by make, once slimdiff was installed
        text = f"{python.parents[1]} runs the code in {place}" if place else f"{python} cannot load slimdiff"
        fix = "it was made in another clone, or this one was moved: `make clean`, then `make venv`"
        yield Finding("environment", PROBLEM if place or stamped else NOTE, text, fix)


def configuration(presets: Sequence[str], configs: Sequence[Path], results: Path) -> Iterator[Finding]:
    """Check the configuration and its claims and, if they are valid, the availability of its data."""
    from slimdiff.analysis.claims import file
    from slimdiff.config.pretrained import fill_pretrained
    from slimdiff.config.space import space_problem
    from slimdiff.config.validate import validate

    try:
        paths = sources(presets, configs)
        schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
        config = fill_pretrained(read_config(paths))
        facts = validate(config, schema, {str(path): read_config([path]) for path in paths})
        file.read(config["claims"])
    except (UserError, OSError) as error:
        yield Finding("config", PROBLEM, str(error), "correct that file")
        return
    except (KeyError, TypeError, yaml.YAMLError) as error:
        text = f"cannot be checked: the clone's schema is of another version ({type(error).__name__}: {error})"
        yield Finding("config", PROBLEM, text, "`make venv` in the clone installs its version")
        return
    yield Finding("config", OK, " + ".join(map(str, paths)))
    if problem := space_problem(config, facts, results):
        yield Finding("space", PROBLEM, problem, "`slimdiff clean --orphans` lists what you can delete")
    yield from data(paths, results)


def disk(results: Path) -> Iterator[Finding]:
    """Check that results can be written and that the disk has room."""
    place = existing(results)
    if not os.access(place, os.W_OK):
        yield Finding("results", PROBLEM, f"{place} is read-only", f"chmod u+w {place}, or run elsewhere")
        return
    free = shutil.disk_usage(place).free
    if free < DISK_BYTES:
        text = f"{size(free)} free at {place}, less than {size(DISK_BYTES)}"
        yield Finding("disk", PROBLEM, text, "free disk space; `slimdiff clean --orphans` lists what you can delete")
    else:
        yield Finding("disk", OK, f"{size(free)} free at {place}")


def folders() -> Iterator[Finding]:
    """Check the folders outside of the clone that Snakemake writes to."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        yield Finding("temporary files", PROBLEM, str(error), "export TMPDIR=FOLDER, one that can be written")
    # A user whom the system does not know has no home: ~ stays, where Path raises.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    if not cache.is_absolute() or not can_write(cache):
        text = f"{cache} cannot be written; the profiles of this clone do without it, other Snakemake profiles do not"
        yield Finding("cache", NOTE, text, "export XDG_CACHE_HOME=FOLDER, one that can be written")


def can_write(folder: Path) -> bool:
    """Return whether files can be written into the folder, or it can be made."""
    place = next((place for place in (folder, *folder.parents) if place.exists()), None)
    return place is not None and place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def data(paths: Sequence[Path], results: Path) -> Iterator[Finding]:
    """Check that each data set of a valid configuration's matrix is available."""
    merged = read_config(paths)
    names = dict.fromkeys(cell.split("/")[0] for cell in cells_of(merged, paths))
    for name in names:
        if (results / "data" / name / "images.safetensors").is_file():
            yield Finding(f"data {name}", OK, f"already in {results / 'data' / name}")
            continue
        source = merged["datasets"][name]["source"]
        if source in plugin_catalog(merged).sources:
            yield Finding(f"data {name}", OK, f"from the plugin {plugin_catalog(merged).sources[source].path}")
            continue
        try:
            from slimdiff.data.sources import find

            available = find(name, merged["datasets"][name], Path(merged["data_dir"]))
        except (ImportError, OSError) as error:  # OSError: a library that torch needs is missing
            yield Finding(f"data {name}", PROBLEM, f"cannot be checked: {error}", "see the packages above")
            continue
        if available.place:
            yield Finding(f"data {name}", OK, f"available: {available.place}")
        else:
            yield Finding(f"data {name}", PROBLEM, available.problem, available.fix)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: 2.14.1+cpu → (2, 14, 1)."""
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
        if finding.fix:
            shown.add_row("", "", Text(f"→ {finding.fix}"))
    terminal.print(shown)
    terminal.print("\nready: start with `slimdiff run`" if possible else "\nnot ready: a run is not possible yet")
