"""`slimdiff run`: run Snakemake with options for this machine."""

import codecs
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from slimdiff.cli.config import BASE, PRESETS, Presets, find_preset
from slimdiff.errors import UserError
from slimdiff.io import strict_yaml
from slimdiff.runtime import run_lock

PASSED_ON = "slimdiff.cli.run"  # context key of the arguments after --


class RunCommand(typer.core.TyperCommand):
    """A command that passes the arguments after `--` on to Snakemake."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Store the arguments after `--` in the context and parse the others."""
        if "--" in args:
            cut = args.index("--")
            ctx.meta[PASSED_ON] = args[cut + 1 :]
            args = args[:cut]
        return super().parse_args(ctx, args)


def run(
    context: typer.Context,
    presets: Presets = None,
    configfile: Annotated[
        list[Path] | None, typer.Option("--configfile", help="Overlay on top of the presets; repeatable.")
    ] = None,
    cores: Annotated[str, typer.Option("--cores", help="Number of CPU cores, or all.")] = "all",
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=0, help="Number of jobs that may use a GPU at once.", show_default="all GPUs"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only list the jobs that would run.")] = False,
) -> None:
    """Run the matrix of config.yaml and the presets.

    Makes only what is missing or outdated. Interrupt a run (Ctrl-C) at any time; the next run continues it. Arguments
    after -- go to Snakemake unchanged: slimdiff run smoke -- --forcerun score
    """
    if cores != "all" and not (cores.isdigit() and int(cores) > 0):
        raise typer.BadParameter(f"--cores is {cores!r}; allowed: a positive number, or all")
    root = find_root(Path.cwd())
    overlays = [find_preset(name, root / PRESETS) for name in presets or ()]
    for path in configfile or ():
        if not path.is_file():
            raise UserError(f"--configfile {path} does not exist")
        overlays.append(path)
    rest = context.meta.get(PASSED_ON, [])
    # Snakemake's own arguments can name targets that the active run does not touch.
    worker = None if dry_run or rest else run_lock.find_worker(root / ".snakemake")
    if worker:
        raise UserError(f"another run is active in {root} ({worker}): wait for it or stop it, then run again")
    for path in [root / BASE, *overlays]:  # Snakemake would execute a template's expressions
        if path.is_file():
            strict_yaml.read_config(path)
    arguments = snakemake_arguments(
        [Path(os.path.relpath(path, root)) for path in overlays],
        cores,
        count_gpus() if gpus is None else gpus,
        [*(["--dry-run"] if dry_run else []), *rest],
    )
    print(f"snakemake {shlex.join(arguments)}", file=sys.stderr, flush=True)
    os.environ |= utf8_mode()
    # Replace this process, so that Ctrl-C, signals and the exit code are Snakemake's own.
    os.chdir(root)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "snakemake", *arguments])


def snakemake_arguments(overlays: list[Path], cores: str, gpus: int, rest: list[str]) -> list[str]:
    """Return Snakemake's arguments; --cores precedes `rest`, since --configfile would swallow its first argument."""
    files = ["--configfile", *map(str, overlays)] if overlays else []
    return ["--resources", f"gpu={gpus}", *files, "--cores", cores, *rest]


def utf8_mode() -> dict[str, str]:
    """Return the environment in which a Python takes paths as UTF-8, and prints what this terminal can show."""
    terminal = codecs.lookup(sys.stderr.encoding).name
    output = {} if terminal == "utf-8" else {"PYTHONIOENCODING": f"{terminal}:backslashreplace"}
    return {"PYTHONUTF8": "1", **output}


def find_root(start: Path) -> Path:
    """Return the clone that holds `start`: the folder of the Snakefile.

    Raises:
        UserError: `start` is outside a clone.
    """
    for folder in (start, *start.parents):
        if is_root(folder):
            return folder
    own = Path(__file__).parents[4]
    target = f"cd {own}" if is_root(own) else "change to a clone of slimdiff's repository"
    raise UserError(f"{start} is not inside a clone, a folder with slimdiff's Snakefile: {target}")


def is_root(folder: Path) -> bool:
    """Return whether `folder` holds the workflow."""
    return (folder / "Snakefile").is_file() and (folder / "workflow" / "rules").is_dir()


def count_gpus() -> int:
    """Return the number of GPUs that nvidia-smi lists; 0 without nvidia-smi."""
    try:
        command = ["nvidia-smi", "--list-gpus"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len(result.stdout.splitlines()) if result.returncode == 0 else 0
